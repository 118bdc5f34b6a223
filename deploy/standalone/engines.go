package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/deploy/standalone/clickhouse"
	"github.com/rateguard/rateguard/deploy/standalone/fetch"
	"github.com/rateguard/rateguard/deploy/standalone/kafka"
	"github.com/rateguard/rateguard/deploy/standalone/postgres"
	"github.com/rateguard/rateguard/deploy/standalone/redis"
)

// engine is a running embedded store.
type engine interface {
	// Done is closed when the engine is gone for good; Err says why it was not Close.
	Done() <-chan struct{}
	Err() error
	Close() error
}

var (
	_ engine = (*kafka.Server)(nil)
	_ engine = (*redis.Server)(nil)
	_ engine = (*postgres.Server)(nil)
	_ engine = (*clickhouse.Server)(nil)
)

// engines are the embedded stores, by name.
type engines struct {
	mu      sync.Mutex // guards running while they start
	running map[string]engine
}

// startEngines starts the embedded stores that no URL replaces, all at once, and puts their
// addresses into the settings.
func startEngines(ctx context.Context, cfg *Config, log *slog.Logger, progress fetch.Progress) (*engines, error) {
	e := &engines{running: map[string]engine{}}
	in := *cfg // what is read while the goroutines write their addresses
	g, ctx := errgroup.WithContext(ctx)
	if in.Kafka.Brokers == "" {
		g.Go(func() error {
			s, err := kafka.Start(ctx, kafka.Config{Dir: in.path("kafka"), Log: log, Progress: progress})
			if err != nil {
				return err
			}
			e.add("kafka", s)
			cfg.Kafka.Brokers = s.Brokers()
			return nil
		})
	}
	if in.RedisURL == "" {
		if in.Kafka.Brokers != "" {
			// Each would find the other's heartbeats missing in its own Redis and close it as gone.
			progress.Say("warning: Kafka is outside and Redis is embedded: no second proxy may use this Kafka; several need one redis-url")
		}
		g.Go(func() error {
			s, err := redis.Start(ctx, redis.Config{Dir: in.path("redis"), Log: log, Progress: progress})
			if err != nil {
				return err
			}
			e.add("redis", s)
			cfg.RedisURL = s.URL()
			return nil
		})
	}
	if in.PostgresURL == "" {
		g.Go(func() error {
			s, err := postgres.Start(ctx, postgres.Config{Dir: in.path("postgres"), CacheDir: in.CacheDir, Log: log, Progress: progress})
			if err != nil {
				return err
			}
			e.add("postgres", s)
			cfg.PostgresURL = s.URL()
			return nil
		})
	}
	if in.ClickHouseURL == "" {
		g.Go(func() error {
			s, err := clickhouse.Start(ctx, clickhouse.Config{Dir: in.path("clickhouse"), CacheDir: in.CacheDir, Log: log, Progress: progress})
			if err != nil {
				return err
			}
			e.add("clickhouse", s)
			cfg.ClickHouseURL = s.URL()
			return nil
		})
	}
	begin := time.Now()
	if err := g.Wait(); err != nil {
		return nil, errors.Join(err, e.close())
	}
	log.Info("stores are up", slog.Int("embedded", len(e.running)), slog.Duration("took", time.Since(begin)))
	return e, nil
}

func (e *engines) add(name string, s engine) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running[name] = s
}

// watch calls died when an engine is gone for good; it returns when stop is closed.
func (e *engines) watch(stop <-chan struct{}, died func(error)) {
	var wg sync.WaitGroup
	for name, s := range e.running {
		wg.Go(func() {
			select {
			case <-stop:
			case <-s.Done():
				select {
				case <-stop:
				default:
					died(fmt.Errorf("the embedded %s is gone: %w", name, errors.Join(s.Err(), errors.New("it does not come back"))))
				}
			}
		})
	}
	wg.Wait()
}

// close stops them all at once.
func (e *engines) close() error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for name, s := range e.running {
		wg.Go(func() {
			if err := s.Close(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("stopping the embedded %s: %w", name, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
