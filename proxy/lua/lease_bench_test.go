package lua_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/budget"
	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/ratelimit"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
)

// BenchmarkDecision is the whole step in front of a request: strict ones wait for Redis, leased ones spend what they hold.
func BenchmarkDecision(b *testing.B) {
	for _, mode := range []string{limit.ModeStrict, limit.ModeLeased} {
		for _, n := range []int{1, 3} {
			b.Run(fmt.Sprintf("%s/limits=%d", mode, n), func(b *testing.B) {
				w := &call.Workspace{ID: "ws", Version: 1, Document: new(rateguardv1.WorkspacePolicy)}
				for i := range n {
					w.Document.Limits = append(w.Document.Limits, &rateguardv1.Limit{
						Id: fmt.Sprintf("l%d", i), Scope: []string{"workspace", "key", "route"}[i], Limit: 1_000_000_000, WindowUs: 1_000_000, Mode: mode,
					})
				}
				reg, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
				store := lua.NewAdmissions(openStore(b, lua.StoreConfig{URL: redistest.Start(b).URL(), Timeout: patient, Log: log}), reg)
				leases := ratelimit.NewLeases(ratelimit.LeaseConfig{Holder: "bench", Store: store, Log: log, Metrics: reg})
				served := 0
				step := ratelimit.New(ratelimit.Options{
					Budgets: budget.New(budget.Options{Metrics: prometheus.NewRegistry()}),
					Store:   store, Amends: ratelimit.NewAmends(store, func(string) {}, log, reg), Leases: leases, Proxies: func() int { return 1 }, Log: log, Metrics: reg,
				}, call.HandlerFunc(func(*call.Call) error {
					served++
					return nil
				}))
				c := &call.Call{
					ID: call.NewID(time.Now()), Writer: httptest.NewRecorder(), Request: httptest.NewRequest(http.MethodPost, "/", nil), Start: time.Now(),
					Workspace: w, Key: &call.Key{ID: "key"}, RouteID: "openai", Dialect: call.OpenAI, Ended: true,
				}
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					c.ID = fmt.Sprintf("%d", i)
					if err := step.Serve(c); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
