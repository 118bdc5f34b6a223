package e2e_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/proxy"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/topics/broker"
)

// revokedWithin is how soon a revoked key is to be refused everywhere.
const revokedWithin = 2 * time.Second

// edge is one more proxy of the system.
type edge struct {
	url  string
	stop func()
}

// startEdge starts a proxy on a folder of its own. Without brokers it finds no Kafka.
func startEdge(t *testing.T, s *harness.System, dir string, kafka broker.Config) edge {
	t.Helper()
	return startEdgeOn(t, s, dir, kafka, s.Config().RedisURL)
}

// startEdgeOn is startEdge with another way to Redis.
func startEdgeOn(t *testing.T, s *harness.System, dir string, kafka broker.Config, redisURL string) edge {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listening: %v", err)
	}
	cfg := s.Config()
	p, err := proxy.New(t.Context(), proxy.Config{
		Listener: l, DataDir: dir, RedisURL: redisURL, SecretKey: cfg.SecretKey, Kafka: kafka, FlushTimeout: 500 * time.Millisecond,
	}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatalf("making a proxy: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stopped := false
	e := edge{url: "http://" + l.Addr().String(), stop: func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stopping a proxy: %v", err)
		}
	}}
	t.Cleanup(e.stop)
	harness.Eventually(t, 20*time.Second, p.Ready)
	return e
}

// askAt sends a request to one of several proxies.
func askAt(t *testing.T, base string, r request) (status int, code string) {
	t.Helper()
	response := open(t.Context(), t, base, r)
	defer func() { _ = response.Body.Close() }()
	return response.StatusCode, response.Header.Get("X-Rateguard-Error")
}

// A change acts on every proxy within a second, and a revocation within two. Not parallel: the others would take the time that it measures.
func TestChangesAreInForceOnEveryProxyWithinASecond(t *testing.T) {
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	second := startEdge(t, s, t.TempDir(), s.Config().Kafka)
	ask := func(key, path string, status int, code string, within time.Duration) {
		t.Helper()
		began := time.Now()
		for _, base := range []string{s.ProxyURL, second.url} {
			harness.Eventually(t, within-time.Since(began), func() error {
				if got, gotCode := askAt(t, base, request{method: http.MethodGet, key: key, path: path}); got != status || gotCode != code {
					return fmt.Errorf("%s of %s answers %d %q, want %d %q", path, base, got, gotCode, status, code)
				}
				return nil
			})
		}
	}
	created, err := s.Admin.CreateKey(t.Context(), tenant.ID, adminclient.NewKey{Name: "new"})
	if err != nil {
		t.Fatalf("creating a key: %v", err)
	}
	ask(created.Secret, "/http/x", http.StatusOK, "", harness.InForceWithin)
	ask(created.Secret, "/fresh/x", http.StatusNotFound, "route_not_found", harness.InForceWithin)
	tenant.Route("fresh", adminclient.PutRoute{Provider: "http", BaseURL: s.MockURL})
	ask(created.Secret, "/fresh/x", http.StatusOK, "", harness.InForceWithin)
	tenant.Route("fresh", adminclient.PutRoute{Provider: "http", BaseURL: s.MockURL + "/http/status"})
	ask(created.Secret, "/fresh/503", http.StatusServiceUnavailable, "", harness.InForceWithin)
	if err := s.Admin.DeleteRoute(t.Context(), tenant.ID, "fresh"); err != nil {
		t.Fatalf("deleting a route: %v", err)
	}
	ask(created.Secret, "/fresh/x", http.StatusNotFound, "route_not_found", harness.InForceWithin)
	rotated, err := s.Admin.RotateKey(t.Context(), tenant.ID, created.ID, "1h")
	if err != nil {
		t.Fatalf("rotating a key: %v", err)
	}
	ask(rotated.Secret, "/http/x", http.StatusOK, "", harness.InForceWithin)
	ask(created.Secret, "/http/x", http.StatusOK, "", harness.InForceWithin) // within its grace
	if _, err := s.Admin.RevokeKey(t.Context(), tenant.ID, created.ID); err != nil {
		t.Fatalf("revoking a key: %v", err)
	}
	ask(created.Secret, "/http/x", http.StatusUnauthorized, "api_key_revoked", revokedWithin)
	if err := s.Admin.DeleteWorkspace(t.Context(), tenant.ID); err != nil {
		t.Fatalf("deleting a workspace: %v", err)
	}
	harness.Eventually(t, revokedWithin, func() error {
		for _, base := range []string{s.ProxyURL, second.url} {
			if status, _ := askAt(t, base, request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}); status != http.StatusUnauthorized {
				return fmt.Errorf("a key of a deleted workspace gets %d", status)
			}
		}
		return nil
	})
}

// A proxy that starts while Kafka is away serves from its snapshot and keeps what it owes to the log; when Kafka is back, the next start
// ships it, and every request is accounted for once.
func TestProxyStartsFromItsSnapshotWithoutKafka(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	dir := t.TempDir()
	kafka := s.Config().Kafka
	away := kafka
	away.Brokers = "127.0.0.1:1"
	good := openAIDialect.generate("openai", false, 32).by(tenant.Key)

	first := startEdge(t, s, dir, kafka)
	harness.Eventually(t, 60*harness.InForceWithin, func() error {
		if status, code := askAt(t, first.url, request{method: http.MethodGet, key: tenant.Key, path: "/http/x/../y"}); status == http.StatusUnauthorized {
			return fmt.Errorf("got %d %s", status, code)
		}
		return nil
	})
	first.stop()
	if _, err := os.Stat(filepath.Join(dir, "config-snapshot")); err != nil {
		t.Fatalf("a proxy that stopped left no snapshot: %v", err)
	}

	alone := startEdge(t, s, dir, away)
	ids := map[string]bool{}
	for range 5 {
		response := open(t.Context(), t, alone.url, good)
		if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
			t.Fatalf("without Kafka: got %d, %v", response.StatusCode, err)
		}
		ids[response.Header.Get("X-Request-Id")] = true
	}
	if status, code := askAt(t, alone.url, good.by("rg_unknown")); status != http.StatusUnauthorized || code != "invalid_api_key" {
		t.Errorf("an unknown key without Kafka: got %d %q", status, code)
	}
	alone.stop()

	startEdge(t, s, dir, kafka)
	for id := range ids {
		if row := tenant.Request(id); row.Status != http.StatusOK || row.Estimated {
			t.Errorf("request %s served without Kafka: %+v", id, row)
		}
	}
	b := closeBooks(t, s, tenant)
	for id := range ids {
		if a := b.forwarded[id]; a.id == "" || a.cost == nil || *a.cost == 0 {
			t.Errorf("request %s served without Kafka is not in the books: %+v", id, a)
		}
	}
}
