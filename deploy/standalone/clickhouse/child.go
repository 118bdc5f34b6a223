package clickhouse

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rateguard/rateguard/deploy/standalone/child"
)

// childName is the engine's name among the children of the binary.
const childName = "clickhouse"

// listenerFD is the listening socket that the parent passes: it stays the same when the engine
// starts again, and connections wait in it meanwhile.
const listenerFD = 3

// drainTime is how long running statements may take when the engine stops.
const drainTime = 10 * time.Second

func init() { child.Register(childName, childMain) }

// childConfig is the first line of the child's standard input.
type childConfig struct {
	Library  string            `json:"library"`
	Path     string            `json:"path"`
	User     string            `json:"user"`
	Password string            `json:"password"`
	Sessions int               `json:"sessions"`
	Settings map[string]string `json:"settings"`
}

func childMain(in *os.File) int {
	if err := serve(in); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// serve runs the engine until SIGTERM, or until the standard input ends with the parent.
func serve(in *os.File) error {
	input := bufio.NewReader(in)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	var cfg childConfig
	if err := json.Unmarshal(line, &cfg); err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	listener, err := net.FileListener(os.NewFile(listenerFD, "listener"))
	if err != nil {
		return fmt.Errorf("taking the socket over: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, input)
		stop()
	}()
	h, err := newHandler(ctx, cfg)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 30 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err = server.Shutdown(drain)
	<-served //nolint:errcheck // says that it was shut down
	return errors.Join(err, h.pool.close(drain))
}

func newHandler(ctx context.Context, cfg childConfig) (*handler, error) {
	e, err := load(cfg.Library)
	if err != nil {
		return nil, err
	}
	if err := awaitFolder(ctx, cfg.Path); err != nil {
		return nil, err
	}
	p, err := newPool(e, []string{"clickhouse", "--path=" + cfg.Path}, cfg.Settings, cfg.Sessions)
	if err != nil {
		return nil, err
	}
	h := &handler{pool: p, user: cfg.User, password: cfg.Password}
	var out strings.Builder
	_, err = p.keeper.run("SELECT version(), timezone()", "TabSeparatedRaw", nil, func(b []byte) error {
		out.Write(b)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("asking the engine for its version: %w", err)
	}
	version, zone, ok := strings.Cut(strings.TrimSpace(out.String()), "\t")
	if !ok {
		return nil, fmt.Errorf("asking the engine for its version: unexpected answer %q", out.String())
	}
	h.version, h.zone = version, zone
	if _, err := p.keeper.run("CREATE DATABASE IF NOT EXISTS "+quoteName(Database), "Null", nil, nil); err != nil {
		return nil, fmt.Errorf("creating the database: %w", err)
	}
	return h, nil
}
