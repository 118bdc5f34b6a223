// Command rateguard-proxy runs the data plane alone.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/peterbourgon/ff/v3"
	"github.com/peterbourgon/ff/v3/ffyaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/proxy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "rateguard-proxy:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var cfg proxy.Config
	fs := flag.NewFlagSet("rateguard-proxy", flag.ContinueOnError)
	cfg.Register(fs)
	check := fs.Bool("check-config", false, "check the settings, print every problem, and exit")
	fs.String("config", "", "YAML file with settings; flags and RATEGUARD_* win over it")
	err := ff.Parse(fs, args, ff.WithEnvVarPrefix("RATEGUARD"), ff.WithConfigFileFlag("config"),
		ff.WithConfigFileParser(ffyaml.Parser), ff.WithIgnoreUndefined(true))
	if err != nil {
		return err
	}
	if err := cfg.Validate(); err != nil || *check {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s, err := proxy.New(ctx, cfg, log, reg)
	if err != nil {
		return err
	}
	log.Info("started", slog.String("addr", s.Addr()))
	// Health and metrics are served until the proxy has drained.
	running, cancelRun := context.WithCancel(ctx)
	defer cancelRun()
	ops, cancelOps := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelOps()
	var g errgroup.Group
	g.Go(func() error {
		defer cancelOps()
		return s.Run(running)
	})
	g.Go(func() error {
		defer cancelRun()
		return serveOps(ops, cfg.OpsAddr, s, reg)
	})
	err = g.Wait()
	log.Info("stopped")
	return err
}

// serveOps serves health and metrics until ctx ends.
func serveOps(ctx context.Context, addr string, s *proxy.Server, reg *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ready\n"))
	})
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("serving health and metrics: %w", err)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serving health and metrics: %w", err)
	case <-ctx.Done():
	}
	err = srv.Close()
	if serveErr := <-done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
