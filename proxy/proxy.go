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
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/forward"
	"github.com/rateguard/rateguard/proxy/forward/upstream"
	"github.com/rateguard/rateguard/proxy/intake"
	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/secret"
)

// Server is the proxy role. Make it with New, run it once with Run.
type Server struct {
	cfg      Config
	log      *slog.Logger
	listener net.Listener
	spool    *spool.Spool
	follower *policy.Follower
	client   *upstream.Client
	chain    call.Handler
	strange  *prometheus.CounterVec
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
	view := policy.NewView(key, log)
	s := &Server{
		cfg: cfg, log: log, listener: listener, spool: sp, client: upstream.New(upstream.Config{}),
		follower: policy.NewFollower(view, cfg.Kafka, filepath.Join(cfg.DataDir, "config-snapshot"), log, reg),
		strange: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rateguard_proxy_errors_total", Help: "Errors written to clients, by code, strangers' included.",
		}, []string{"code"}),
	}
	reg.MustRegister(s.strange)
	s.chain = newChain(parts{
		view: view, log: sp, client: s.client, slog: log, metrics: reg,
		intake:  intake.Config{MaxBody: cfg.MaxBody, CountryHeader: cfg.CountryHeader, ClientIPHeader: cfg.ClientIPHeader},
		forward: forward.Config{Drain: cfg.Drain},
	})
	return s, nil
}

// Addr returns the address of the data plane.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Ready returns nil when requests can be served.
func (s *Server) Ready() error { return s.follower.Ready() }

// Run serves until ctx ends; then it stops accepting, finishes the requests in flight, ships the spool and returns nil.
func (s *Server) Run(ctx context.Context) error {
	// The spool ships until everything else has ended, so its life does not end with ctx.
	back, stopBack := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBack()
	var g, ship errgroup.Group
	ship.Go(func() error { return s.spool.Run(back) })
	g.Go(func() error { return s.follower.Run(ctx) })
	g.Go(func() error { return s.sweep(ctx) })
	g.Go(func() error { return s.listen(ctx) })
	err := g.Wait()
	flush, cancel := context.WithTimeout(back, s.cfg.ShutdownTimeout)
	defer cancel()
	if flushErr := s.spool.Flush(flush); flushErr != nil {
		// Nothing is lost: the next start ships it.
		s.log.Warn("spool is not shipped whole", "error", flushErr)
	}
	stopBack()
	err = errors.Join(err, ship.Wait(), s.spool.Close())
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

// listen serves HTTP until ctx ends and all requests in flight are answered.
func (s *Server) listen(ctx context.Context) error {
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
	// Without this the server closes a body at the answer's first flush, and with it, now and then, the answer.
	if d, ok := w.(interface{ EnableFullDuplex() error }); ok {
		_ = d.EnableFullDuplex() // only HTTP/1 has it, and only HTTP/1 needs it
	}
	err := s.run(c)
	if err == nil {
		return
	}
	if c.Result.HeadersSent || errors.Is(err, call.ErrAborted) {
		s.log.Debug("answer was cut", "request_id", c.ID, "workspace", workspaceID(c), "error", err)
		// The documented way to cut a connection: the client must not take what it has for the whole answer.
		panic(http.ErrAbortHandler)
	}
	e := call.AsError(err)
	s.strange.WithLabelValues(string(e.Code)).Inc()
	if e.Code == call.Internal || e.Code == call.StoreUnavailable {
		s.log.Error("request failed", "request_id", c.ID, "workspace", workspaceID(c), "code", string(e.Code), "error", err)
	}
	if e.Status == call.StatusClientGone {
		return
	}
	clear(w.Header())
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
