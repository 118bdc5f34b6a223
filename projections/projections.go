// Package projections is the role that follows the log into the databases that people ask: requests into
// ClickHouse, ledger and balances into PostgreSQL, and what corrects costs into ClickHouse. Everything it writes can be made again from the log.
package projections

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/projections/balances"
	"github.com/rateguard/rateguard/projections/clickhouse"
	"github.com/rateguard/rateguard/projections/corrections"
	"github.com/rateguard/rateguard/projections/ledger"
	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/projections/requests"
	"github.com/rateguard/rateguard/projections/runner"
)

// Server runs all projections.
type Server struct {
	runners []*runner.Runner
	pool    *pgxpool.Pool
	store   driver.Conn
}

// All returns the projections of the role.
func All(store driver.Conn) []runner.Projection {
	return []runner.Projection{
		requests.New(clickhouse.Requests(store)),
		ledger.New(),
		balances.New(),
		corrections.New(clickhouse.Corrections(store), ledger.Name),
	}
}

// New returns the role; it connects to nothing yet, and stores that are down do not fail it. reg may be nil.
func New(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking the settings of projections: %w", err)
	}
	kafka, err := cfg.Kafka.Options()
	if err != nil {
		return nil, fmt.Errorf("reading the settings of Kafka: %w", err)
	}
	metrics, err := runner.NewMetrics(reg)
	if err != nil {
		return nil, err
	}
	pool, err := postgres.Open(ctx, cfg.PostgresURL)
	if err != nil {
		return nil, err
	}
	store, err := clickhouse.Open(cfg.ClickHouseURL)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s := &Server{pool: pool, store: store}
	for _, p := range All(store) {
		rc := runner.Config{
			Projection: p, PostgresURL: cfg.PostgresURL, Pool: pool, Migrate: postgres.Migrate, Kafka: kafka, Instance: cfg.Instance,
			Linger: cfg.Linger, MaxBatch: cfg.MaxBatch, AcceptLogLoss: cfg.AcceptLogLoss, Log: log, Metrics: metrics,
		}
		if cfg.Fail != nil {
			rc.Fail = func(step runner.Step) error { return cfg.Fail(p.Name, step) }
		}
		s.runners = append(s.runners, runner.New(rc))
	}
	return s, nil
}

// Run follows the log until ctx ends; batches that have begun are finished, and nil is returned. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	defer s.pool.Close()
	defer func() { _ = s.store.Close() }()
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range s.runners {
		g.Go(func() error { return r.Run(ctx) })
	}
	return g.Wait()
}

// Ready returns nil when every projection follows the log, else which do not and why.
func (s *Server) Ready() error {
	var errs []error
	for _, r := range s.runners {
		errs = append(errs, r.Ready())
	}
	return errors.Join(errs...)
}
