// Package harness runs the whole system for tests: every role, every store, in this process and
// on free ports. With RATEGUARD_TEST_STORES=real the stores are Apache Kafka, Redis and
// PostgreSQL processes of the machine instead of the embedded ones, so that each suite runs
// on both.
package harness

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/deploy/mockprovider"
	"github.com/rateguard/rateguard/deploy/standalone"
	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/processors"
	"github.com/rateguard/rateguard/tests/harness/apachekafka"
)

// System is a running RateGuard and the mock provider that its tenants' routes lead to.
type System struct {
	Endpoints
	// Mock is outside of the system: it lives on when the system is stopped, and remembers everything.
	Mock *mockprovider.Provider

	inner  *standalone.System
	dir    string
	stores Stores
}

// Config returns the settings, with the URLs of all stores.
func (s *System) Config() standalone.Config { return s.inner.Config() }

// AdminURL is the base URL of the admin and analytics API, without /v1.
func (s *System) AdminURL() string { return s.inner.AdminURL() }

// AdminToken is what the admin API asks for.
func (s *System) AdminToken() string { return s.inner.AdminToken() }

// Broker returns the process of Apache Kafka; nil with embedded stores.
func (s *System) Broker() *apachekafka.Broker { return s.stores.Broker }

// Processors returns the role that keeps the spend table.
func (s *System) Processors() *processors.Server { return s.inner.Processors() }

// Close stops everything in order.
func (s *System) Close() error { return s.inner.Close() }

// Endpoints is all that a client of RateGuard knows; MockURL is where its routes lead.
type Endpoints struct {
	ProxyURL string
	Admin    *adminclient.Client
	MockURL  string
}

// Main is what TestMain of every package that uses the harness calls: engines are children that
// run this very binary, and the shared system ends after the last test, then what after undoes.
func Main(m *testing.M, after ...func() error) {
	child.Main()
	code := m.Run()
	for _, undo := range append([]func() error{shared.close}, after...) {
		if err := undo(); err != nil {
			_, _ = fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// New starts a system of tb's own.
func New(tb testing.TB) *System {
	tb.Helper()
	return NewOn(tb, StartStores(tb))
}

// NewOn is New on stores that are there; those without a URL are embedded.
func NewOn(tb testing.TB, st Stores) *System {
	tb.Helper()
	mock := StartMock(tb)
	s, err := start(tb.Context(), tb.TempDir(), st, mock)
	if err != nil {
		tb.Fatalf("starting the system: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("stopping the system: %v", err)
		}
	})
	return s
}

// Adopt starts a system on what a process left.
func Adopt(tb testing.TB, p *Process, mock Mock) *System {
	tb.Helper()
	s, err := start(tb.Context(), p.Dir, p.stores, mock)
	if err != nil {
		tb.Fatalf("starting the system: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("stopping the system: %v", err)
		}
	})
	return s
}

// Restart stops the system, lets between change its data folder, and starts it again on it.
func (s *System) Restart(tb testing.TB, between func(dir string)) {
	tb.Helper()
	if err := s.Close(); err != nil {
		tb.Fatalf("stopping the system: %v", err)
	}
	between(filepath.Join(s.dir, "data"))
	again, err := start(tb.Context(), s.dir, s.stores, Mock{s.Mock, s.MockURL})
	if err != nil {
		tb.Fatalf("starting the system again: %v", err)
	}
	*s = *again
}

// Mock is a mock provider that listens.
type Mock struct {
	*mockprovider.Provider
	URL string
}

// StartMock starts a mock provider that answers at once, remembers all and ends with the test.
func StartMock(tb testing.TB) Mock {
	tb.Helper()
	m, stop, err := startMock(context.WithoutCancel(tb.Context()))
	if err != nil {
		tb.Fatalf("starting the mock provider: %v", err)
	}
	tb.Cleanup(func() {
		if err := stop(); err != nil {
			tb.Errorf("stopping the mock provider: %v", err)
		}
	})
	return m
}

func startMock(ctx context.Context) (Mock, func() error, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return Mock{}, nil, fmt.Errorf("listening: %w", err)
	}
	p := mockprovider.New(mockprovider.Config{Credential: Credential, Keep: -1})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l) }()
	return Mock{p, "http://" + l.Addr().String()}, func() error { cancel(); return <-done }, nil
}

func start(ctx context.Context, dir string, st Stores, mock Mock) (*System, error) {
	cfg := standalone.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.Demo, cfg.MockAddr = false, ""
	cfg.RedisURL, cfg.PostgresURL, cfg.Kafka.Brokers = st.Redis, st.Postgres, st.Kafka
	for _, l := range []*net.Listener{&cfg.Listeners.Proxy, &cfg.Listeners.Admin, &cfg.Listeners.Ops} {
		var err error
		if *l, err = (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
			return nil, fmt.Errorf("listening: %w", err)
		}
	}
	log, err := os.OpenFile(filepath.Join(dir, "system.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	// The start alone is bound to ctx: a system outlives the test that starts it first.
	inner, err := standalone.Start(context.WithoutCancel(ctx), cfg, slog.New(slog.NewTextHandler(log, nil)), nil)
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("%w\n%s", err, text[max(0, len(text)-4000):])
	}
	return &System{
		inner: inner, Mock: mock.Provider, dir: dir, stores: st,
		Endpoints: Endpoints{ProxyURL: inner.ProxyURL(), Admin: adminclient.New(inner.AdminURL(), inner.AdminToken()), MockURL: mock.URL},
	}, nil
}

// shared is the system that tests of one package use together, each with a tenant of its own.
var shared sharedSystem //nolint:gochecknoglobals // one for each test binary; TestMain ends it

type sharedSystem struct {
	mu      sync.Mutex // guards what follows
	system  *System
	cleanup []func() error
}

// Shared returns the system that the tests of this package share; the first call starts it.
func Shared(tb testing.TB) *System {
	tb.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.system != nil {
		return shared.system
	}
	ctx := context.WithoutCancel(tb.Context())
	dir, err := os.MkdirTemp("", "rateguard-e2e-") //nolint:usetesting // outlives the test that makes it
	if err != nil {
		tb.Fatalf("making a folder: %v", err)
	}
	mock, stop, err := startMock(ctx)
	if err != nil {
		tb.Fatalf("starting the mock provider: %v", err)
	}
	shared.cleanup = append(shared.cleanup, func() error { return os.RemoveAll(dir) }, stop)
	st, closeStores, err := startStores(ctx, dir)
	shared.cleanup = append(shared.cleanup, closeStores)
	if err != nil {
		tb.Fatalf("starting the stores: %v", err)
	}
	s, err := start(ctx, dir, st, mock)
	if err != nil {
		tb.Fatalf("starting the shared system: %v", err)
	}
	shared.cleanup = append(shared.cleanup, s.Close)
	shared.system = s
	return s
}

func (s *sharedSystem) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := len(s.cleanup) - 1; i >= 0; i-- {
		if err := s.cleanup[i](); err != nil {
			return fmt.Errorf("stopping the shared system: %w", err)
		}
	}
	return nil
}
