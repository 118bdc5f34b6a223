// Command rateguard-projections follows the log into ClickHouse and PostgreSQL.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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

	"github.com/rateguard/rateguard/projections"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "rateguard-projections:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stderr io.Writer) error {
	cfg := projections.DefaultConfig()
	fs := flag.NewFlagSet("rateguard-projections", flag.ContinueOnError)
	fs.SetOutput(stderr)
	cfg.Register(fs)
	ops := fs.String("ops-addr", "127.0.0.1:9090", "address of /healthz, /readyz and /metrics")
	check := fs.Bool("check-config", false, "print every problem of the settings and exit")
	fs.String("config", "", "YAML file with settings")
	err := ff.Parse(fs, args, ff.WithEnvVarPrefix("RATEGUARD"), ff.WithConfigFileFlag("config"), ff.WithConfigFileParser(ffyaml.Parser),
		ff.WithIgnoreUndefined(true))
	if err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	if err := cfg.Validate(); err != nil || *check {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	server, err := projections.New(ctx, cfg, log, reg)
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *ops)
	if err != nil {
		return fmt.Errorf("listening for operations: %w", err)
	}
	log.Info("starting", slog.String("ops_addr", listener.Addr().String()))
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(gctx) })
	g.Go(func() error { return serveOps(gctx, listener, server.Ready, reg) })
	err = g.Wait()
	log.Info("stopped")
	return err
}

// serveOps answers probes and metrics until ctx ends.
func serveOps(ctx context.Context, l net.Listener, ready func() error, reg *prometheus.Registry) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	closed := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		closed <- srv.Shutdown(grace)
	}()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving operations: %w", err)
	}
	return <-closed
}
