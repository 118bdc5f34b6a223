// Command rateguard-control runs the admin and analytics API and relays configuration into the log.
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

	"github.com/rateguard/rateguard/projections/control"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		if errors.Is(err, errUsage) {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

func run(args []string) error {
	fs := flag.NewFlagSet("rateguard-control", flag.ContinueOnError)
	var cfg control.Config
	cfg.Register(fs)
	opsAddr := fs.String("ops-addr", "127.0.0.1:9090", "address of /healthz, /readyz and /metrics")
	check := fs.Bool("check-config", false, "print every problem of the settings and exit")
	fs.String("config", "", "YAML file with settings")
	err := ff.Parse(fs, args, ff.WithEnvVarPrefix("RATEGUARD"), ff.WithConfigFileFlag("config"), ff.WithConfigFileParser(ffyaml.Parser),
		ff.WithIgnoreUndefined(true)) // one file and one set of variables serve all roles
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	if *check {
		return nil
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return serve(ctx, cfg, *opsAddr)
}

func serve(ctx context.Context, cfg control.Config, opsAddr string) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	reg := prometheus.NewRegistry()
	reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	server, err := control.New(ctx, cfg, log, reg)
	if err != nil {
		return fmt.Errorf("starting control: %w", err)
	}
	var lc net.ListenConfig
	ops, err := lc.Listen(ctx, "tcp", opsAddr)
	if err != nil {
		return errors.Join(fmt.Errorf("listening on %s: %w", opsAddr, err), server.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := server.Ready(); err != nil { //nolint:contextcheck // it answers from what is known
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.Handle("/metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	opsServer := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(gctx) })
	g.Go(func() error {
		if err := opsServer.Serve(ops); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serving operations: %w", err)
		}
		return nil
	})
	g.Go(func() error {
		<-gctx.Done()
		closing, cancel := context.WithTimeout(context.WithoutCancel(gctx), 5*time.Second)
		defer cancel()
		return opsServer.Shutdown(closing)
	})
	return g.Wait()
}
