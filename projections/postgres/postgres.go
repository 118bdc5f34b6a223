// Package postgres opens the PostgreSQL database of the projections and of control, and
// keeps its schema: one sequence of migrations, embedded here, for everything that lives in it.
package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Limits of the pool. A role needs few connections: writes are batched.
const (
	maxConns       = 16
	connectTimeout = 5 * time.Second
)

// Open returns a pool of connections to the database at url ("postgres://…"). It does not
// connect: the first use does. Every session speaks UTC.
func Open(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("reading the PostgreSQL URL: %w", err)
	}
	cfg.MaxConns = maxConns
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.ConnConfig.RuntimeParams["timezone"] = "UTC"
	if cfg.ConnConfig.RuntimeParams["application_name"] == "" {
		cfg.ConnConfig.RuntimeParams["application_name"] = "rateguard"
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("opening PostgreSQL: %w", err)
	}
	return pool, nil
}
