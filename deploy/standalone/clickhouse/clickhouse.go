// Package clickhouse runs ClickHouse's engine for `rateguard up` and for tests: the library
// form of it, in a child process of ours that speaks ClickHouse's HTTP interface on the
// loopback address, so that clients use it as they use a server.
package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/deploy/standalone/fetch"
)

const (
	user = "rateguard"
	// Database is the one that Start creates.
	Database = "rateguard"
	// sessions bounds the statements that run at once; more wait.
	sessions = 16
)

// limits keep one statement from taking the machine: bytes of memory and seconds.
var limits = map[string]string{"max_memory_usage": strconv.Itoa(2 << 30), "max_execution_time": "120"}

// Config says where the engine keeps its data.
type Config struct {
	// Dir holds the data; it is created.
	Dir string
	// Library is the engine's file; empty: CacheDir's, fetched when it is not there.
	Library string
	// CacheDir is where downloads are kept; empty: the user's cache.
	CacheDir string
	// Settings are ClickHouse settings of every statement that does not name them.
	Settings map[string]string
	// Log gets starts, restarts and (at level Debug) the engine's output; nil: nothing.
	Log *slog.Logger
	// Progress is told of the download; nil: nothing.
	Progress fetch.Progress
}

// Server is a running engine.
type Server struct {
	keeper   *child.Keeper
	socket   *os.File
	address  string
	password string
}

// Start starts the engine on the data of cfg.Dir.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", cfg.Dir, err)
	}
	library, err := findLibrary(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the data folder: %w", err)
	}
	raw := make([]byte, 24)
	if _, err := rand.Read(raw); err != nil {
		return nil, fmt.Errorf("making a password: %w", err)
	}
	s := &Server{password: hex.EncodeToString(raw)}
	if err := s.listen(ctx); err != nil {
		return nil, err
	}
	settings := maps.Clone(limits)
	maps.Copy(settings, cfg.Settings)
	input, err := json.Marshal(childConfig{ //nolint:gosec // G117: for the child's standard input
		Library: library, Path: dir, User: user, Password: s.password, Sessions: sessions, Settings: settings,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("encoding the engine's settings: %w", err), s.socket.Close())
	}
	s.keeper, err = child.Keep(ctx, child.Spec{
		Name: childName, Input: append(input, '\n'), Dir: dir, Files: []*os.File{s.socket}, Log: cfg.Log, Ready: s.ping,
	})
	if err != nil {
		return nil, errors.Join(err, s.socket.Close())
	}
	return s, nil
}

// listen opens the socket that the child serves.
func (s *Server) listen(ctx context.Context) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening for ClickHouse: %w", err)
	}
	s.address = l.Addr().String()
	s.socket, err = l.(*net.TCPListener).File() //nolint:errcheck,forcetypeassert // of network tcp
	if err = errors.Join(err, l.Close()); err != nil {
		return fmt.Errorf("listening for ClickHouse: %w", err)
	}
	return nil
}

func (s *Server) ping(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/ping", nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// URL returns the address as clickhouse-go takes it: HTTP, with password and database.
func (s *Server) URL() string {
	u := url.URL{Scheme: "http", User: url.UserPassword(user, s.password), Host: s.address, Path: "/" + Database}
	return u.String()
}

// Done is closed when the engine is closed or has died for good; Err then says why.
func (s *Server) Done() <-chan struct{} { return s.keeper.Done() }

// Err returns why the engine was given up, nil otherwise.
func (s *Server) Err() error { return s.keeper.Err() }

// PID returns the process id of the engine.
func (s *Server) PID() int { return s.keeper.PID() }

// Close stops the engine and keeps its data.
func (s *Server) Close() error { return errors.Join(s.keeper.Close(), s.socket.Close()) }
