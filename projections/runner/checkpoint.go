package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// querier is a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// pending is a batch that was announced and not acknowledged.
type pending struct {
	from, to, rows int64
	sha            string
}

// checkpoint is the state of one owned partition in PostgreSQL. Every write compares epoch and next with what stands there.
type checkpoint struct {
	scope
	topicID   uuid.UUID
	partition int32
	epoch     int64
	next      int64
	pending   *pending
}

const whereOwned = ` WHERE projection = $1 AND generation = $2 AND topic = $3 AND topic_id = $4 AND partition = $5
   AND epoch = $6 AND next_offset = $7`

func (c *checkpoint) owned(more ...any) []any {
	return append([]any{c.projection, c.generation, c.topic, c.topicID, c.partition, c.epoch, c.next}, more...)
}

// claim makes this process the owner of the partition: whoever held it before is fenced from here on.
func (c *checkpoint) claim(ctx context.Context, db querier) error {
	var from, to, rows *int64
	var sha *string
	err := db.QueryRow(ctx, `
INSERT INTO projection_checkpoints AS c (projection, generation, topic, topic_id, partition, epoch)
SELECT projection, generation, $3, $4, $5, 1 FROM projection_generations WHERE projection = $1 AND generation = $2 FOR SHARE
    ON CONFLICT (projection, generation, topic, topic_id, partition) DO UPDATE SET epoch = c.epoch + 1
RETURNING epoch, next_offset, pend_from, pend_to, pend_rows, pend_sha`,
		c.projection, c.generation, c.topic, c.topicID, c.partition).
		Scan(&c.epoch, &c.next, &from, &to, &rows, &sha)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("claiming partition %d: generation %s: %w", c.partition, c.generation, ErrFenced)
	}
	if err != nil {
		return fmt.Errorf("claiming partition %d: %w", c.partition, err)
	}
	c.pending = nil
	if from != nil && to != nil && rows != nil && sha != nil {
		c.pending = &pending{from: *from, to: *to, rows: *rows, sha: *sha}
	}
	return nil
}

// start is the offset to fetch from.
func (c *checkpoint) start() int64 {
	if c.pending != nil {
		return min(c.pending.from, c.next)
	}
	return c.next
}

// announce records the range that is about to be inserted.
func (c *checkpoint) announce(ctx context.Context, db querier, p pending) error {
	tag, err := db.Exec(ctx, `UPDATE projection_checkpoints SET pend_from = $8, pend_to = $9, pend_rows = $10, pend_sha = $11`+whereOwned,
		c.owned(p.from, p.to, p.rows, p.sha)...)
	if err != nil {
		return fmt.Errorf("announcing %d-%d of partition %d: %w", p.from, p.to, c.partition, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("announcing %d-%d of partition %d: %w", p.from, p.to, c.partition, ErrFenced)
	}
	c.pending = &p
	return nil
}

// advance moves the checkpoint behind to, inside the caller's transaction. The caller takes it over (moved) after the commit.
func (c *checkpoint) advance(ctx context.Context, tx pgx.Tx, to, rows int64, asOf time.Time) error {
	tag, err := tx.Exec(ctx, `
UPDATE projection_checkpoints
   SET next_offset = $8, pend_from = NULL, pend_to = NULL, pend_rows = NULL, pend_sha = NULL,
       rows_written = rows_written + $9, as_of = greatest(as_of, $10), end_offset = greatest(end_offset, $8)`+whereOwned,
		c.owned(to+1, rows, asOf)...)
	if err != nil {
		return fmt.Errorf("advancing partition %d to %d: %w", c.partition, to+1, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("advancing partition %d to %d: %w", c.partition, to+1, ErrFenced)
	}
	return nil
}

func (c *checkpoint) moved(to int64) {
	c.next, c.pending = to+1, nil
}

// observation is what an owner saw of its partition.
type observation struct {
	partition int32
	epoch     int64
	end       int64
}

// observe reports the ends of owned partitions, as they were at the instant at, and returns their lag. It is not worth a wait for the disk.
func observe(ctx context.Context, db interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}, s scope, topicID uuid.UUID, at time.Time, seen []observation,
) (lag int64, err error) {
	partitions, epochs, ends := make([]int32, len(seen)), make([]int64, len(seen)), make([]int64, len(seen))
	for i, o := range seen {
		partitions[i], epochs[i], ends[i] = o.partition, o.epoch, o.end
	}
	err = pgx.BeginTxFunc(ctx, db, pgx.TxOptions{}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = off"); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `
WITH updated AS (
UPDATE projection_checkpoints c SET end_offset = greatest(c.end_offset, n.end_offset), observed_at = $5
  FROM unnest($6::integer[], $7::bigint[], $8::bigint[]) AS n(partition, epoch, end_offset)
 WHERE c.projection = $1 AND c.generation = $2 AND c.topic = $3 AND c.topic_id = $4
   AND c.partition = n.partition AND c.epoch = n.epoch
RETURNING greatest(c.end_offset - c.next_offset, 0) AS lag)
SELECT coalesce(sum(lag), 0)::bigint FROM updated`,
			s.projection, s.generation, s.topic, topicID, at, partitions, epochs, ends).Scan(&lag)
	})
	if err != nil {
		return 0, fmt.Errorf("reporting progress: %w", err)
	}
	return lag, nil
}

// lock takes the checkpoint's row for the transaction.
func (c *checkpoint) lock(ctx context.Context, tx pgx.Tx) error {
	var one int
	err := tx.QueryRow(ctx, "SELECT 1 FROM projection_checkpoints"+whereOwned+" FOR UPDATE", c.owned()...).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("locking partition %d: %w", c.partition, ErrFenced)
	}
	if err != nil {
		return fmt.Errorf("locking partition %d: %w", c.partition, err)
	}
	return nil
}

// rewind sets the checkpoint to an offset, without a pending range.
func (c *checkpoint) rewind(ctx context.Context, db querier, to int64) error {
	tag, err := db.Exec(ctx, `UPDATE projection_checkpoints
   SET next_offset = $8, end_offset = $8, pend_from = NULL, pend_to = NULL, pend_rows = NULL, pend_sha = NULL`+whereOwned, c.owned(to)...)
	if err != nil {
		return fmt.Errorf("rewinding partition %d to %d: %w", c.partition, to, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("rewinding partition %d to %d: %w", c.partition, to, ErrFenced)
	}
	c.next, c.pending = to, nil
	return nil
}
