package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// prepare agrees with the target on a generation. Checkpoints and target are written to different stores (or wiped
// by different hands): where they do not belong together, the projection starts again from the beginning of the log. Its id begins with
// prefix, and one that does not is replaced.
func (r *Runner) prepare(ctx context.Context, prefix string) (scope, error) {
	p := r.cfg.Projection
	s := scope{projection: p.Name, topic: p.Topic.Name}
	err := pgx.BeginFunc(ctx, r.cfg.Pool, func(tx pgx.Tx) error {
		// One process at a time looks and decides.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('projection ' || $1, 0))", p.Name); err != nil {
			return fmt.Errorf("locking the generation: %w", err)
		}
		err := tx.QueryRow(ctx, "SELECT generation FROM projection_generations WHERE projection = $1", p.Name).Scan(&s.generation)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("reading the generation: %w", err)
		}
		before, err := written(ctx, tx, s)
		if err != nil {
			return err
		}
		state, err := p.Target.State(ctx, tx)
		if err != nil {
			return fmt.Errorf("looking at the target: %w", err)
		}
		_, other := p.Target.(Store)
		reason := mismatch(s.generation, state, before, other)
		if reason == "" && !strings.HasPrefix(s.generation, prefix) {
			reason = "its source was made again"
		}
		if reason == "" {
			return nil
		}
		old := s.generation
		s.generation = prefix + uuid.Must(uuid.NewV7()).String()
		if err := r.begin(ctx, tx, s.generation, reason); err != nil {
			return err
		}
		r.cfg.Metrics.generation(p.Name)
		if reason == reasonFirst {
			r.log.Info("first generation", slog.String("generation", s.generation))
			return nil
		}
		r.log.Error("new generation: the projection is made again from the start of the log", slog.String("reason", reason),
			slog.String("generation", s.generation), slog.String("old_generation", old), slog.Int64("rows_before", before))
		return nil
	})
	if err != nil {
		return scope{}, fmt.Errorf("preparing projection %s: %w", p.Name, err)
	}
	return s, nil
}

const reasonFirst = "first start"

// lookEvery is how often a target in another store is looked at while nothing is written there.
const lookEvery = 5 * time.Second

// look returns an error when the target of a scope is not the one that was written: a write would show it, but a table to which nothing is written, as nothing is
// corrected, would be missing to all who read it. What is in the database of the checkpoints goes with them.
func (r *Runner) look(ctx context.Context, s scope) error {
	target, apart := r.cfg.Projection.Target.(Store)
	if !apart {
		return nil
	}
	rows, err := written(ctx, r.cfg.Pool, s) // before the target: what is written meanwhile is not missed there
	if err != nil {
		return err
	}
	state, err := target.State(ctx, nil)
	if err != nil {
		return nil //nolint:nilerr // a store that does not answer has lost nothing
	}
	if reason := mismatch(s.generation, state, rows, true); reason != "" {
		return fmt.Errorf("looking at the target: %s", reason)
	}
	return nil
}

// written returns how many rows the checkpoints of a scope's generation count.
func written(ctx context.Context, q querier, s scope) (rows int64, err error) {
	err = q.QueryRow(ctx, `SELECT coalesce(sum(rows_written), 0)::bigint FROM projection_checkpoints
 WHERE projection = $1 AND generation = $2`, s.projection, s.generation).Scan(&rows)
	if err != nil {
		return 0, fmt.Errorf("reading the checkpoints: %w", err)
	}
	return rows, nil
}

// mismatch says why a new generation has to begin; empty when target and checkpoints belong together.
func mismatch(generation string, t State, written int64, otherStore bool) string {
	switch {
	case generation == "" && (t.Missing || t.Empty):
		return reasonFirst
	case generation == "":
		return "the checkpoints are gone and the target has rows"
	case t.Missing:
		return "the target is gone"
	case otherStore && t.Generation != generation:
		return fmt.Sprintf("the target carries generation %q", t.Generation)
	case t.Empty && written > 0:
		return "the target is empty although rows had been written"
	}
	return ""
}

// begin empties the target and forgets what had been applied. Checkpoints go first: an owner of the old generation that is in the
// middle of a transaction holds its checkpoint and then its rows, in the same order.
func (r *Runner) begin(ctx context.Context, tx pgx.Tx, generation, reason string) error {
	p := r.cfg.Projection
	for _, q := range []string{
		"DELETE FROM projection_checkpoints WHERE projection = $1",
		"DELETE FROM projection_marks WHERE projection = $1",
		"DELETE FROM projection_generations WHERE projection = $1",
	} {
		if _, err := tx.Exec(ctx, q, p.Name); err != nil {
			return fmt.Errorf("forgetting the old generation: %w", err)
		}
	}
	if err := p.Target.Reset(ctx, tx, generation); err != nil {
		return fmt.Errorf("emptying the target: %w", err)
	}
	if _, err := tx.Exec(ctx, "INSERT INTO projection_generations (projection, generation, reason) VALUES ($1, $2, $3)",
		p.Name, generation, reason); err != nil {
		return fmt.Errorf("recording generation %s: %w", generation, err)
	}
	return nil
}
