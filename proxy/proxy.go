// Package proxy is the data plane: it authenticates keys, forwards requests to their providers, counts
// what they cost and writes every one of them into the log. chain.go shows the path of a request.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/proxy/budget"
	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/emit"
	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/forward"
	"github.com/rateguard/rateguard/proxy/forward/upstream"
	"github.com/rateguard/rateguard/proxy/intake"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/proxy/ratelimit"
	"github.com/rateguard/rateguard/proxy/rebuild"
	"github.com/rateguard/rateguard/proxy/rebuild/keeper"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/secret"
)

// Server is the proxy role. Make it with New, run it once with Run.
type Server struct {
	cfg      Config
	log      *slog.Logger
	listener net.Listener
	spool    *spool.Spool
	store    *lua.Store
	amends   *ratelimit.Amends
	leases   *ratelimit.Leases
	budgets  *budget.Leases
	gate     *epoch.Gate
	installs *epoch.Installs
	rebuild  *rebuild.Rebuilder
	keeper   *keeper.Keeper
	view     *policy.View
	follower *policy.Follower
	client   *upstream.Client
	events   *emit.Emitter
	chain    call.Handler
	errors   *prometheus.CounterVec
	isolated prometheus.Gauge
}

// New opens the spool and the listener and loads the configuration snapshot. It needs no Kafka.
func New(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Server, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("checking the proxy's settings: %w", err)
	}
	key, err := secret.ParseKey(cfg.SecretKey)
	if err != nil {
		return nil, fmt.Errorf("checking the proxy's settings: %w", err)
	}
	sp, err := spool.Open(ctx, cfg.spool(log, reg))
	if err != nil {
		return nil, fmt.Errorf("starting the proxy: %w", err)
	}
	listener := cfg.Listener
	if listener == nil {
		if listener, err = new(net.ListenConfig).Listen(ctx, "tcp", cfg.Addr); err != nil {
			return nil, errors.Join(fmt.Errorf("starting the proxy: %w", err), sp.Close())
		}
	}
	s := &Server{cfg: cfg, log: log, listener: listener, spool: sp, client: upstream.New(upstream.Config{})}
	if err := s.build(key, reg); err != nil {
		return nil, errors.Join(fmt.Errorf("starting the proxy: %w", err), listener.Close(), sp.Close())
	}
	return s, nil
}

// build makes what stands on the spool and the listener.
func (s *Server) build(key [secret.KeySize]byte, reg prometheus.Registerer) error {
	store, err := lua.OpenStore(lua.StoreConfig{
		URL: s.cfg.RedisURL, Timeout: s.cfg.RedisTimeout, OnChange: s.storeChanged, Log: s.log, Metrics: reg,
	})
	if err != nil {
		return err
	}
	s.store = store
	s.gate = epoch.NewGate()
	s.installs = epoch.NewInstalls(s.gate, lua.NewWants(store.Client()), lua.NewBalances(store), s.log)
	admissions := lua.NewAdmissions(store, reg)
	admissions.Obey(s.gate.Least)
	s.amends = ratelimit.NewAmends(admissions, s.installs.Ask, s.log, reg)
	s.leases = ratelimit.NewLeases(ratelimit.LeaseConfig{Holder: s.spool.ProducerID(), Store: admissions, Log: s.log, Metrics: reg})
	view := policy.NewView(key, s.log)
	s.view = view
	s.follower = policy.NewFollower(view, s.cfg.Kafka, filepath.Join(s.cfg.DataDir, "config-snapshot"), s.log, reg)
	if err := s.buildRebuild(store, reg); err != nil {
		return errors.Join(err, store.Close())
	}
	s.errors = newErrorCounter(reg)
	s.isolated = newIsolatedGauge(reg)
	s.events = emit.New(s.spool, s.gate, s.log, reg)
	s.budgets = budget.NewLeases(budget.LeaseOptions{
		Store: admissions, Log: s.events, Epochs: s.installs, Producer: s.spool.ProducerID(), Slog: s.log, Metrics: reg,
		Cancel: func(r *lua.Request) { s.amends.Add(lua.Cancel, r, 0) },
	})
	s.chain = newChain(parts{
		view: view, events: s.events, client: s.client, slog: s.log, metrics: reg,
		intake:  intake.Config{MaxBody: s.cfg.MaxBody, CountryHeader: s.cfg.CountryHeader, ClientIPHeader: s.cfg.ClientIPHeader},
		forward: forward.Config{Drain: s.cfg.Drain, MaxResponse: s.cfg.MaxResponse},
		limits: ratelimit.Options{
			Store: admissions, Policies: &policies{view: view, store: s.store}, Amends: s.amends, Leases: s.leases,
			Budgets: budget.New(budget.Options{Epochs: s.installs, Producer: s.spool.ProducerID(), Leases: s.budgets, Metrics: reg}),
			Proxies: s.rebuild.Living, Log: s.log, Metrics: reg,
		},
	})
	return nil
}

// buildRebuild makes what speaks with the log for others: who closes producers, and who keeps the budgets in Redis.
func (s *Server) buildRebuild(store *lua.Store, reg prometheus.Registerer) (err error) {
	balances, wants, policies := lua.NewBalances(store), lua.NewWants(store.Client()), budgeted{s.view, s.follower}
	s.rebuild, err = rebuild.New(rebuild.Config{
		Spool: s.spool, Kafka: s.cfg.Kafka, Redis: store.Client(), Gate: s.gate, Log: s.log, Metrics: reg,
		Budgets: &rebuild.Budgets{Balances: balances, Wants: wants, Policies: policies},
	})
	if err != nil {
		return err
	}
	s.keeper = keeper.New(keeper.Config{
		Kafka: s.cfg.Kafka, Spool: s.spool, Roster: s.rebuild.Roster(), Policies: policies, Log: s.log, Metrics: reg,
		Redis: keeper.Redis{Balances: balances, Wants: wants, Offices: lua.NewProducers(store.Client())},
	})
	return nil
}

func newErrorCounter(reg prometheus.Registerer) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rateguard_proxy_errors_total", Help: "Errors written to clients, by code, strangers' included.",
	}, []string{"code"})
	reg.MustRegister(c)
	return c
}

// Addr returns the address of the data plane.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Ready returns nil when requests can be served.
func (s *Server) Ready() error { return s.follower.Ready() }

// heapRoom is what the heap may grow by at least between two collections, in bytes.
const heapRoom = 32 << 20

// ErrFenced means that another process took this one for gone and closed it in the log.
var ErrFenced = errors.New("this proxy was closed by another process")

// Run serves until ctx ends; then it stops accepting, finishes the requests in flight, ships the spool and returns nil.
// It ends the same way, with ErrFenced, when another process closes this one.
func (s *Server) Run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	// What a proxy keeps is a few megabytes, so that the collector would run several times a second. This room, which is
	// never touched and so takes no memory, lets the heap grow to twice its size first.
	room := make([]byte, heapRoom)
	defer runtime.KeepAlive(room)
	// What keeps the producer alive, counts denials and ships events goes on until the last request has ended.
	back := context.WithoutCancel(ctx)
	shipping, stopShipping := context.WithCancel(back)
	defer stopShipping()
	beating, stopBeating := context.WithCancel(back)
	defer stopBeating()
	counting, stopCounting := context.WithCancel(back)
	defer stopCounting()
	var front, beat, ship errgroup.Group
	var count sync.WaitGroup
	ship.Go(func() error { return s.spool.Run(shipping) })
	beat.Go(func() error { return s.rebuild.Run(beating) })
	beat.Go(func() error { return s.amends.Run(beating) })
	beat.Go(func() error { return s.leases.Run(beating) })
	beat.Go(func() error { return s.budgets.Run(beating) })
	beat.Go(func() error { return s.installs.Run(beating) })
	count.Go(func() { s.events.Run(counting) })
	front.Go(func() error { return s.follower.Run(ctx) })
	front.Go(func() error { return s.sweep(ctx) })
	front.Go(func() error { return s.followRevocations(ctx) })
	front.Go(func() error { return s.watchIsolation(ctx) })
	front.Go(func() error { return s.keeper.Run(ctx) })
	front.Go(func() error {
		s.store.Watch(ctx)
		return nil
	})
	front.Go(func() error {
		defer stop()
		return s.listen(ctx)
	})
	front.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-s.rebuild.Fenced():
			stop()
			return ErrFenced
		}
	})
	err := front.Wait()
	stopCounting()
	count.Wait()
	stopBeating()
	err = errors.Join(err, beat.Wait())
	flush, cancel := context.WithTimeout(back, s.cfg.FlushTimeout)
	defer cancel()
	flushErr := s.spool.Flush(flush)
	if flushErr == nil && s.spool.Stats().OpenReservations == 0 && s.amends.Waiting() == 0 && !errors.Is(err, ErrFenced) {
		flushErr = s.rebuild.CloseSelf(flush) // else who finds the folder does it, or who misses the heartbeat
	}
	if flushErr != nil {
		s.log.Warn("spool is not shipped whole; the next start ships the rest", slog.Any("error", flushErr))
	}
	stopShipping()
	err = errors.Join(err, ship.Wait(), s.spool.Close(), s.store.Close())
	s.client.CloseIdle(true)
	if err != nil {
		return fmt.Errorf("running the proxy: %w", err)
	}
	return nil
}

// sweep closes connections to upstreams that nobody uses.
func (s *Server) sweep(ctx context.Context) error {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.client.CloseIdle(false)
		}
	}
}

// listen serves HTTP until ctx ends and all requests in flight are answered. Clients that come before the configuration is read wait.
func (s *Server) listen(ctx context.Context) error {
	s.follower.Await(ctx)
	srv := &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: 15 * time.Second, IdleTimeout: 120 * time.Second,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(s.listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.ShutdownTimeout)
	defer cancel()
	err := srv.Shutdown(drain)
	if err != nil {
		err = errors.Join(fmt.Errorf("draining: %w", err), srv.Close())
	}
	if serveErr := <-done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

// serve takes one request through the chain and writes the error that comes back, if any.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	c := &call.Call{Writer: w, Request: r, Start: time.Now()}
	c.ID = call.NewID(c.Start)
	c.RouteID, c.Path, c.Dialect = call.Locate(r.URL.EscapedPath())
	w.Header()["X-Request-Id"] = []string{c.ID}
	err := s.run(c)
	if err == nil {
		return
	}
	if c.Result.HeadersSent || errors.Is(err, call.ErrAborted) {
		s.log.Debug("answer was cut", slog.String("request_id", c.ID),
			slog.String("workspace", workspaceID(c)), slog.Any("error", err))
		// The documented way to cut a connection: the client must not take what it has for the whole answer.
		panic(http.ErrAbortHandler) //nolint:forbidigo // there is no other way
	}
	e := call.AsError(err)
	s.errors.WithLabelValues(string(e.Code)).Inc()
	if e.Code == call.Internal || e.Code == call.StoreUnavailable {
		s.log.Error("request failed", slog.String("request_id", c.ID), slog.String("workspace", workspaceID(c)),
			slog.String("code", string(e.Code)), slog.Any("error", err))
	}
	if e.Status == call.StatusClientGone {
		// Returning would say 200 to a client that has only stopped to send.
		panic(http.ErrAbortHandler) //nolint:forbidigo // there is no other way
	}
	closing := w.Header()["Connection"]
	clear(w.Header())
	if closing != nil {
		w.Header()["Connection"] = closing
	}
	c.WriteLimitHeaders(w.Header())
	call.WriteError(w, c.Dialect, c.ID, e)
}

// run is the chain with a net below it: a panic before emit's own.
func (s *Server) run(c *call.Call) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return s.chain.Serve(c)
}

func workspaceID(c *call.Call) string {
	if c.Workspace == nil {
		return ""
	}
	return c.Workspace.ID
}
