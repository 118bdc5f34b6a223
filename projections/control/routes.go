package control

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

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
	stamps

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

var routes = resource[route]{
	name: "route", scope: "apis", most: maxRoutes,
	columns: append([]string{
		"id", "provider", "base_url", "credential_sealed", "timeout_us", "idle_timeout_us", "per_request_nano_usd", "weights",
	}, stampColumns...),
	scan: scanRoute,
	values: func(r route) []any {
		return append([]any{
			r.ID, r.Provider, r.BaseURL, r.sealed, r.timeout.Microseconds(), r.idle.Microseconds(), r.perRequestNano(), r.Weights,
		}, r.values()...)
	},
	about: func(r *route) (string, *stamps) { return r.ID, &r.stamps },
	read: func(s *Server, ws, id string, o *object) func(route) route {
		spec := readRouteSpec(o, id)
		return func(old route) route { return spec.over(old, s.secretKey, ws) }
	},
	same: sameRoute,
}

func scanRoute(row pgx.CollectableRow) (route, error) {
	var r route
	var timeout, idle int64
	var nano *int64
	err := row.Scan(append([]any{&r.ID, &r.Provider, &r.BaseURL, &r.sealed, &timeout, &idle, &nano, &r.Weights}, r.to()...)...)
	r.timeout, r.idle = time.Duration(timeout)*time.Microsecond, time.Duration(idle)*time.Microsecond
	r.Cost.Mode = perToken
	if nano != nil {
		usd := money.Nano(*nano)
		r.Cost = cost{Mode: perRequest, USD: &usd}
	}
	r.inUTC()
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

// over returns the route that the spec makes of an old one, which may be empty.
func (spec routeSpec) over(old route, sealing [secret.KeySize]byte, ws string) route {
	r := spec.route
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

func sameRoute(a, b route) bool { return sameView(a, b) && slices.Equal(a.sealed, b.sealed) }

// sameView reports whether the API shows no difference.
func sameView[T any](a, b T) bool {
	ja, errA := json.Marshal(a)
	jb, errB := json.Marshal(b)
	return errA == nil && errB == nil && string(ja) == string(jb)
}
