package drift

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/topics"
)

// ledger is what the projection holds of some workspaces, in one snapshot.
type ledger struct {
	// applied is the last offset that is in it, by partition of the costs topic.
	applied map[int32]int64
	posted  map[string]map[keyspace.BudgetPeriod]int64
}

func (a *Auditor) readLedger(ctx context.Context, workspaces []string, topicID []byte) (*ledger, error) {
	l := &ledger{applied: make(map[int32]int64), posted: make(map[string]map[keyspace.BudgetPeriod]int64)}
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, a.cfg.Pool, options, func(tx pgx.Tx) error {
		if err := l.readApplied(ctx, tx, topicID); err != nil {
			return err
		}
		return l.readPosted(ctx, tx, workspaces)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the balances of the ledger: %w", err)
	}
	return l, nil
}

func (l *ledger) readApplied(ctx context.Context, tx pgx.Tx, topicID []byte) error {
	const query = `
SELECT c.partition, c.next_offset - 1 FROM projection_checkpoints c JOIN projection_generations g USING (projection, generation)
 WHERE projection = 'balances' AND c.topic = $1 AND c.topic_id = $2::uuid`
	rows, err := tx.Query(ctx, query, topics.Costs.Name, [16]byte(topicID))
	if err != nil {
		return err
	}
	var partition int32
	var applied int64
	_, err = pgx.ForEachRow(rows, []any{&partition, &applied}, func() error {
		l.applied[partition] = applied
		return nil
	})
	return err
}

func (l *ledger) readPosted(ctx context.Context, tx pgx.Tx, workspaces []string) error {
	// A sum beyond int64 is none that could be compared; it shows as the largest.
	const query = `
SELECT workspace, budget_id, budget_generation, balance, period_start, least(greatest(posted_nano, $3::numeric), $2::numeric)::bigint
  FROM balances WHERE scope = 'budget' AND workspace = ANY($1)`
	rows, err := tx.Query(ctx, query, workspaces, fmt.Sprint(int64(math.MaxInt64)), fmt.Sprint(int64(math.MinInt64)))
	if err != nil {
		return err
	}
	var workspace string
	var p keyspace.BudgetPeriod
	var generation, posted int64
	var start time.Time
	_, err = pgx.ForEachRow(rows, []any{&workspace, &p.Budget, &generation, &p.Balance, &start, &posted}, func() error {
		if l.posted[workspace] == nil {
			l.posted[workspace] = make(map[keyspace.BudgetPeriod]int64)
		}
		p.Generation, p.StartUS = uint64(generation), start.UnixMicro() //nolint:gosec // versions count from 1
		l.posted[workspace][p] = posted
		return nil
	})
	return err
}
