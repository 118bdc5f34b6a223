// Package postgres opens the PostgreSQL database of the projections and of control, and
// keeps its schema: one sequence of migrations, embedded here, for everything that lives in it.
package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Limits of the pool. A role needs few connections: writes are batched.
const (
	maxConns       = 16
	connectTimeout = 5 * time.Second
)

// bounds end the session of a process that hangs within a transaction, or whose machine is gone: whoever takes its work over waits for the locks that it holds. TCP alone
// would keep them for two hours. They are set in the session, as poolers refuse to start one with settings that they do not know.
const bounds = `SET idle_in_transaction_session_timeout = '10s';
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3`

func bound(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, bounds); err != nil {
		return fmt.Errorf("bounding a session of PostgreSQL: %w", err)
	}
	return nil
}

// Connect returns a session of its own, for locks that live as long as it does.
func Connect(ctx context.Context, url string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("reading the PostgreSQL URL: %w", err)
	}
	cfg.ConnectTimeout = connectTimeout
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	if err := bound(ctx, conn); err != nil {
		_ = conn.Close(context.WithoutCancel(ctx))
		return nil, err
	}
	return conn, nil
}

// Open returns a pool of connections to the database at url ("postgres://…"). It does not
// connect: the first use does. Every session speaks UTC.
func Open(ctx context.Context, url string) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("reading the PostgreSQL URL: %w", err)
	}
	cfg.MaxConns = maxConns
	cfg.ConnConfig.ConnectTimeout = connectTimeout
	cfg.AfterConnect = bound
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
