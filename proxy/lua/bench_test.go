package lua_test

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

// What the store adds to the client's own EVALSHA, with 64 callers.
func BenchmarkEval(b *testing.B) {
	r := redistest.Start(b)
	s := openStore(b, lua.StoreConfig{URL: r.URL(), Timeout: patient, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	source := "local t = redis.call('TIME') return {'OK', t[1] * 1000000 + t[2]}"
	script, bare := lua.NewScript(source), redis.NewScript(source)
	b.Run("store", func(b *testing.B) {
		b.SetParallelism(32)
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if _, err := s.Eval(b.Context(), script, []string{"k"}, deadline); err != nil {
					b.Error(err)
				}
			}
		})
	})
	b.Run("client", func(b *testing.B) {
		b.SetParallelism(32)
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for p.Next() {
				if err := bare.Run(b.Context(), s.Client(), []string{"k"}, 1).Err(); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
