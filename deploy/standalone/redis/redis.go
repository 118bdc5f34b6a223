// Package redis runs a private Redis for `rateguard up` and for tests: redis-server or
// valkey-server as a child with an append-only file, or, when neither is installed, a
// small in-process stand-in that keeps nothing over a restart.
package redis

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/deploy/standalone/fetch"
)

// portAttempts is how many free ports are tried when somebody takes one before Redis does.
const portAttempts = 3

// Config says where the server keeps its data.
type Config struct {
	// Dir holds the append-only file; it is created.
	Dir string
	// Binary is the server; empty: redis-server, then valkey-server on PATH, then the stand-in.
	Binary string
	// NoFallback makes a missing server an error instead of using the stand-in.
	NoFallback bool
	// Log gets starts, restarts and (at level Debug) the server's output; nil: nothing.
	Log *slog.Logger
	// Progress is told when the stand-in is used; nil: nothing.
	Progress fetch.Progress
}

// ErrNoBinary says that no server was found.
var ErrNoBinary = errors.New("no redis-server or valkey-server on PATH: install one (Debian: apt-get install redis-server) or set RATEGUARD_REDIS_URL")

// Server is a running Redis.
type Server struct {
	keeper   *child.Keeper // nil when the stand-in runs
	standIn  *standIn
	port     int
	password string
}

// Start starts the server on the data of cfg.Dir.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", cfg.Dir, err)
	}
	cfg.Dir = dir
	binary, err := find(cfg.Binary)
	if err != nil {
		if cfg.NoFallback || cfg.Binary != "" {
			return nil, err
		}
		cfg.Progress.Say("warning: %v; limits and balances now live in this process's memory (budgets are rebuilt from the log at each start)", err)
		return startStandIn(cfg.Log)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the data folder: %w", err)
	}
	for attempt := 1; ; attempt++ {
		s, err := launch(ctx, cfg, binary)
		if err == nil {
			return s, nil
		}
		if attempt == portAttempts || !strings.Contains(err.Error(), "Address already in use") {
			return nil, err
		}
	}
}

func find(binary string) (string, error) {
	names := []string{"redis-server", "valkey-server"}
	if binary != "" {
		names = []string{binary}
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoBinary
}

func launch(ctx context.Context, cfg Config, binary string) (*Server, error) {
	ports, err := child.Ports(ctx, 1)
	if err != nil {
		return nil, err
	}
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("making a password: %w", err)
	}
	s := &Server{port: ports[0], password: hex.EncodeToString(raw)}
	// The password goes into a file, not onto the command line, where every user could read it.
	file := filepath.Join(cfg.Dir, "redis.conf")
	if err := os.WriteFile(file, []byte(s.settings(cfg.Dir)), 0o600); err != nil {
		return nil, fmt.Errorf("writing Redis's settings: %w", err)
	}
	options, err := goredis.ParseURL(s.URL())
	if err != nil {
		return nil, fmt.Errorf("parsing our own URL: %w", err)
	}
	options.MaxRetries = -1
	s.keeper, err = child.Keep(ctx, child.Spec{
		Name: "redis", Path: binary, Args: []string{file}, Dir: cfg.Dir, Log: cfg.Log,
		Ready: func(ctx context.Context) error { return ping(ctx, options) },
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// settings never evict: a key that vanished would be a budget that forgot what was reserved.
// everysec may lose the last writes to a kill -9: while an fsync runs, Redis keeps what it acknowledged in memory for
// up to two seconds. What is kept here must be rebuilt from the log or said again, as heartbeats are.
func (s *Server) settings(dir string) string {
	return strings.Join([]string{
		"bind 127.0.0.1", "port " + strconv.Itoa(s.port), "requirepass " + s.password, "dir " + strconv.Quote(dir), "daemonize no",
		"appendonly yes", "appendfsync everysec", "aof-load-truncated yes", `save ""`,
		"maxmemory-policy noeviction", "maxclients 1000", "",
	}, "\n")
}

func ping(ctx context.Context, options *goredis.Options) error {
	c := goredis.NewClient(options)
	err := c.Ping(ctx).Err()
	return errors.Join(err, c.Close())
}

// URL returns the address with its password.
func (s *Server) URL() string {
	u := url.URL{Scheme: "redis", Host: "127.0.0.1:" + strconv.Itoa(s.port), Path: "/0"}
	if s.password != "" {
		u.User = url.UserPassword("", s.password)
	}
	return u.String()
}

// Persistent reports whether the data survive a restart: not with the stand-in.
func (s *Server) Persistent() bool { return s.keeper != nil }

// Done is closed when the server is closed or has died for good; Err then says why.
func (s *Server) Done() <-chan struct{} {
	if s.keeper == nil {
		return s.standIn.done
	}
	return s.keeper.Done()
}

// Err returns why the server was given up, nil otherwise.
func (s *Server) Err() error {
	if s.keeper == nil {
		return nil
	}
	return s.keeper.Err()
}

// PID returns the server's process id, 0 for the stand-in.
func (s *Server) PID() int {
	if s.keeper == nil {
		return 0
	}
	return s.keeper.PID()
}

// Close stops the server and keeps its data.
func (s *Server) Close() error {
	if s.keeper == nil {
		s.standIn.close()
		return nil
	}
	return s.keeper.Close()
}
