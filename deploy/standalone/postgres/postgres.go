// Package postgres runs a private PostgreSQL server for `rateguard up` and for tests: any
// binaries of version 14 or newer that the machine has, else ones that are fetched once. It
// listens on the loopback address only, with a generated password.
package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/deploy/standalone/fetch"
)

const (
	user = "rateguard"
	// Database is the one that Start creates.
	Database = "rateguard"
	// lockPatience is how long a dead postmaster's lock files are waited for; after kill -9 its
	// shared memory is in use until its last child has noticed, about a second.
	lockPatience = 30 * time.Second
	// stopTimeout leaves time for the last checkpoint, which writes all that is dirty. A server that is killed recovers at its next start.
	stopTimeout = 2 * time.Minute
)

// Config says where the server keeps its data.
type Config struct {
	// Dir holds the cluster, the password and the server's log; it is created.
	Dir string
	// BinDir is the folder of initdb and postgres; empty: RATEGUARD_PG_BIN, pg_config, PATH, Debian's folders,
	// then a download into CacheDir.
	BinDir string
	// CacheDir is where downloads are kept; empty: the user's cache.
	CacheDir string
	// Log gets starts, restarts and (at level Debug) the server's output; nil: nothing.
	Log *slog.Logger
	// Progress is told of long steps in one line each; nil: nothing.
	Progress fetch.Progress
}

// Server is a running PostgreSQL.
type Server struct {
	keeper   *child.Keeper
	port     int
	password string
}

// Start starts the server on the data of cfg.Dir, which it initialises when there are none.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", cfg.Dir, err)
	}
	cfg.Dir = dir
	bin, err := findBinaries(ctx, cfg)
	if err != nil {
		return nil, err
	}
	id, err := chooseIdentity()
	if err != nil {
		return nil, err
	}
	c := &cluster{cfg: cfg, bin: bin, id: id}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	if err := c.endOrphan(ctx); err != nil {
		return nil, err
	}
	s, err := c.start(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.createDatabase(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// URL returns the connection string of the database.
func (s *Server) URL() string { return s.url(Database) }

func (s *Server) url(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, s.password),
		Host: "127.0.0.1:" + strconv.Itoa(s.port), Path: "/" + database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Done is closed when the server is closed or has died for good; Err then says why.
func (s *Server) Done() <-chan struct{} { return s.keeper.Done() }

// Err returns why the server was given up, nil otherwise.
func (s *Server) Err() error { return s.keeper.Err() }

// PID returns the process id of the postmaster.
func (s *Server) PID() int { return s.keeper.PID() }

// Close stops the server: open transactions are rolled back, everything else is kept.
func (s *Server) Close() error { return s.keeper.Close() }

func (s *Server) createDatabase(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.url("postgres"))
	if err != nil {
		return fmt.Errorf("connecting to PostgreSQL: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", Database).Scan(&there); err != nil {
		return fmt.Errorf("looking for the database: %w", err)
	}
	if there {
		return nil
	}
	if _, err := conn.Exec(ctx, "CREATE DATABASE "+Database); err != nil {
		return fmt.Errorf("creating the database: %w", err)
	}
	return nil
}

// cluster is the data directory of one server and what may run on it.
type cluster struct {
	cfg Config
	bin string
	id  identity
}

func (c *cluster) data() string { return filepath.Join(c.cfg.Dir, "data") }

func (c *cluster) passwordFile() string { return filepath.Join(c.cfg.Dir, "password") }

// prepare makes the data directory. initdb works in a folder beside it that is renamed when it
// is whole, so that a start that was cut short is begun again.
func (c *cluster) prepare(ctx context.Context) error {
	if err := os.MkdirAll(c.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("creating the data folder: %w", err)
	}
	major, err := c.major(ctx)
	if err != nil {
		return err
	}
	have, err := os.ReadFile(filepath.Join(c.data(), "PG_VERSION"))
	switch {
	case err == nil:
		if got := strings.TrimSpace(string(have)); got != major {
			return fmt.Errorf("the data in %s belong to PostgreSQL %s, the binaries in %s are version %s: set RATEGUARD_PG_BIN to version %s or move the data away",
				c.data(), got, c.bin, major, got)
		}
		return c.id.own(c.cfg.Dir)
	case !errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("reading the version of the data: %w", err)
	}
	return c.initialise(ctx)
}

func (c *cluster) initialise(ctx context.Context) error {
	c.cfg.Progress.Say("initialising PostgreSQL")
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return fmt.Errorf("making a password: %w", err)
	}
	if err := os.WriteFile(c.passwordFile(), []byte(hex.EncodeToString(raw)), 0o600); err != nil {
		return fmt.Errorf("writing the password: %w", err)
	}
	fresh := c.data() + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("removing a half-made cluster: %w", err)
	}
	if err := os.Mkdir(fresh, 0o700); err != nil {
		return fmt.Errorf("creating the cluster's folder: %w", err)
	}
	if err := c.id.own(c.cfg.Dir); err != nil {
		return err
	}
	p, err := child.Exec(ctx, child.Spec{
		Name: "initdb", Path: filepath.Join(c.bin, "initdb"), Dir: c.cfg.Dir, Attr: c.id.attr(), Log: c.cfg.Log,
		Args: []string{"-D", fresh, "-U", user, "--pwfile=" + c.passwordFile(), "--auth=scram-sha-256", "--locale=C", "-E", "UTF8"},
	})
	if err != nil {
		return err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("initialising PostgreSQL: %w", ctx.Err()), p.Kill())
	}
	if !p.Succeeded() {
		return fmt.Errorf("initialising PostgreSQL: %w\n%s", p.Err(), p.Tail())
	}
	if err := os.Rename(fresh, c.data()); err != nil {
		return fmt.Errorf("putting the cluster in place: %w", err)
	}
	return nil
}

// start runs the postmaster on a free port. A lock that a dead one left, or a port that somebody
// else took meanwhile, is tried again.
func (c *cluster) start(ctx context.Context) (*Server, error) {
	password, err := os.ReadFile(c.passwordFile())
	if err != nil {
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	deadline := time.Now().Add(lockPatience)
	for {
		s, err := c.launch(ctx, strings.TrimSpace(string(password)))
		if err == nil {
			return s, nil
		}
		again := strings.Contains(err.Error(), "lock file") || strings.Contains(err.Error(), "shared memory block") ||
			strings.Contains(err.Error(), "Address already in use")
		if !again || time.Now().After(deadline) {
			return nil, err
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, fmt.Errorf("starting PostgreSQL: %w", err)
		}
	}
}

func (c *cluster) launch(ctx context.Context, password string) (*Server, error) {
	ports, err := child.Ports(ctx, 1)
	if err != nil {
		return nil, err
	}
	s := &Server{port: ports[0], password: password}
	s.keeper, err = child.Keep(ctx, child.Spec{
		Name: "postgres", Path: filepath.Join(c.bin, "postgres"), Dir: c.cfg.Dir, Attr: c.id.attr(), Log: c.cfg.Log,
		Args: append([]string{"-D", c.data()}, settings(s.port)...),
		// Fast shutdown; and when this process is killed, the immediate one: every server process ends, WAL recovers.
		StopSignal: syscall.SIGINT, StopTimeout: stopTimeout, DeathSignal: syscall.SIGQUIT,
		Ready: func(ctx context.Context) error { return ping(ctx, s.url("postgres")) },
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// settings keep a laptop's server small and never weaken its durability.
func settings(port int) []string {
	var args []string
	for _, s := range []string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(port), "unix_socket_directories=",
		"max_connections=100", "shared_buffers=64MB", "timezone=UTC", "log_timezone=UTC", "logging_collector=off",
	} {
		args = append(args, "-c", s)
	}
	return args
}

func ping(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
