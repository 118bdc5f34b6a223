package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rateguard/rateguard/deploy/standalone/postgres"
	"github.com/rateguard/rateguard/deploy/standalone/redis"
	"github.com/rateguard/rateguard/tests/harness/apachekafka"
)

// Stores are the URLs of external stores; an empty one means the embedded store.
type Stores struct {
	Redis, Postgres, Kafka string
	// Broker is the process behind Kafka, nil with embedded stores.
	Broker *apachekafka.Broker
}

// Real reports whether the stores are to be real servers.
func Real() bool { return os.Getenv("RATEGUARD_TEST_STORES") == "real" }

// StartStores starts what Real asks for, for the length of the test.
func StartStores(tb testing.TB) Stores {
	tb.Helper()
	st, stop, err := startStores(context.WithoutCancel(tb.Context()), tb.TempDir())
	tb.Cleanup(func() {
		if err := stop(); err != nil {
			tb.Errorf("stopping the stores: %v", err)
		}
	})
	if err != nil {
		tb.Fatalf("starting the stores: %v", err)
	}
	return st
}

// startStores starts what Real asks for; stop is never nil.
func startStores(ctx context.Context, dir string) (st Stores, stop func() error, err error) {
	var stops []func() error
	stop = func() error {
		var errs []error
		for i := len(stops) - 1; i >= 0; i-- {
			errs = append(errs, stops[i]())
		}
		return errors.Join(errs...)
	}
	if !Real() {
		return Stores{}, stop, nil
	}
	r, err := redis.Start(ctx, redis.Config{Dir: filepath.Join(dir, "redis"), NoFallback: true})
	if err != nil {
		return st, stop, fmt.Errorf("starting Redis: %w", err)
	}
	stops = append(stops, r.Close)
	p, err := postgres.Start(ctx, postgres.Config{Dir: filepath.Join(dir, "postgres")})
	if err != nil {
		return st, stop, fmt.Errorf("starting PostgreSQL: %w", err)
	}
	stops = append(stops, p.Close)
	k, err := apachekafka.Start(ctx, filepath.Join(dir, "kafka"))
	if err != nil {
		return st, stop, fmt.Errorf("starting Apache Kafka: %w", err)
	}
	stops = append(stops, k.Close)
	return Stores{Redis: r.URL(), Postgres: p.URL(), Kafka: k.Brokers(), Broker: k}, stop, nil
}
