// Package standalone runs every role of RateGuard in one process on embedded stores, each of
// which a URL replaces by a real server. The roles are the same code as in production
// and get nothing but the addresses that production sets.
package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/mockprovider"
	"github.com/rateguard/rateguard/deploy/standalone/fetch"
	"github.com/rateguard/rateguard/processors"
	"github.com/rateguard/rateguard/proxy"
	"github.com/rateguard/rateguard/topics/provision"
)

// The stages, stopped from the last to the first: no request is accepted any more, what was
// served is in the log, then nobody reads the log, then the other side and the ops server end.
const (
	stageOps = iota
	stageMock
	stageConsumers
	stageProxy
	lastStage = stageProxy
)

// How long a start may take to become ready, and how often it is looked at.
const (
	readyPatience = 2 * time.Minute
	readyInterval = 20 * time.Millisecond
)

// role is a part of RateGuard: Run serves until ctx ends and everything is drained; Ready is nil
// when it can do its work.
type role interface {
	Run(ctx context.Context) error
	Ready() error
}

// named is a role with its place in the process.
type named struct {
	role
	name  string
	stage int
}

// System is a running RateGuard.
type System struct {
	cfg        Config
	log        *slog.Logger
	registry   *prometheus.Registry
	unlock     func() error
	engines    *engines
	group      *group
	roles      []named
	mock       *mockprovider.Provider
	processors *processors.Server
	proxy      *proxy.Server
	demo       Demo
	// ownToken reports that the admin token is the generated one.
	ownToken bool

	watching  sync.WaitGroup
	stopWatch chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// Start starts everything and returns when it is ready. ctx bounds the start; Close stops what
// it started. Progress is told of long steps in one line each; nil: nothing.
func Start(ctx context.Context, cfg Config, log *slog.Logger, progress fetch.Progress) (*System, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking the settings:\n%w", err)
	}
	unlock, err := openDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	s := &System{
		cfg: cfg, log: log, registry: prometheus.NewRegistry(), unlock: unlock, engines: &engines{}, group: newGroup(ctx, log), stopWatch: make(chan struct{}),
	}
	if err := s.start(ctx, progress); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *System) start(ctx context.Context, progress fetch.Progress) error {
	if err := s.cfg.listen(ctx); err != nil {
		return err
	}
	s.ownToken = s.cfg.AdminToken == ""
	if err := s.cfg.generateSecrets(); err != nil {
		return err
	}
	s.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	running, err := startEngines(ctx, &s.cfg, s.log, progress)
	if err != nil {
		return err
	}
	s.engines = running
	s.watching.Go(func() { running.watch(s.stopWatch, s.group.fail) })
	if err := s.provision(ctx); err != nil {
		return err
	}
	if s.roles, err = s.newRoles(s.group.ctx); err != nil { //nolint:contextcheck // ctx bounds the start, the group what runs
		return err
	}
	s.group.run(stageOps, "ops", func(ctx context.Context) error { return serveOps(ctx, s.cfg.Listeners.Ops, s.registry, s.Ready) }) //nolint:contextcheck // ctx bounds the start, the group what runs
	if err := s.startMock(); err != nil {                                                                                            //nolint:contextcheck // ctx bounds the start, the group what runs
		return err
	}
	for _, r := range s.roles {
		s.group.run(r.stage, r.name, r.Run) //nolint:contextcheck // ctx bounds the start, the group what runs
	}
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	if s.cfg.Demo {
		return s.seedDemo(ctx)
	}
	return nil
}

// provision makes the topics.
func (s *System) provision(ctx context.Context) error {
	opts, err := s.cfg.Kafka.Options()
	if err != nil {
		return fmt.Errorf("reading the Kafka settings: %w", err)
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("connecting to Kafka: %w", err)
	}
	defer client.Close()
	if err := provision.Apply(ctx, kadm.NewClient(client), provision.Standalone()); err != nil {
		return fmt.Errorf("making the topics: %w", err)
	}
	return nil
}

func (s *System) startMock() error {
	if s.cfg.Listeners.Mock == nil {
		return nil
	}
	pace, err := mockprovider.ParsePace(s.cfg.MockPace)
	if err != nil {
		return fmt.Errorf("mock-pace: %w", err)
	}
	s.mock = mockprovider.New(mockprovider.Config{Pace: pace, Log: s.log})
	s.group.run(stageMock, "mock provider", func(ctx context.Context) error { return s.mock.Serve(ctx, s.cfg.Listeners.Mock) })
	return nil
}

// awaitReady waits until every role can do its work.
func (s *System) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyPatience)
	defer cancel()
	ticker := time.NewTicker(readyInterval)
	defer ticker.Stop()
	for {
		err := s.Ready()
		if err == nil {
			return nil
		}
		select {
		case <-s.group.failed:
			return s.group.cause
		case <-ctx.Done():
			return fmt.Errorf("waiting until everything is ready: %w (%w)", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// Ready returns nil when every role is ready, else what is missing.
func (s *System) Ready() error {
	var errs []error
	for _, r := range s.roles {
		if err := r.Ready(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.name, err))
		}
	}
	return errors.Join(errs...)
}

// Run waits until ctx ends or a part dies, then stops everything in order.
func (s *System) Run(ctx context.Context) error {
	var cause error
	select {
	case <-ctx.Done():
	case <-s.group.failed:
		cause = s.group.cause
	}
	return errors.Join(cause, s.Close())
}

// Failed is closed when a part died; Close is then all that is left to do.
func (s *System) Failed() <-chan struct{} { return s.group.failed }

// Close stops accepting requests, finishes the running ones, ships what is in the spool, ends the
// consumers and then the stores. It may be called more than once.
func (s *System) Close() error {
	s.closeOnce.Do(func() {
		err := s.group.stop()
		close(s.stopWatch)
		s.watching.Wait()
		s.cfg.closeListeners()
		s.closeErr = errors.Join(err, s.engines.close(), s.unlock())
	})
	return s.closeErr
}

// ProxyURL is the data plane's base URL.
func (s *System) ProxyURL() string { return reachable(s.cfg.Listeners.Proxy) }

// AdminURL is the admin API's base URL, without /v1.
func (s *System) AdminURL() string { return reachable(s.cfg.Listeners.Admin) }

// OpsURL is the base URL of health and metrics.
func (s *System) OpsURL() string { return reachable(s.cfg.Listeners.Ops) }

// MockURL is the mock provider's base URL, empty without one.
func (s *System) MockURL() string { return reachable(s.cfg.Listeners.Mock) }

// Mock is the mock provider, nil without one.
func (s *System) Mock() *mockprovider.Provider { return s.mock }

// Processors is the role that folds the log, for what a workspace has spent.
func (s *System) Processors() *processors.Server { return s.processors }

// AdminToken is the admin API's root credential.
func (s *System) AdminToken() string { return s.cfg.AdminToken }

// Demo is the seeded workspace; the zero value without one.
func (s *System) Demo() Demo { return s.demo }

// Registry holds the metrics of every role.
func (s *System) Registry() *prometheus.Registry { return s.registry }

// Config returns the settings with the addresses and secrets that the start filled in.
func (s *System) Config() Config { return s.cfg }

// Embedded returns the names of the stores that run inside, sorted.
func (s *System) Embedded() []string {
	var names []string
	for name := range s.engines.running {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
