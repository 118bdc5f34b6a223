package standalone_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/standalone"
)

// settings are those of `rateguard up` on free ports.
func settings(dir string) standalone.Config {
	c := standalone.Default()
	c.DataDir, c.MockPace = dir, "instant"
	c.ProxyAddr, c.AdminAddr, c.OpsAddr, c.MockAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	return c
}

func start(t *testing.T, c standalone.Config) *standalone.System {
	t.Helper()
	s, err := standalone.Start(t.Context(), c, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatalf("starting: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

func get(t *testing.T, url, bearer string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+bearer)
	return do(t, req)
}

func do(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// chat sends one request through the demo's route.
func chat(t *testing.T, s *standalone.System) {
	t.Helper()
	body := strings.NewReader(`{"model":"gpt-4o-mini","messages":[{"role":"user","content":"Say hello."}]}`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.ProxyURL()+"/v1/chat/completions", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.Demo().Key)
	req.Header.Set("Content-Type", "application/json")
	if status, answer := do(t, req); status != http.StatusOK {
		t.Fatalf("got %d: %s", status, answer)
	}
}

// awaitUsage waits until the analytics show so many requests.
func awaitUsage(t *testing.T, s *standalone.System, requests string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for ; ; <-ticker.C {
		_, answer := get(t, s.AdminURL()+"/v1/workspaces/"+s.Demo().Workspace+"/usage?group_by=model", s.AdminToken())
		if strings.Contains(answer, `"requests":`+requests+",") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("usage never shows %s requests: %s", requests, answer)
		}
	}
}

func TestStopAndStartKeepEverything(t *testing.T) {
	dir := t.TempDir()
	first := start(t, settings(dir))
	chat(t, first)
	awaitUsage(t, first, "1")
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": "rateguard_"} {
		if status, body := get(t, first.OpsURL()+path, ""); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: got %d %.80q", path, status, body)
		}
	}
	for _, name := range []string{"admin-token", "secret-key", "demo-key"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %o, want 600", name, info.Mode().Perm())
		}
	}
	demo, token := first.Demo(), first.AdminToken()
	if err := first.Close(); err != nil {
		t.Fatalf("closing: %v", err)
	}
	begin := time.Now()
	second := start(t, settings(dir))
	t.Logf("the second start took %s", time.Since(begin))
	if second.Demo() != demo || second.AdminToken() != token {
		t.Errorf("got %+v, want %+v and the same token", second.Demo(), demo)
	}
	chat(t, second)
	awaitUsage(t, second, "2")
}

func TestWhatStandsInTheWayIsSaid(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := taken.Close(); err != nil {
			t.Error(err)
		}
	})
	fail := func(t *testing.T, c standalone.Config, want ...string) {
		t.Helper()
		s, err := standalone.Start(t.Context(), c, slog.New(slog.DiscardHandler), nil)
		if err == nil {
			t.Fatalf("it started: %v", s.Close())
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("got %q, want %q in it", err, w)
			}
		}
	}
	t.Run("a port in use", func(t *testing.T) {
		c := settings(t.TempDir())
		c.ProxyAddr = taken.Addr().String()
		fail(t, c, taken.Addr().String()+" is in use", "RATEGUARD_PROXY_ADDR")
	})
	t.Run("a data folder in use", func(t *testing.T) {
		c := settings(t.TempDir())
		c.Demo = false
		start(t, c)
		fail(t, c, "is in use by process", "--data-dir")
	})
	t.Run("no engine binaries", func(t *testing.T) {
		c := settings(t.TempDir())
		t.Setenv("RATEGUARD_PG_BIN", t.TempDir())
		fail(t, c, "initdb", "RATEGUARD_PG_BIN")
	})
	t.Run("bad settings, all at once", func(t *testing.T) {
		c := settings("")
		c.ProxyAddr, c.AdminToken, c.RedisURL = "nowhere", "short", "http://x"
		fail(t, c, "proxy-addr", "admin-token", "redis-url", "data-dir")
	})
}

// screen is an output that can be waited for.
type screen struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func TestUpPrintsInOrderAndStopsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := &screen{}
	done := make(chan error, 1)
	go func() { done <- standalone.Up(ctx, settings(t.TempDir()), slog.New(slog.DiscardHandler), out) }()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !strings.HasSuffix(out.String(), "\nready\n") {
		select {
		case err := <-done:
			t.Fatalf("it ended: %v\n%s", err, out)
		case <-ticker.C:
		}
	}
	at := 0
	for _, want := range []string{"proxy  ", "admin API", "demo key", "curl http://", "\nstarted in ", "\nready\n"} {
		i := strings.Index(out.String()[at:], want)
		if i < 0 {
			t.Fatalf("no %q after the rest in:\n%s", want, out)
		}
		at += i
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopping: %v", err)
	}
}
