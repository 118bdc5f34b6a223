package runner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// copyPause is how long a copier rests when it has all that its source shows: to follow an offset is a write, and a copy may be that old.
const copyPause = time.Second

// copier is one life of a process that copies a source's rows.
type copier struct {
	session
	target Copied
	// sourceGeneration is what this process copies.
	sourceGeneration string
	// copied are the partitions that this process has claimed.
	copied map[place]*partition
}

// place names a partition of a life of the topic.
type place struct {
	topicID   uuid.UUID
	partition int32
}

// copy runs until ctx ends (nil) or something fails. One process copies, elected by a lock; one that lost the lock and does not know it
// is fenced by the epochs of the checkpoints, as an owner of partitions is.
func (r *Runner) copy(ctx context.Context, t Copied) error {
	if err := r.cfg.Migrate(ctx, r.cfg.PostgresURL); err != nil {
		return err
	}
	release, err := r.elect(ctx)
	if err != nil {
		return err
	}
	defer release()
	source, err := r.awaitSource(ctx)
	if err != nil {
		return err
	}
	sc, err := r.prepare(ctx, copiesOf(source))
	if err != nil {
		return err
	}
	r.setReady(nil)
	c := &copier{session: session{scope: sc, r: r}, target: t, sourceGeneration: source, copied: map[place]*partition{}}
	for looked := time.Now(); ctx.Err() == nil; {
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		if time.Since(looked) > lookEvery {
			looked = time.Now()
			if err := r.look(ctx, sc); err != nil && ctx.Err() == nil {
				return err
			}
		}
		if err := pause(ctx, copyPause); err != nil {
			break
		}
	}
	return nil
}

// copiesOf is how the ids of generations begin that copy one of the source: a source that is made again is copied again.
func copiesOf(generation string) string { return generation + "_" }

// awaitSource waits until the source has a generation, and returns it.
func (r *Runner) awaitSource(ctx context.Context) (generation string, err error) {
	for {
		err := r.cfg.Pool.QueryRow(ctx, "SELECT generation FROM projection_generations WHERE projection = $1", r.cfg.Projection.Source).Scan(&generation)
		if err == nil {
			return generation, nil
		}
		if errors.Is(err, pgx.ErrNoRows) {
			err = pause(ctx, heartbeatInterval)
		}
		if err != nil {
			return "", fmt.Errorf("reading the generation of %s: %w", r.cfg.Projection.Source, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// elect waits until this process is the one that copies. The lock goes with its connection.
func (r *Runner) elect(ctx context.Context) (release func(), err error) {
	pooled, err := r.cfg.Pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("connecting for the election: %w", err)
	}
	conn := pooled.Hijack()
	release = func() { _ = conn.Close(context.WithoutCancel(ctx)) }
	for {
		var elected bool
		err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock(hashtextextended('copying ' || $1, 0))", r.cfg.Projection.Name).Scan(&elected)
		if err == nil && elected {
			return release, nil
		}
		if err == nil {
			r.setReady(nil) // another process copies
			err = pause(ctx, heartbeatInterval)
		}
		if err != nil {
			release()
			return nil, fmt.Errorf("waiting for the election: %w", err)
		}
	}
}

// source is what the source shows of a partition.
type source struct {
	place
	end      int64
	observed *time.Time
}

// round copies what the source shows, and tells how far it came.
func (c *copier) round(ctx context.Context) error {
	sources, err := c.sources(ctx)
	if err != nil {
		return err
	}
	var lag int64
	for _, src := range sources {
		p := c.copied[src.place]
		if p == nil {
			p = &partition{checkpoint: checkpoint{scope: c.scope, topicID: src.topicID, partition: src.partition}, marks: newMarkCache()}
			if err := p.claim(ctx, c.r.cfg.Pool); err != nil {
				return err
			}
			c.copied[src.place] = p
		}
		for more := true; more && ctx.Err() == nil; {
			if more, err = c.step(ctx, p); err != nil {
				return err
			}
		}
		if src.observed == nil || ctx.Err() != nil {
			continue
		}
		// What the source had not seen when it looked, this copy has not either.
		n, err := observe(ctx, c.r.cfg.Pool, c.scope, src.topicID, *src.observed, []observation{{src.partition, p.epoch, src.end}})
		if err != nil {
			return err
		}
		lag += n
	}
	c.r.cfg.Metrics.lag.WithLabelValues(c.projection).Set(float64(lag))
	return nil
}

// sources returns the partitions of the source. One that is made again ends the session.
func (c *copier) sources(ctx context.Context) ([]source, error) {
	generation, err := c.r.awaitSource(ctx)
	if err != nil {
		return nil, err
	}
	if generation != c.sourceGeneration {
		return nil, fmt.Errorf("%s is made again: it has generation %s and had %s", c.r.cfg.Projection.Source, generation, c.sourceGeneration)
	}
	rows, err := c.r.cfg.Pool.Query(ctx, `
SELECT topic_id, partition, end_offset, observed_at FROM projection_checkpoints
 WHERE projection = $1 AND generation = $2 AND topic = $3 ORDER BY topic_id, partition`, c.r.cfg.Projection.Source, generation, c.topic)
	if err != nil {
		return nil, fmt.Errorf("reading how far %s is: %w", c.r.cfg.Projection.Source, err)
	}
	sources, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s source, err error) {
		err = row.Scan(&s.topicID, &s.partition, &s.end, &s.observed)
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading how far %s is: %w", c.r.cfg.Projection.Source, err)
	}
	return sources, nil
}

// step copies one batch of a partition; it returns false when there is none. One that has begun is finished, so that a stop leaves nothing pending.
func (c *copier) step(ctx context.Context, p *partition) (more bool, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	started := time.Now()
	b, block, newest, err := c.read(ctx, p)
	if err != nil || b.To < b.From {
		return false, err
	}
	if err := c.r.cfg.Fail(StepFetched); err != nil {
		return false, err
	}
	rows, err := c.applyBlock(ctx, p, c.target, b, block, newest)
	if err != nil {
		return false, err
	}
	c.r.cfg.Metrics.written(c.projection, rows, newest, time.Since(started))
	return true, c.r.cfg.Fail(StepAdvanced)
}

// read returns the next range of the partition and its rows: exactly the pending one where there is one. A range whose end lies before its start is
// none. newest is the time of the source's newest record where the range reaches up to that.
func (c *copier) read(ctx context.Context, p *partition) (b Range, block Block, newest time.Time, err error) {
	b = Range{Generation: c.generation, TopicID: p.topicID, Partition: p.partition, From: p.next, To: p.next - 1}
	err = pgx.BeginFunc(ctx, c.r.cfg.Pool, func(tx pgx.Tx) error {
		// The order matters: while the source is held it cannot be emptied, so that what is read last has all below the checkpoint.
		if err := c.target.Hold(ctx, tx); err != nil {
			return err
		}
		var next int64
		var asOf *time.Time
		err := tx.QueryRow(ctx, `
SELECT next_offset, as_of FROM projection_checkpoints
 WHERE projection = $1 AND generation = $2 AND topic = $3 AND topic_id = $4 AND partition = $5`,
			c.r.cfg.Projection.Source, c.sourceGeneration, c.topic, p.topicID, p.partition).Scan(&next, &asOf)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // the source is made again: the next round says so
		}
		if err != nil {
			return fmt.Errorf("reading how far %s is: %w", c.r.cfg.Projection.Source, err)
		}
		from, to, most := p.next, next-1, c.r.cfg.MaxBatch
		if w := p.pending; w != nil {
			if to < w.to {
				return nil
			}
			from, to, most = w.from, w.to, 0
		}
		if to < from {
			return nil
		}
		b.From, b.To = from, to
		if block, b.To, err = c.target.Read(ctx, tx, b, most); err != nil {
			return err
		}
		if asOf != nil && b.To == next-1 {
			newest = *asOf
		}
		return nil
	})
	return b, block, newest, err
}
