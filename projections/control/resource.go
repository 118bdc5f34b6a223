package control

import (
	"context"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
)

// resource is a kind of thing that a policy holds many of and that PUT makes under an id of the caller's choice: routes,
// limits, budgets. What is the same for all kinds is here: lists, conditions, versions, the audit log, and that each change
// publishes the policy.
type resource[T any] struct {
	// name of one: in paths, problems and the audit log. The table is control.<name>s.
	name string
	// scope is what read:… and write:… call the kind.
	scope string
	// most is how many a workspace can have.
	most int
	// columns of the table after workspace_id, id first.
	columns []string
	// scan reads and values writes the columns.
	scan   pgx.RowToFunc[T]
	values func(T) []any
	// about returns what all kinds have.
	about func(*T) (id string, s *stamps)
	// read takes a body; what it returns makes the thing from the old one, which is the zero T where there is none. The
	// stamps are not its affair.
	read func(s *Server, ws, id string, o *object) (over func(old T) T)
	// same reports whether two differ in nothing but their stamps.
	same func(a, b T) bool
	// allow refuses what the rest of the workspace does not allow; nil: nothing.
	allow func(ch *change, v T) error
	// number takes the version of the change that a thing is written with; nil: only its stamps have it.
	number func(v *T, version int64)
	// fill adds to things that are shown what the configuration does not know; nil: nothing.
	fill func(ctx context.Context, s *Server, ws string, shown []T) error
}

// stamps say which change made a thing what it is.
type stamps struct {
	// Version is the policy version of the last change, so that a thing that was deleted and made again never has an old one.
	Version   int64     `json:"version"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// stampColumns are the columns of stamps, in the order of stamps.to and stamps.values.
var stampColumns = []string{"version", "created_at", "updated_at"}

func (s *stamps) to() []any { return []any{&s.Version, &s.CreatedAt, &s.UpdatedAt} }

func (s *stamps) values() []any { return []any{s.Version, s.CreatedAt, s.UpdatedAt} }

func (s *stamps) inUTC() { s.CreatedAt, s.UpdatedAt = s.CreatedAt.UTC(), s.UpdatedAt.UTC() }

// maxID is the largest length of the id of a route, limit or budget.
const maxID = 63

// validID is what a route, limit or budget may be called: it is a segment of a path.
var validID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$`)

// endpoints returns the rows of the API that the kind has.
func (k resource[T]) endpoints(s *Server) []endpoint {
	type handler func(context.Context, *Server, *call) (answer, error)
	bind := func(do handler) func(context.Context, *call) (answer, error) {
		return func(ctx context.Context, c *call) (answer, error) { return do(ctx, s, c) }
	}
	all := "/v1/workspaces/{ws}/" + k.name + "s"
	one := all + "/{" + k.name + "}"
	return []endpoint{
		{http.MethodGet, all, "read:" + k.scope, bind(k.list)},
		{http.MethodPut, one, "write:" + k.scope, bind(k.put)},
		{http.MethodGet, one, "read:" + k.scope, bind(k.get)},
		{http.MethodDelete, one, "write:" + k.scope, bind(k.remove)},
	}
}

func (k resource[T]) table() string { return "control." + k.name + "s" }

// query selects whole things.
func (k resource[T]) query(ctx context.Context, q querier, rest string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, "SELECT "+strings.Join(k.columns, ", ")+" FROM "+k.table()+" "+rest, args...)
	if err != nil {
		return nil, fmt.Errorf("reading the %ss: %w", k.name, err)
	}
	found, err := pgx.CollectRows(rows, k.scan)
	if err != nil {
		return nil, fmt.Errorf("reading the %ss: %w", k.name, err)
	}
	return found, nil
}

// of returns the things of a workspace in the order of their ids.
func (k resource[T]) of(ctx context.Context, q querier, ws string) ([]T, error) {
	return k.query(ctx, q, "WHERE workspace_id = $1 ORDER BY id", ws)
}

// all returns the things of every workspace, each in the order of their ids. q sees one snapshot.
func (k resource[T]) all(ctx context.Context, q querier) (map[string][]T, error) {
	rows, err := q.Query(ctx, "SELECT workspace_id FROM "+k.table()+" ORDER BY workspace_id, id")
	if err != nil {
		return nil, fmt.Errorf("reading the owners of %ss: %w", k.name, err)
	}
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading the owners of %ss: %w", k.name, err)
	}
	things, err := k.query(ctx, q, "ORDER BY workspace_id, id")
	if err != nil {
		return nil, err
	}
	all := map[string][]T{}
	for i, owner := range owners { // one snapshot: the two lists go together
		all[owner] = append(all[owner], things[i])
	}
	return all, nil
}

// find returns a thing; found is false where there is none.
func (k resource[T]) find(ctx context.Context, q querier, ws, id string) (v T, found bool, err error) {
	things, err := k.query(ctx, q, "WHERE workspace_id = $1 AND id = $2", ws, id)
	if err != nil || len(things) == 0 {
		return v, false, err
	}
	return things[0], true, nil
}

func (k resource[T]) list(ctx context.Context, s *Server, c *call) (answer, error) {
	p, err := readPage(c.http.URL.Query())
	if err != nil {
		return answer{}, err
	}
	found, err := k.query(ctx, s.pool, "WHERE workspace_id = $1 AND id > $2 ORDER BY id LIMIT $3", c.workspace(), p.after, p.limit+1)
	if err != nil {
		return answer{}, storeError("listing", err)
	}
	id := func(v T) string {
		id, _ := k.about(&v)
		return id
	}
	shown := newList(found, p, id)
	if k.fill != nil {
		if err := k.fill(ctx, s, c.workspace(), shown.Data); err != nil {
			return answer{}, storeError("listing", err)
		}
	}
	return answer{status: http.StatusOK, body: shown}, nil
}

func (k resource[T]) get(ctx context.Context, s *Server, c *call) (answer, error) {
	v, found, err := k.find(ctx, s.pool, c.workspace(), c.vars[k.name])
	if err != nil {
		return answer{}, storeError("getting", err)
	}
	if !found {
		return answer{}, problem.Missing(k.name, c.vars[k.name])
	}
	_, stamps := k.about(&v)
	a := answer{status: http.StatusOK, version: stamps.Version, live: k.fill != nil}
	if k.fill != nil {
		shown := []T{v}
		if err := k.fill(ctx, s, c.workspace(), shown); err != nil {
			return answer{}, storeError("getting", err)
		}
		v = shown[0]
	}
	a.body = v
	return a, nil
}

func (k resource[T]) put(ctx context.Context, s *Server, c *call) (answer, error) {
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	id := c.vars[k.name]
	over := k.read(s, c.workspace(), id, o)
	if err := o.done(); err != nil {
		return answer{}, err
	}
	cond, err := readCondition(c.http.Header)
	if err != nil {
		return answer{}, err
	}
	var result T
	a := answer{status: http.StatusOK}
	err = s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) error {
		old, found, err := k.find(ctx, ch.tx, c.workspace(), id)
		if err != nil {
			return err
		}
		_, was := k.about(&old)
		if err := cond.check(was.Version); err != nil {
			return err
		}
		result = over(old)
		_, is := k.about(&result)
		*is = *was
		did := action{actor: c.caller.actor(), name: k.name + ".put"}
		if found {
			if k.same(old, result) {
				return nil
			}
			did.before = old
		}
		if k.allow != nil {
			if err := k.allow(ch, result); err != nil {
				return err
			}
		}
		if !found {
			a.status, a.location = http.StatusCreated, "/v1/workspaces/"+c.workspace()+"/"+k.name+"s/"+id
			is.CreatedAt = ch.now
			if err := k.roomIn(ctx, ch); err != nil {
				return err
			}
		}
		return k.write(ctx, ch, &result, did)
	})
	if err != nil {
		return answer{}, err
	}
	_, stamps := k.about(&result)
	a.body, a.version = result, stamps.Version
	return a, nil
}

func (k resource[T]) roomIn(ctx context.Context, ch *change) error {
	var n int
	if err := ch.tx.QueryRow(ctx, "SELECT count(*) FROM "+k.table()+" WHERE workspace_id = $1", ch.ws.ID).Scan(&n); err != nil {
		return fmt.Errorf("counting the %ss: %w", k.name, err)
	}
	if n >= k.most {
		return problem.New(http.StatusConflict, problem.Conflict, "a workspace has at most %d %ss", k.most, k.name)
	}
	return nil
}

// write stores a thing that is new or other than before, with the next version of the policy.
func (k resource[T]) write(ctx context.Context, ch *change, v *T, did action) error {
	version, err := ch.nextPolicy(ctx)
	if err != nil {
		return err
	}
	id, stamps := k.about(v)
	stamps.Version, stamps.UpdatedAt = version, ch.now
	if k.number != nil {
		k.number(v, version)
	}
	if _, err = ch.tx.Exec(ctx, k.upsert(), append([]any{ch.ws.ID}, k.values(*v)...)...); err != nil {
		return fmt.Errorf("writing a %s: %w", k.name, err)
	}
	if err := ch.publishPolicy(ctx); err != nil {
		return err
	}
	did.object, did.after = k.name+"s/"+id, *v
	return ch.record(ctx, did)
}

func (k resource[T]) upsert() string {
	var places, sets []string
	for i, column := range k.columns {
		places = append(places, fmt.Sprintf("$%d", i+2))
		sets = append(sets, column+" = excluded."+column)
	}
	return "INSERT INTO " + k.table() + " (workspace_id, " + strings.Join(k.columns, ", ") + ") VALUES ($1, " + strings.Join(places, ", ") +
		") ON CONFLICT (workspace_id, id) DO UPDATE SET " + strings.Join(sets[1:], ", ")
}

func (k resource[T]) remove(ctx context.Context, s *Server, c *call) (answer, error) {
	cond, err := readCondition(c.http.Header)
	if err != nil {
		return answer{}, err
	}
	id := c.vars[k.name]
	err = s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) error {
		old, found, err := k.find(ctx, ch.tx, c.workspace(), id)
		if err != nil {
			return err
		}
		if !found {
			return problem.Missing(k.name, id)
		}
		_, was := k.about(&old)
		if err := cond.check(was.Version); err != nil {
			return err
		}
		if _, err := ch.nextPolicy(ctx); err != nil {
			return err
		}
		if _, err := ch.tx.Exec(ctx, "DELETE FROM "+k.table()+" WHERE workspace_id = $1 AND id = $2", ch.ws.ID, id); err != nil {
			return fmt.Errorf("deleting a %s: %w", k.name, err)
		}
		if err := ch.publishPolicy(ctx); err != nil {
			return err
		}
		return ch.record(ctx, action{actor: c.caller.actor(), name: k.name + ".delete", object: k.name + "s/" + id, before: old})
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}
