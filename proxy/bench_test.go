package proxy_test

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/spool"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
)

// nullLog takes events and forgets them.
type nullLog struct{}

func (nullLog) AppendOpen(...spool.Record) (spool.Generation, error) { return 1, nil }
func (nullLog) AppendEnd(spool.Generation, ...spool.Record) error    { return nil }
func (nullLog) Append(...spool.Record) error                         { return nil }

// load calls target from several connections; the client's cost is in all benchmarks alike.
func load(b *testing.B, target string) {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true}}
	b.ReportAllocs()
	b.SetParallelism(8)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, target+"/v1/chat/completions", strings.NewReader(chatBody))
			if err != nil {
				b.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+goodKey)
			req.Header.Set("Content-Type", "application/json")
			res, err := client.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
	})
	b.StopTimer()
	client.CloseIdleConnections()
}

func instant(b *testing.B) string {
	b.Helper()
	return upstreamFunc(b, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		_, _ = io.WriteString(w, chatAnswer)
	})
}

func BenchmarkUpstreamAlone(b *testing.B) { load(b, instant(b)) }

func BenchmarkBareReverseProxy(b *testing.B) {
	u, err := url.Parse(instant(b))
	if err != nil {
		b.Fatal(err)
	}
	p := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(u) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 512, DialContext: new(net.Dialer).DialContext},
	}
	s := httptest.NewServer(p)
	defer s.Close()
	load(b, s.URL)
}

func BenchmarkProxy(b *testing.B) {
	r := newRig(b, rigConfig{upstream: instant(b), null: true})
	load(b, r.url)
}

// BenchmarkBudgets has two hard budgets and three limits, which bind nobody.
func BenchmarkBudgets(b *testing.B) {
	for _, mode := range []string{limit.ModeStrict, limit.ModeLeased} {
		b.Run(mode, func(b *testing.B) {
			store := redistest.Start(b)
			install(b, store.URL(), 1)
			c := rigConfig{upstream: instant(b), null: true, redis: store.URL()}
			for _, id := range []string{"a", "b"} {
				budget := hard(id, 1_000_000*usd)
				if mode == limit.ModeLeased {
					budget = inAdvance(budget, limit.DefaultLeasePercent)
				}
				c.budgets = append(c.budgets, budget)
			}
			for _, scope := range []string{limit.ScopeWorkspace, limit.ScopeKey, limit.ScopeModel} {
				c.limits = append(c.limits, limit.WithDefaults(&rateguardv1.Limit{Id: scope, Scope: scope, Limit: 6_000_000, WindowUs: 60e6, Burst: 100_000, Mode: mode}))
			}
			load(b, newRig(b, c).url)
		})
	}
}
