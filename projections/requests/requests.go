package requests

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/clickhouse"
	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/topics"
)

// Name is the projection's name.
const Name = "requests"

// New returns the projection into the table.
func New(table *clickhouse.Table) runner.Projection {
	return runner.Projection{Name: Name, Topic: topics.Requests, Check: Check, Span: Span, Target: &target{table: table}}
}

// target keeps rows in ClickHouse.
type target struct{ table *clickhouse.Table }

var _ runner.Ranged = (*target)(nil)

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

// Form makes the rows of a batch.
func (t *target) Form(b runner.Batch) runner.Block {
	rows := make([][]any, 0, len(b.Records))
	for _, rec := range b.Records {
		for _, row := range Project(rec) {
			row.Generation, row.TopicID, row.Partition = b.Generation, b.TopicID, b.Partition
			rows = append(rows, row.values())
		}
	}
	return runner.NewBlock(rows)
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
