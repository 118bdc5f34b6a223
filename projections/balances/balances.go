package balances

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/outcome"
	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/topics"
)

// Name is the projection's name.
const Name = "balances"

// New returns the projection.
func New() runner.Projection {
	return runner.Projection{Name: Name, Topic: topics.Costs, Check: outcome.Check, Target: target{}}
}

// target is the tables balances and balance_reservations.
type target struct{}

var _ runner.Transactional = target{}

// State reports whether one of the tables is empty; they are only right together.
func (target) State(ctx context.Context, tx pgx.Tx) (runner.State, error) {
	var s runner.State
	err := tx.QueryRow(ctx, "SELECT NOT EXISTS (SELECT 1 FROM balances) OR NOT EXISTS (SELECT 1 FROM balance_reservations)").Scan(&s.Empty)
	if err != nil {
		return s, fmt.Errorf("looking at the balances: %w", err)
	}
	return s, nil
}

// Reset empties the tables: the log has all of them.
func (target) Reset(ctx context.Context, tx pgx.Tx, _ string) error {
	if _, err := tx.Exec(ctx, "TRUNCATE balances, balance_reservations"); err != nil {
		return fmt.Errorf("emptying the balances: %w", err)
	}
	return nil
}

// Apply adds a batch to the sums.
func (target) Apply(ctx context.Context, tx pgx.Tx, b runner.Batch) (int64, error) {
	held, err := read(ctx, tx, b)
	if err != nil {
		return 0, err
	}
	touched := map[outcome.Key]bool{}
	sums := map[Sum]Change{}
	for _, rec := range b.Records {
		changes := Project(held, rec)
		if len(changes) == 0 {
			continue
		}
		for _, k := range Keys(rec) {
			if _, known := held[k]; known { // the log may lack a lease
				touched[k] = true
			}
		}
		for _, c := range changes {
			sums[c.Sum] = sums[c.Sum].plus(c)
		}
	}
	if len(touched) == 0 {
		return 0, nil
	}
	if err := writeReservations(ctx, tx, held, touched); err != nil {
		return 0, err
	}
	return int64(len(touched)), writeSums(ctx, tx, sums)
}

func (c Change) plus(d Change) Change {
	return Change{
		Sum: d.Sum, PostedNano: c.PostedNano + d.PostedNano, ReservedNano: c.ReservedNano + d.ReservedNano,
		Open: c.Open + d.Open, Ended: c.Ended + d.Ended, Unpriced: c.Unpriced + d.Unpriced,
	}
}

// read returns what the sums hold of the reservations of the batch.
func read(ctx context.Context, tx pgx.Tx, b runner.Batch) (map[outcome.Key]Reservation, error) {
	seen := map[outcome.Key]bool{}
	var workspaces, ids []string
	for _, rec := range b.Records {
		for _, k := range Keys(rec) {
			if !seen[k] {
				seen[k] = true
				workspaces, ids = append(workspaces, k.Workspace), append(ids, k.ReservationID)
			}
		}
	}
	held := make(map[outcome.Key]Reservation)
	if len(ids) == 0 {
		return held, nil
	}
	rows, err := tx.Query(ctx, `
SELECT r.workspace, r.reservation_id, r.ended, r.revision, r.bound_nano, r.cost_nano, r.opened_at, r.holds
  FROM unnest($1::text[], $2::text[]) AS k(workspace, reservation_id)
  JOIN balance_reservations r USING (workspace, reservation_id)`, workspaces, ids)
	if err != nil {
		return nil, fmt.Errorf("reading reservations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var k outcome.Key
		var r Reservation
		var holds []byte
		if err := rows.Scan(&k.Workspace, &k.ReservationID, &r.Ended, &r.Revision, &r.BoundNano, &r.CostNano, &r.OpenedAt, &holds); err != nil {
			return nil, fmt.Errorf("reading reservations: %w", err)
		}
		if err := json.Unmarshal(holds, &r.Holds); err != nil {
			return nil, fmt.Errorf("reading the holds of %s: %w", k.ReservationID, err)
		}
		r.OpenedAt = r.OpenedAt.UTC()
		held[k] = r
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading reservations: %w", err)
	}
	return held, nil
}

func writeReservations(ctx context.Context, tx pgx.Tx, held map[outcome.Key]Reservation, touched map[outcome.Key]bool) error {
	n := len(touched)
	workspaces, ids := make([]string, 0, n), make([]string, 0, n)
	ended, revisions := make([]bool, 0, n), make([]int32, 0, n)
	bounds, costs := make([]*int64, 0, n), make([]*int64, 0, n)
	opened, holds := make([]time.Time, 0, n), make([]string, 0, n)
	for k := range touched {
		r := held[k]
		h, err := json.Marshal(r.Holds)
		if err != nil {
			return fmt.Errorf("writing the holds of %s: %w", k.ReservationID, err)
		}
		workspaces, ids = append(workspaces, k.Workspace), append(ids, k.ReservationID)
		ended, revisions = append(ended, r.Ended), append(revisions, r.Revision)
		bounds, costs = append(bounds, r.BoundNano), append(costs, r.CostNano)
		opened, holds = append(opened, r.OpenedAt), append(holds, string(h))
	}
	_, err := tx.Exec(ctx, `
INSERT INTO balance_reservations (workspace, reservation_id, ended, revision, bound_nano, cost_nano, opened_at, holds)
SELECT workspace, reservation_id, ended, revision, bound_nano, cost_nano, opened_at, holds::jsonb
  FROM unnest($1::text[], $2::text[], $3::boolean[], $4::integer[], $5::bigint[], $6::bigint[], $7::timestamptz[], $8::text[])
       AS n(workspace, reservation_id, ended, revision, bound_nano, cost_nano, opened_at, holds)
    ON CONFLICT (workspace, reservation_id) DO UPDATE
       SET ended = excluded.ended, revision = excluded.revision, cost_nano = excluded.cost_nano, holds = excluded.holds`,
		workspaces, ids, ended, revisions, bounds, costs, opened, holds)
	if err != nil {
		return fmt.Errorf("writing reservations: %w", err)
	}
	return nil
}

// writeSums adds the changes to the sums, in one order, so that two partitions never wait for each other in a circle.
func writeSums(ctx context.Context, tx pgx.Tx, sums map[Sum]Change) error {
	list := make([]Change, 0, len(sums))
	for _, c := range sums {
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.Workspace, b.Workspace), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.BudgetID, b.BudgetID),
			cmp.Compare(a.BudgetGeneration, b.BudgetGeneration), cmp.Compare(a.Balance, b.Balance), a.PeriodStart.Compare(b.PeriodStart))
	})
	batch := &pgx.Batch{}
	for _, c := range list {
		batch.Queue(`
INSERT INTO balances AS b (workspace, scope, budget_id, budget_generation, balance, period_start,
       posted_nano, reserved_nano, open_count, ended_count, unpriced_count)
VALUES ($1, $2, $3, $4, $5, $6, $7::bigint, $8::bigint, $9, $10, $11)
    ON CONFLICT (workspace, scope, budget_id, budget_generation, balance, period_start) DO UPDATE
       SET posted_nano = b.posted_nano + excluded.posted_nano, reserved_nano = b.reserved_nano + excluded.reserved_nano,
           open_count = b.open_count + excluded.open_count, ended_count = b.ended_count + excluded.ended_count,
           unpriced_count = b.unpriced_count + excluded.unpriced_count`,
			c.Workspace, c.Scope, c.BudgetID, c.BudgetGeneration, c.Balance, c.PeriodStart,
			c.PostedNano, c.ReservedNano, c.Open, c.Ended, c.Unpriced)
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("writing balances: %w", err)
	}
	return nil
}
