package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
)

// maxName is the largest number of characters of a name.
const maxName = 200

// workspace is a tenant.
type workspace struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Settings  settings   `json:"settings"`
	Version   int64      `json:"version"`
	CreatedAt time.Time  `json:"created_at"`
	UpdatedAt time.Time  `json:"updated_at"`
	DeletedAt *time.Time `json:"-"`
	// PolicyVersion counts the changes of everything below the workspace.
	PolicyVersion int64 `json:"-"`
	// PeriodsFrom is the instant around which the policy shows the periods of budgets: when its version was made.
	PeriodsFrom time.Time `json:"-"`
}

// querier is the pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

const workspaceColumns = "id, name, version, created_at, updated_at, deleted_at, policy_version, periods_from, " + settingColumns

func scanWorkspace(row pgx.CollectableRow) (workspace, error) {
	var w workspace
	err := row.Scan(append([]any{
		&w.ID, &w.Name, &w.Version, &w.CreatedAt, &w.UpdatedAt, &w.DeletedAt, &w.PolicyVersion, &w.PeriodsFrom,
	}, w.Settings.to()...)...)
	w.CreatedAt, w.UpdatedAt, w.PeriodsFrom = w.CreatedAt.UTC(), w.UpdatedAt.UTC(), w.PeriodsFrom.UTC()
	return w, err
}

// readWorkspace returns a workspace, deleted ones too; a 404 where it never was. lock is "" or "FOR UPDATE".
func readWorkspace(ctx context.Context, q querier, id, lock string) (workspace, error) {
	rows, err := q.Query(ctx, "SELECT "+workspaceColumns+" FROM control.workspaces WHERE id = $1 "+lock, id)
	if err != nil {
		return workspace{}, storeError("reading a workspace", err)
	}
	w, err := pgx.CollectExactlyOneRow(rows, scanWorkspace)
	if errors.Is(err, pgx.ErrNoRows) {
		return workspace{}, problem.Missing("workspace", id)
	}
	if err != nil {
		return workspace{}, storeError("reading a workspace", err)
	}
	return w, nil
}

func (s *Server) listWorkspaces(ctx context.Context, c *call) (answer, error) {
	p, err := readPage(c.http.URL.Query())
	if err != nil {
		return answer{}, err
	}
	const query = "SELECT " + workspaceColumns + ` FROM control.workspaces
 WHERE deleted_at IS NULL AND id > $1 AND ($2 = '' OR id = $2) ORDER BY id LIMIT $3`
	// A key sees the one workspace that is its own.
	rows, err := s.pool.Query(ctx, query, p.after, c.caller.workspace, p.limit+1)
	if err != nil {
		return answer{}, storeError("listing workspaces", err)
	}
	found, err := pgx.CollectRows(rows, scanWorkspace)
	if err != nil {
		return answer{}, storeError("listing workspaces", err)
	}
	return answer{status: http.StatusOK, body: newList(found, p, func(w workspace) string { return w.ID })}, nil
}

func (s *Server) getWorkspace(ctx context.Context, c *call) (answer, error) {
	w, err := readWorkspace(ctx, s.pool, c.workspace(), "")
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: w, version: w.Version}, nil
}

func (s *Server) createWorkspace(ctx context.Context, c *call) (answer, error) {
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	name, ok := o.text("name", maxName)
	if !ok && !o.present("name") || o.null("name") {
		o.fail("name", "is required")
	}
	if err := o.done(); err != nil {
		return answer{}, err
	}
	id, err := newID("ws_")
	if err != nil {
		return answer{}, err
	}
	now := s.now()
	w := workspace{ID: id, Name: name, Settings: defaultSettings, Version: 1, PolicyVersion: 1, PeriodsFrom: now, CreatedAt: now, UpdatedAt: now}
	ch := &change{server: s, ws: w, now: now}
	err = s.transact(ctx, func(tx pgx.Tx) error {
		ch.tx = tx
		const insert = `INSERT INTO control.workspaces (id, name, policy_version, version, created_at, updated_at, periods_from) VALUES ($1, $2, 1, 1, $3, $3, $3)`
		if _, err := tx.Exec(ctx, insert, w.ID, w.Name, now); err != nil {
			return fmt.Errorf("inserting a workspace: %w", err)
		}
		if err := ch.publishPolicy(ctx); err != nil {
			return err
		}
		return ch.record(ctx, action{actor: c.caller.actor(), name: "workspace.create", object: "workspaces/" + id, after: w})
	})
	if err != nil {
		return answer{}, err
	}
	s.toRedis(ch.rows)
	return answer{status: http.StatusCreated, body: w, version: w.Version, location: "/v1/workspaces/" + id}, nil
}

func (s *Server) patchWorkspace(ctx context.Context, c *call) (answer, error) {
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	name, given := o.text("name", maxName)
	if o.null("name") {
		o.fail("name", "must not be null")
	}
	over := readSettings(o)
	if err := o.done(); err != nil {
		return answer{}, err
	}
	cond, err := readCondition(c.http.Header)
	if err != nil {
		return answer{}, err
	}
	var after workspace
	err = s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) error {
		before := ch.ws
		after = before
		if err := cond.check(before.Version); err != nil {
			return err
		}
		if given {
			after.Name = name
		}
		after.Settings = over(before.Settings)
		if sameView(before, after) {
			return nil
		}
		return ch.writeWorkspace(ctx, &after, action{actor: c.caller.actor(), name: "workspace.update", object: "workspaces/" + after.ID, before: before})
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: after, version: after.Version}, nil
}

// writeWorkspace stores a workspace that is other than before, with the next version of its policy.
func (c *change) writeWorkspace(ctx context.Context, w *workspace, did action) error {
	if err := c.allowSettings(ctx, w.Settings); err != nil {
		return err
	}
	version, err := c.nextPolicy(ctx)
	if err != nil {
		return err
	}
	w.Version, w.PolicyVersion, w.PeriodsFrom, w.UpdatedAt = version, version, c.ws.PeriodsFrom, c.now
	const update = "UPDATE control.workspaces SET (name, version, updated_at, " + settingColumns + ") = ($2, $3, $4, $5, $6, $7, $8) WHERE id = $1"
	if _, err := c.tx.Exec(ctx, update, append([]any{w.ID, w.Name, w.Version, w.UpdatedAt}, w.Settings.values()...)...); err != nil {
		return fmt.Errorf("updating a workspace: %w", err)
	}
	c.ws = *w
	if err := c.publishPolicy(ctx); err != nil {
		return err
	}
	did.after = *w
	return c.record(ctx, did)
}

// deleteWorkspace marks the policy deleted and revokes all keys. The rows stay: a tombstone that came before the
// log has forgotten the old records would let a late one bring the workspace back (see reconcile).
func (s *Server) deleteWorkspace(ctx context.Context, c *call) (answer, error) {
	cond, err := readCondition(c.http.Header)
	if err != nil {
		return answer{}, err
	}
	err = s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) error {
		before := ch.ws
		if err := cond.check(before.Version); err != nil {
			return err
		}
		if _, err := ch.nextPolicy(ctx); err != nil {
			return err
		}
		ch.ws.DeletedAt = &ch.now
		if _, err := ch.tx.Exec(ctx, "UPDATE control.workspaces SET deleted_at = $2, updated_at = $2 WHERE id = $1", ch.ws.ID, ch.now); err != nil {
			return fmt.Errorf("deleting a workspace: %w", err)
		}
		if err := ch.publishPolicy(ctx); err != nil {
			return err
		}
		if err := ch.revokeAll(ctx); err != nil {
			return err
		}
		return ch.record(ctx, action{actor: c.caller.actor(), name: "workspace.delete", object: "workspaces/" + before.ID, before: before})
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusNoContent}, nil
}
