package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Progress is how far a projection has followed the log.
type Progress struct {
	// Lag is the number of records in the log that are not applied yet.
	Lag int64
	// AsOf is the instant up to which the projection shows everything: of the slowest partition, the
	// time of its newest applied record while it lags, else the time it was last seen without lag.
	// Zero when the projection has not started.
	AsOf time.Time
}

// ReadProgress returns the progress of a projection's live generation, as its owners last reported it
// (once a second; a projection that is down keeps its last report, and AsOf grows old).
func ReadProgress(ctx context.Context, pool *pgxpool.Pool, projection string) (Progress, error) {
	const query = `
SELECT coalesce(sum(greatest(c.end_offset - c.next_offset, 0)), 0)::bigint,
       min(CASE WHEN c.end_offset > c.next_offset THEN coalesce(c.as_of, 'epoch') ELSE c.observed_at END)
  FROM projection_checkpoints c
  JOIN projection_generations g USING (projection, generation)
 WHERE projection = $1 AND c.observed_at IS NOT NULL`
	var p Progress
	var asOf *time.Time
	if err := pool.QueryRow(ctx, query, projection).Scan(&p.Lag, &asOf); err != nil {
		return Progress{}, fmt.Errorf("reading the progress of projection %s: %w", projection, err)
	}
	if asOf != nil {
		p.AsOf = *asOf
	}
	return p, nil
}
