package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/secret"
)

// maxRoutes is the largest number of routes of a workspace.
const maxRoutes = 1000

// route is where the calls of one path prefix go.
type route struct {
	ID            string           `json:"name"`
	Provider      string           `json:"provider"`
	BaseURL       string           `json:"base_url"`
	HasCredential bool             `json:"has_credential"`
	Timeout       string           `json:"timeout"`
	IdleTimeout   string           `json:"idle_timeout"`
	Cost          cost             `json:"cost"`
	Weights       map[string]int64 `json:"weights"`
	Version       int64            `json:"version"`
	CreatedAt     time.Time        `json:"created_at"`
	UpdatedAt     time.Time        `json:"updated_at"`

	sealed        []byte
	timeout, idle time.Duration
}

// cost says how a call of a route is priced.
type cost struct {
	Mode string      `json:"mode"`
	USD  *money.Nano `json:"usd,omitempty"`
}

const (
	perToken   = "per_token"
	perRequest = "per_request"
)

const routeColumns = "id, provider, base_url, credential_sealed, timeout_us, idle_timeout_us, per_request_nano_usd, weights, version, created_at, updated_at"

func scanRoute(row pgx.CollectableRow) (route, error) {
	var r route
	var timeout, idle int64
	var nano *int64
	err := row.Scan(&r.ID, &r.Provider, &r.BaseURL, &r.sealed, &timeout, &idle, &nano, &r.Weights, &r.Version, &r.CreatedAt, &r.UpdatedAt)
	r.timeout, r.idle = time.Duration(timeout)*time.Microsecond, time.Duration(idle)*time.Microsecond
	r.Cost.Mode = perToken
	if nano != nil {
		usd := money.Nano(*nano)
		r.Cost = cost{Mode: perRequest, USD: &usd}
	}
	r.CreatedAt, r.UpdatedAt = r.CreatedAt.UTC(), r.UpdatedAt.UTC()
	r.show()
	return r, err
}

// show fills the fields that only the API's view has.
func (r *route) show() {
	r.HasCredential = len(r.sealed) > 0
	r.Timeout, r.IdleTimeout = r.timeout.String(), r.idle.String()
}

func (r route) perRequestNano() *int64 { return (*int64)(r.Cost.USD) }

// document returns the route as the policy holds it.
func (r route) document() *rateguardv1.Route {
	return &rateguardv1.Route{
		Id: r.ID, Provider: r.Provider, BaseUrl: r.BaseURL, CredentialSealed: r.sealed,
		TimeoutUs: r.timeout.Microseconds(), IdleTimeoutUs: r.idle.Microseconds(),
		PerRequestNanoUsd: r.perRequestNano(), Weights: r.Weights,
	}
}

// readPolicy builds the published document of a workspace from what the querier sees.
func readPolicy(ctx context.Context, q querier, w workspace) (*rateguardv1.WorkspacePolicy, error) {
	rows, err := q.Query(ctx, "SELECT "+routeColumns+" FROM control.routes WHERE workspace_id = $1 ORDER BY id", w.ID)
	if err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	routes, err := pgx.CollectRows(rows, scanRoute)
	if err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	return newPolicy(w, routes), nil
}

// newPolicy makes the document of a workspace from its routes, which are in the order of their ids.
func newPolicy(w workspace, routes []route) *rateguardv1.WorkspacePolicy {
	p := &rateguardv1.WorkspacePolicy{
		WorkspaceId: w.ID, Name: w.Name, Version: uint64(w.PolicyVersion), Deleted: w.DeletedAt != nil, //nolint:gosec // versions count from 1
	}
	if p.GetDeleted() {
		return p // nothing is routed any more, and credentials need not stay in the log
	}
	for _, r := range routes {
		p.Routes = append(p.Routes, r.document())
	}
	return p
}

// readAllRoutes returns the routes of every workspace, each in the order of their ids.
func readAllRoutes(ctx context.Context, q querier) (map[string][]route, error) {
	rows, err := q.Query(ctx, "SELECT workspace_id FROM control.routes ORDER BY workspace_id, id")
	if err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	if rows, err = q.Query(ctx, "SELECT "+routeColumns+" FROM control.routes ORDER BY workspace_id, id"); err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	routes, err := pgx.CollectRows(rows, scanRoute)
	if err != nil {
		return nil, fmt.Errorf("reading the routes: %w", err)
	}
	all := map[string][]route{}
	for i, owner := range owners { // one snapshot: the two lists go together
		all[owner] = append(all[owner], routes[i])
	}
	return all, nil
}

// readRoute returns a route; found is false where there is none.
func readRoute(ctx context.Context, q querier, ws, id string) (r route, found bool, err error) {
	rows, err := q.Query(ctx, "SELECT "+routeColumns+" FROM control.routes WHERE workspace_id = $1 AND id = $2", ws, id)
	if err != nil {
		return route{}, false, storeError("reading a route", err)
	}
	r, err = pgx.CollectExactlyOneRow(rows, scanRoute)
	if errors.Is(err, pgx.ErrNoRows) {
		return route{}, false, nil
	}
	if err != nil {
		return route{}, false, storeError("reading a route", err)
	}
	return r, true, nil
}

func (s *Server) listRoutes(ctx context.Context, c *call) (answer, error) {
	p, err := readPage(c.http.URL.Query())
	if err != nil {
		return answer{}, err
	}
	const query = "SELECT " + routeColumns + " FROM control.routes WHERE workspace_id = $1 AND id > $2 ORDER BY id LIMIT $3"
	rows, err := s.pool.Query(ctx, query, c.workspace(), p.after, p.limit+1)
	if err != nil {
		return answer{}, storeError("listing routes", err)
	}
	found, err := pgx.CollectRows(rows, scanRoute)
	if err != nil {
		return answer{}, storeError("listing routes", err)
	}
	return answer{status: http.StatusOK, body: newList(found, p, func(r route) string { return r.ID })}, nil
}

func (s *Server) getRoute(ctx context.Context, c *call) (answer, error) {
	r, found, err := readRoute(ctx, s.pool, c.workspace(), c.vars["route"])
	if err != nil {
		return answer{}, err
	}
	if !found {
		return answer{}, problem.Missing("route", c.vars["route"])
	}
	return answer{status: http.StatusOK, body: r, version: r.Version}, nil
}

func (s *Server) putRoute(ctx context.Context, c *call) (answer, error) {
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	spec := readRouteSpec(o, c.vars["route"])
	if err := o.done(); err != nil {
		return answer{}, err
	}
	cond, err := readCondition(c.http.Header)
	if err != nil {
		return answer{}, err
	}
	var result route
	status := http.StatusOK
	err = s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) error {
		old, found, err := readRoute(ctx, ch.tx, c.workspace(), spec.ID)
		if err != nil {
			return err
		}
		if err := cond.check(old.Version); err != nil {
			return err
		}
		if !found {
			status = http.StatusCreated
			if err := ch.roomForRoute(ctx); err != nil {
				return err
			}
		}
		result = spec.over(old, s.secretKey, c.workspace(), ch.now)
		if found && sameRoute(old, result) {
			result = old
			return nil
		}
		return ch.writeRoute(ctx, c.caller.actor(), old, &result, found)
	})
	if err != nil {
		return answer{}, err
	}
	a := answer{status: status, body: result, version: result.Version}
	if status == http.StatusCreated {
		a.location = "/v1/workspaces/" + c.workspace() + "/routes/" + result.ID
	}
	return a, nil
}

func (c *change) roomForRoute(ctx context.Context) error {
	var n int
	if err := c.tx.QueryRow(ctx, "SELECT count(*) FROM control.routes WHERE workspace_id = $1", c.ws.ID).Scan(&n); err != nil {
		return fmt.Errorf("counting the routes: %w", err)
	}
	if n >= maxRoutes {
		return problem.New(http.StatusConflict, problem.Conflict, "a workspace has at most %d routes", maxRoutes)
	}
	return nil
}

func (c *change) writeRoute(ctx context.Context, actor string, old route, r *route, found bool) error {
	version, err := c.nextPolicy(ctx)
	if err != nil {
		return err
	}
	r.Version, r.UpdatedAt = version, c.now
	const upsert = `
INSERT INTO control.routes (workspace_id, ` + routeColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (workspace_id, id) DO UPDATE SET provider = $3, base_url = $4, credential_sealed = $5, timeout_us = $6,
 idle_timeout_us = $7, per_request_nano_usd = $8, weights = $9, version = $10, updated_at = $12`
	_, err = c.tx.Exec(ctx, upsert, c.ws.ID, r.ID, r.Provider, r.BaseURL, r.sealed, r.timeout.Microseconds(), r.idle.Microseconds(),
		r.perRequestNano(), r.Weights, r.Version, r.CreatedAt, r.UpdatedAt)
	if err != nil {
		return fmt.Errorf("writing a route: %w", err)
	}
	if err := c.publishPolicy(ctx); err != nil {
		return err
	}
	a := action{actor: actor, name: "route.put", object: "routes/" + r.ID, after: *r}
	if found {
		a.before = old
	}
	return c.record(ctx, a)
}

func (s *Server) deleteRoute(ctx context.Context, c *call) (answer, error) {
	cond, err := readCondition(c.http.Header)
	if err != nil {
		return answer{}, err
	}
	id := c.vars["route"]
	err = s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) error {
		old, found, err := readRoute(ctx, ch.tx, c.workspace(), id)
		if err != nil {
			return err
		}
		if !found {
			return problem.Missing("route", id)
		}
		if err := cond.check(old.Version); err != nil {
			return err
		}
		if _, err := ch.nextPolicy(ctx); err != nil {
			return err
		}
		if _, err := ch.tx.Exec(ctx, "DELETE FROM control.routes WHERE workspace_id = $1 AND id = $2", ch.ws.ID, id); err != nil {
			return fmt.Errorf("deleting a route: %w", err)
		}
		if err := ch.publishPolicy(ctx); err != nil {
			return err
		}
		return ch.record(ctx, action{actor: c.caller.actor(), name: "route.delete", object: "routes/" + id, before: old})
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}

// over returns the route that the spec makes of an old one, which may be empty.
func (spec routeSpec) over(old route, sealing [secret.KeySize]byte, ws string, now time.Time) route {
	r := spec.route
	r.Version, r.CreatedAt, r.UpdatedAt = old.Version, old.CreatedAt, old.UpdatedAt
	if r.CreatedAt.IsZero() {
		r.CreatedAt = now
	}
	switch {
	case spec.removeCredential:
		r.sealed = nil
	case spec.credential == nil:
		r.sealed = old.sealed
	default:
		// Sealing gives other bytes each time: the same credential keeps the old ones, or PUT would not be idempotent.
		plain, err := secret.Open(sealing, ws, r.ID, old.sealed)
		if err == nil && string(plain) == *spec.credential {
			r.sealed = old.sealed
		} else {
			r.sealed = secret.Seal(sealing, ws, r.ID, []byte(*spec.credential))
		}
	}
	r.show()
	return r
}

func sameRoute(a, b route) bool {
	ja, errA := json.Marshal(a)
	jb, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(ja) == string(jb) && string(a.sealed) == string(b.sealed)
}

// maxRouteID is the largest length of a route id.
const maxRouteID = 63

// routeID is what a route may be called: it is a segment of the data plane's paths.
var routeID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)
