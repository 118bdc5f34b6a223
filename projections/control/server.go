// Package control is the admin API: it keeps workspaces, keys, routes and limits in Postgres, the system of
// record, and tells the data plane of every change through a transactional outbox and the log. It serves
// the analytics API of package query beside it, because both share one address, one set of credentials
// and one description (openapi.yaml).
package control

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/projections/control/drift"
	"github.com/rateguard/rateguard/projections/control/mirror"
	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/projections/query"
	"github.com/rateguard/rateguard/schemas/secret"
)

// Bounds of a connection of the API. Answers are small: whoever reads them slower than this holds us up.
const (
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 90 * time.Second
	idleTimeout   = 2 * time.Minute
	drainTimeout  = 10 * time.Second
	pingTimeout   = 2 * time.Second
	maxHeader     = 64 << 10
)

// Server is the control role: the API and the relay.
type Server struct {
	cfg        Config
	log        *slog.Logger
	metrics    *metrics
	pool       *pgxpool.Pool
	query      *query.Service
	mirror     *mirror.Mirror // nil: off
	drift      *drift.Metrics
	adminSum   [sha256.Size]byte
	secretKey  [secret.KeySize]byte
	producerID string
	handler    http.Handler
	listener   net.Listener
}

// New brings the schema of Postgres to this release's and opens the listener; the API answers and the relay works once
// Run is called. Without Postgres it fails; without ClickHouse or Kafka it does not.
func New(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Server, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	sealing, err := secret.ParseKey(cfg.SecretKey)
	if err != nil {
		return nil, fmt.Errorf("secret-key: %w", err)
	}
	producer, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("making a producer id: %w", err)
	}
	if err := postgres.Migrate(ctx, cfg.PostgresURL); err != nil {
		return nil, err
	}
	pool, err := postgres.Open(ctx, cfg.PostgresURL)
	if err != nil {
		return nil, err
	}
	analytics, err := query.New(cfg.ClickHouseURL, pool)
	if err != nil {
		pool.Close()
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: log, metrics: newMetrics(reg), drift: drift.NewMetrics(reg), pool: pool, query: analytics,
		adminSum: sha256.Sum256([]byte(cfg.AdminToken)), secretKey: sealing, producerID: producer.String(), listener: cfg.Listener,
	}
	s.handler = s.newHandler()
	if cfg.RedisURL != "" {
		if s.mirror, err = mirror.New(mirror.Config{URL: cfg.RedisURL, Load: s.mirrored, Log: log, Metrics: reg}); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	if s.listener == nil {
		var lc net.ListenConfig
		if s.listener, err = lc.Listen(ctx, "tcp", cfg.AdminAddr); err != nil {
			return nil, errors.Join(fmt.Errorf("listening on %s: %w", cfg.AdminAddr, err), s.Close())
		}
	}
	return s, nil
}

// Handler returns the API without its listener.
func (s *Server) Handler() http.Handler { return s.handler }

// Addr returns the address that the API listens on.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close frees what New opened. Run calls it at its end; a caller that never runs the server calls it itself.
func (s *Server) Close() error {
	s.pool.Close()
	err := s.query.Close()
	if s.mirror != nil {
		err = errors.Join(err, s.mirror.Close())
	}
	if s.listener != nil {
		if cerr := s.listener.Close(); !errors.Is(cerr, net.ErrClosed) {
			err = errors.Join(err, cerr)
		}
	}
	return err
}

// Run serves the API and relays changes until ctx ends, finishes the requests that run and returns nil.
func (s *Server) Run(ctx context.Context) error {
	server := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving the admin API: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(gctx), drainTimeout)
		defer cancel()
		if err := server.Shutdown(drain); err != nil {
			return errors.Join(fmt.Errorf("draining the admin API: %w", err), server.Close())
		}
		return nil
	})
	g.Go(func() error {
		(&relay{server: s}).run(gctx)
		return nil
	})
	if s.mirror != nil {
		g.Go(func() error { return s.mirror.Run(gctx) })
	}
	err := g.Wait()
	return errors.Join(err, s.Close())
}

// Ready returns nil when the API can serve changes.
func (s *Server) Ready() error {
	ctx, cancel := context.WithTimeout(context.Background(), pingTimeout)
	defer cancel()
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("reaching PostgreSQL: %w", err)
	}
	return nil
}

// now returns the time as Postgres and the events keep it.
func (s *Server) now() time.Time { return time.Now().UTC().Truncate(time.Microsecond) }
