package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/price"
)

// States of a reprice.
const (
	repricePlanned = "planned"
	repriceRunning = "running"
	repriceDone    = "done"
	repriceFailed  = "failed"
)

// reprice is one run that computes costs again and corrects them; the comments of its columns are in the migration.
type reprice struct {
	ID, Producer          string
	scope                 ledgerRange
	Reason, Actor         string
	prices                []modelPrice
	State, Error          string
	topicID               string
	ends                  map[int32]int64
	cursor                ledgerCursor
	computed, closed      bool
	CreatedAt             time.Time
	StartedAt, FinishedAt *time.Time
}

const repriceColumns = `id, producer_id, from_at, to_at, workspace, provider, model, reason, actor, prices, state, error, coalesce(topic_id::text, ''),
 coalesce(ends, '{}'), cursor_workspace, cursor_opened_at, cursor_reservation, computed, closed, created_at, started_at, finished_at`

func scanReprice(row pgx.CollectableRow) (reprice, error) {
	var r reprice
	var prices, ends []byte
	err := row.Scan(&r.ID, &r.Producer, &r.scope.from, &r.scope.to, &r.scope.workspace, &r.scope.provider, &r.scope.model, &r.Reason, &r.Actor, &prices,
		&r.State, &r.Error, &r.topicID, &ends, &r.cursor.workspace, &r.cursor.openedAt, &r.cursor.reservation, &r.computed, &r.closed,
		&r.CreatedAt, &r.StartedAt, &r.FinishedAt)
	if err != nil {
		return r, err
	}
	for _, at := range []*time.Time{&r.scope.from, &r.scope.to, &r.CreatedAt, r.StartedAt, r.FinishedAt} {
		if at != nil {
			*at = at.UTC()
		}
	}
	return r, errors.Join(json.Unmarshal(prices, &r.prices), json.Unmarshal(ends, &r.ends))
}

// underWay is the condition of a run that has not ended.
const underWay = "state IN ('planned', 'running')"

// readReprice returns the run that a condition finds; found is false where there is none.
func readReprice(ctx context.Context, q querier, where string, args ...any) (r reprice, found bool, err error) {
	rows, err := q.Query(ctx, "SELECT "+repriceColumns+" FROM control.reprices WHERE "+where, args...)
	if err != nil {
		return r, false, fmt.Errorf("reading a reprice: %w", err)
	}
	r, err = pgx.CollectOneRow(rows, scanReprice)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("reading a reprice: %w", err)
	}
	return r, true, nil
}

// catalogue returns the prices that the run computes with.
func (r *reprice) catalogue() (*price.Catalogue, error) {
	c, err := price.Default().Restated(histories(r.prices))
	if err != nil {
		return nil, fmt.Errorf("putting the overrides on the catalogue: %w", err)
	}
	return c, nil
}

// startReprice plans a run. At most one is under way.
func (s *Server) startReprice(ctx context.Context, r reprice) (reprice, error) {
	var err error
	if r.ID, err = newID("rpr_"); err != nil {
		return r, err
	}
	if r.Producer, err = newProducer(); err != nil {
		return r, err
	}
	err = s.rootChange(ctx, func(ctx context.Context, c *change) error {
		other, found, err := readReprice(ctx, c.tx, underWay)
		if err != nil {
			return err
		}
		if found {
			return problem.New(409, problem.Conflict, "%s is under way; its corrections are what the next one starts from", other.ID)
		}
		if r.prices, err = readPrices(ctx, c.tx); err != nil {
			return err
		}
		prices, err := json.Marshal(r.prices)
		if err != nil {
			return fmt.Errorf("encoding the prices of a reprice: %w", err)
		}
		r.State, r.CreatedAt = repricePlanned, c.now
		const insert = `
INSERT INTO control.reprices (id, producer_id, from_at, to_at, workspace, provider, model, reason, actor, prices, state, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)`
		if _, err := c.tx.Exec(ctx, insert, r.ID, r.Producer, r.scope.from, r.scope.to, r.scope.workspace, r.scope.provider, r.scope.model, r.Reason, r.Actor,
			prices, r.State, r.CreatedAt); err != nil {
			return fmt.Errorf("writing a reprice: %w", err)
		}
		view, err := newRepriceView(r, repriceSums{})
		if err != nil {
			return err
		}
		return c.record(ctx, action{actor: r.Actor, name: "reprice.start", object: "reprice/" + r.ID, after: view})
	})
	return r, err
}
