package lua_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

// count is a script that consumes: it counts its runs under its key.
var count = lua.NewScript(`
local n = redis.call('INCR', KEYS[1])
local t = redis.call('TIME')
local us = t[1] * 1000000 + t[2]
if us > tonumber(ARGV[1]) then return {'LATE', us, n} end
return {'OK', us, n}`)

// patient is a deadline that a busy machine keeps, for connections that are made too; decisions of 50 ms are the default.
const patient = 2 * time.Second

func openStore(tb testing.TB, cfg lua.StoreConfig) *lua.Store {
	tb.Helper()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.NewTextHandler(tb.Output(), nil))
	}
	if cfg.Timeout == patient && !strings.Contains(cfg.URL, "dial_timeout") {
		cfg.URL += []string{"?", "&"}[min(1, strings.Count(cfg.URL, "?"))] + "dial_timeout=1m"
	}
	s, err := lua.OpenStore(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func deadline(t lua.Times) []any { return []any{t.DeadlineUS} }

func consume(ctx context.Context, s *lua.Store, key string) (lua.Reply, error) {
	return s.Eval(ctx, count, []string{key}, deadline)
}

// mustConsume fails the test where the call fails.
func mustConsume(tb testing.TB, s *lua.Store, key string) lua.Reply {
	tb.Helper()
	r, err := consume(tb.Context(), s, key)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// reason returns why the store was unavailable, and fails the test for any other error.
func reason(tb testing.TB, err error) lua.Reason {
	tb.Helper()
	var u *lua.UnavailableError
	if !errors.As(err, &u) || !errors.Is(err, lua.ErrUnavailable) {
		tb.Fatalf("got %v, want ErrUnavailable", err)
	}
	return u.Reason
}

// works waits until a call succeeds and returns how long that took.
func works(tb testing.TB, s *lua.Store, key string) time.Duration {
	tb.Helper()
	start := time.Now()
	redistest.Until(tb, "the store works", func() bool {
		_, err := consume(tb.Context(), s, key)
		return err == nil
	})
	return time.Since(start)
}

// changes collects what OnChange tells.
type changes struct {
	mu   sync.Mutex
	list []string
}

func (c *changes) note(_ string, open bool, cause string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	state := "closed"
	if open {
		state = "open"
	}
	c.list = append(c.list, state+" "+cause)
}

func (c *changes) all() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.list...)
}

// relay is a TCP proxy that can swallow what a server answers.
type relay struct {
	addr string
	// mu guards all below.
	mu sync.Mutex
	// swallow is called with each piece of an answer, true loses it. With cut its connection goes too.
	swallow func(answer []byte) bool
	cut     bool
	to      string
}

// lead makes new connections go elsewhere; those that are open stay.
func (r *relay) lead(to string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
}

// cutting makes lost answers take their connections with them.
func (r *relay) cutting() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = true
}

func (r *relay) cuts() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cut
}

func (r *relay) target() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.to
}

func (r *relay) lose(f func([]byte) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.swallow = f
}

func newRelay(tb testing.TB, to string) *relay {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &relay{addr: l.Addr().String(), swallow: func([]byte) bool { return false }, to: to}
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	pump := func(from, to net.Conn, pass func([]byte) bool) {
		defer func() { _, _ = from.Close(), to.Close() }()
		b := make([]byte, 64<<10)
		for {
			n, err := from.Read(b)
			if err != nil {
				return
			}
			if !pass(b[:n]) {
				if r.cuts() {
					return
				}
				continue
			}
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := new(net.Dialer).DialContext(ctx, "tcp", r.target())
			if err != nil {
				_ = in.Close()
				continue
			}
			context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
			wg.Go(func() { pump(in, out, func([]byte) bool { return true }) })
			wg.Go(func() {
				pump(out, in, func(b []byte) bool {
					r.mu.Lock()
					defer r.mu.Unlock()
					return !r.swallow(b)
				})
			})
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		cancel()
		wg.Wait()
	})
	return r
}
