package ledger

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protojson"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"

	"github.com/rateguard/rateguard/projections/outcome"
	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/topics"
)

// Name is the projection's name.
const Name = "ledger"

// New returns the projection.
func New() runner.Projection {
	return runner.Projection{Name: Name, Topic: topics.Costs, Check: outcome.Check, Target: target{}}
}

// target is the table ledger.
type target struct{}

var _ runner.Transactional = target{}

// State reports whether the ledger has rows.
func (target) State(ctx context.Context, tx pgx.Tx) (runner.State, error) {
	var s runner.State
	if err := tx.QueryRow(ctx, "SELECT NOT EXISTS (SELECT 1 FROM ledger)").Scan(&s.Empty); err != nil {
		return s, fmt.Errorf("looking at the ledger: %w", err)
	}
	return s, nil
}

// Reset empties the ledger: the log has all of it. The lock is waited for by LOCK, which has no snapshot: TRUNCATE has one, and a migration that makes an
// index on the ledger, which TRUNCATE would wait for, waits for those who have.
func (target) Reset(ctx context.Context, tx pgx.Tx, _ string) error {
	for _, sql := range []string{"LOCK TABLE ledger IN ACCESS EXCLUSIVE MODE", "TRUNCATE ledger"} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("emptying the ledger: %w", err)
		}
	}
	return nil
}

// Apply appends the rows of a batch.
func (target) Apply(ctx context.Context, tx pgx.Tx, b runner.Batch) (int64, error) {
	last, err := read(ctx, tx, b)
	if err != nil {
		return 0, err
	}
	var values [][]any
	for _, rec := range b.Records {
		for _, row := range Project(last, rec) {
			row.TopicID, row.Partition = b.TopicID, b.Partition
			v, err := row.values()
			if err != nil {
				return 0, err
			}
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return 0, nil
	}
	n, err := tx.CopyFrom(ctx, pgx.Identifier{"ledger"}, columns, pgx.CopyFromRows(values))
	if err != nil {
		return 0, fmt.Errorf("appending to the ledger: %w", err)
	}
	return n, nil
}

// read returns the newest row of each reservation of the batch that has one, without its usage and its place in the log.
func read(ctx context.Context, tx pgx.Tx, b runner.Batch) (map[outcome.Key]Row, error) {
	var workspaces, ids []string
	for _, rec := range b.Records {
		for _, k := range Keys(rec) {
			workspaces, ids = append(workspaces, k.Workspace), append(ids, k.ReservationID)
		}
	}
	last := make(map[outcome.Key]Row)
	if len(ids) == 0 {
		return last, nil
	}
	rows, err := tx.Query(ctx, `
SELECT DISTINCT ON (l.workspace, l.reservation_id) l.workspace, l.reservation_id, l.revision, l.request_id, l.attempt, l.key_id, l.route, l.provider,
       l.model, l.endpoint, l.kind, l.cost_nano, l.bound_nano, l.estimated, l.price_version, l.policy_version, l.holds, l.opened_at, l.apart
  FROM unnest($1::text[], $2::text[]) AS k(workspace, reservation_id)
  JOIN ledger l USING (workspace, reservation_id)
 ORDER BY l.workspace, l.reservation_id, l.revision DESC`, workspaces, ids)
	if err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var r Row
		var holds []byte
		if err := rows.Scan(&r.Workspace, &r.ReservationID, &r.Revision, &r.RequestID, &r.Attempt, &r.KeyID, &r.Route, &r.Provider,
			&r.Model, &r.Endpoint, &r.Kind, &r.CostNano, &r.BoundNano, &r.Estimated, &r.PriceVersion, &r.PolicyVersion, &holds, &r.OpenedAt, &r.Apart); err != nil {
			return nil, fmt.Errorf("reading the ledger: %w", err)
		}
		if err := json.Unmarshal(holds, &r.Holds); err != nil {
			return nil, fmt.Errorf("reading the holds of %s: %w", r.ReservationID, err)
		}
		last[r.Key] = r
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	return last, nil
}

// columns are the table's columns in the order of Row.values.
var columns = []string{
	"workspace", "reservation_id", "revision", "request_id", "attempt", "key_id", "route", "provider", "model", "endpoint",
	"kind", "cost_nano", "delta_nano", "bound_nano", "estimated", "usage", "price_version", "policy_version", "holds", "reason",
	"opened_at", "occurred_at", "producer_id", "apart", "topic_id", "log_partition", "log_offset", "log_idx",
}

func (r *Row) values() ([]any, error) {
	holds, err := json.Marshal(r.Holds)
	if err != nil {
		return nil, fmt.Errorf("writing the holds of %s: %w", r.ReservationID, err)
	}
	usage, err := usageJSON(r.Usage)
	if err != nil {
		return nil, fmt.Errorf("writing the usage of %s: %w", r.ReservationID, err)
	}
	return []any{
		r.Workspace, r.ReservationID, r.Revision, r.RequestID, r.Attempt, r.KeyID, r.Route, r.Provider, r.Model, r.Endpoint,
		r.Kind, r.CostNano, r.DeltaNano, r.BoundNano, r.Estimated, usage, r.PriceVersion, r.PolicyVersion, holds, r.Reason,
		r.OpenedAt, r.OccurredAt, r.ProducerID, r.Apart, r.TopicID, r.Partition, r.Offset, r.Index,
	}, nil
}

// usageJSON writes the parts of a usage that are not zero, by the names of the event's fields.
func usageJSON(u *rateguardv1.Usage) ([]byte, error) {
	if u == nil {
		return []byte("{}"), nil
	}
	return protojson.MarshalOptions{UseProtoNames: true}.Marshal(u)
}
