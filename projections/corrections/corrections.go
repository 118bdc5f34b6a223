// Package corrections copies those rows of the ledger that correct costs into the analytics store, where rows of requests are
// written once: usage is the sum of both.
package corrections

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/clickhouse"
	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/topics"
)

// Name is the projection's name.
const Name = "corrections"

// maxMonths bounds the months, which are partitions of the table, of one batch.
const maxMonths = 3

// New returns the projection into the table; ledger is the name of the projection that it copies.
func New(table *clickhouse.Table, ledger string) runner.Projection {
	return runner.Projection{Name: Name, Topic: topics.Costs, Source: ledger, Target: &target{table: table}}
}

// target keeps rows in ClickHouse.
type target struct{ table *clickhouse.Table }

var _ runner.Copied = (*target)(nil)

// State looks at the table and brings it up to date; the caller holds the lock of the projection.
func (t *target) State(ctx context.Context, _ pgx.Tx) (runner.State, error) {
	d, err := t.table.Describe(ctx)
	if err != nil {
		return runner.State{}, err
	}
	if err := t.table.Migrate(ctx, d); err != nil {
		return runner.State{}, err
	}
	return runner.State{Generation: d.Generation, Missing: !d.Exists, Empty: d.Rows == 0}, nil
}

// Reset makes an empty table of the generation.
func (t *target) Reset(ctx context.Context, _ pgx.Tx, generation string) error {
	return t.table.Create(ctx, generation)
}

// Hold takes a lock that TRUNCATE waits for: a snapshot would not keep the rows.
func (t *target) Hold(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "LOCK TABLE ledger IN ACCESS SHARE MODE"); err != nil {
		return fmt.Errorf("holding the ledger: %w", err)
	}
	return nil
}

// row is one row of the table; the comments of the columns are in its migration.
type row struct {
	workspace, requestID, reservationID   string
	time                                  time.Time
	revision                              int32
	apart                                 bool
	key, route, provider, model, endpoint string
	cost                                  *int64
	delta                                 int64
	estimated                             bool
	priceVersion                          string
	offset                                int64
	index                                 int32
}

// columns are the table's columns in the order of row.values.
var columns = []string{
	"workspace", "time", "request_id", "reservation_id", "revision", "apart", "key_id", "route", "provider", "model", "endpoint",
	"cost_nano", "delta_nano", "estimated", "price_version", "_generation", "_topic_id", "_partition", "_offset", "_idx",
}

func (x *row) values(r runner.Range) []any {
	return []any{
		x.workspace, x.time.UTC(), x.requestID, x.reservationID, x.revision, x.apart, x.key, x.route, x.provider, x.model, x.endpoint,
		x.cost, x.delta, x.estimated, x.priceVersion, r.Generation, r.TopicID, r.Partition, x.offset, uint32(x.index), //nolint:gosec // counts from 0
	}
}

// Read returns the rows of the range. The rows of one record stay together, however many they are.
func (t *target) Read(ctx context.Context, tx pgx.Tx, r runner.Range, most int) (runner.Block, int64, error) {
	const query = `
SELECT workspace, opened_at, request_id, reservation_id, revision, apart, key_id, route, provider, model, endpoint,
       cost_nano, delta_nano, estimated, price_version, log_offset, log_idx
  FROM ledger
 WHERE topic_id = $1 AND log_partition = $2 AND log_offset BETWEEN $3 AND $4 AND (apart OR revision > 1)
 ORDER BY log_offset, log_idx LIMIT $5`
	var limit *int // null: none
	if most > 0 {
		limit = new(int)
		*limit = most + 1
	}
	found, err := tx.Query(ctx, query, r.TopicID, r.Partition, r.From, r.To, limit)
	if err != nil {
		return runner.Block{}, 0, fmt.Errorf("reading the ledger: %w", err)
	}
	defer found.Close()
	var rows [][]any
	months := map[time.Time]bool{}
	// whole is how many of the rows belong to offsets before last, which is the newest row's.
	whole, before, last := 0, r.From-1, r.From-1
	for found.Next() {
		var x row
		if err := found.Scan(&x.workspace, &x.time, &x.requestID, &x.reservationID, &x.revision, &x.apart, &x.key, &x.route, &x.provider, &x.model,
			&x.endpoint, &x.cost, &x.delta, &x.estimated, &x.priceVersion, &x.offset, &x.index); err != nil {
			return runner.Block{}, 0, fmt.Errorf("reading the ledger: %w", err)
		}
		if x.offset != last {
			if most > 0 && len(months) >= maxMonths && !months[month(x.time)] {
				return runner.NewBlock(rows), last, nil
			}
			whole, before, last = len(rows), last, x.offset
		}
		months[month(x.time)] = true
		rows = append(rows, x.values(r))
	}
	if err := found.Err(); err != nil {
		return runner.Block{}, 0, fmt.Errorf("reading the ledger: %w", err)
	}
	switch {
	case most == 0 || len(rows) <= most:
		return runner.NewBlock(rows), r.To, nil
	case whole > 0:
		return runner.NewBlock(rows[:whole]), before, nil
	}
	r.To = last
	return t.Read(ctx, tx, r, 0) // one record with more rows than most
}

func month(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// Count returns the rows of the range.
func (t *target) Count(ctx context.Context, r runner.Range) (int64, error) {
	return t.table.Count(ctx, clickhouse.Lineage(r))
}

// Delete removes the rows of the range.
func (t *target) Delete(ctx context.Context, r runner.Range) error {
	return t.table.Delete(ctx, clickhouse.Lineage(r))
}

// Insert writes the block.
func (t *target) Insert(ctx context.Context, b runner.Block, token string) error {
	return t.table.Insert(ctx, columns, b.Rows, token)
}
