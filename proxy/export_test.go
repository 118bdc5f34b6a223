package proxy

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/emit"
	"github.com/rateguard/rateguard/proxy/forward"
	"github.com/rateguard/rateguard/proxy/forward/upstream"
	"github.com/rateguard/rateguard/proxy/intake"
	"github.com/rateguard/rateguard/proxy/policy"
)

// HandlerConfig is what a handler without a spool and without Kafka needs.
type HandlerConfig struct {
	View    *policy.View
	Log     emit.Log
	MaxBody int64
	// MaxResponse is 0 for the default.
	MaxResponse int64
	Drain       time.Duration
	Slog        *slog.Logger
	Buffer      int
}

// NewHandler returns the request path alone.
func NewHandler(c HandlerConfig) http.Handler {
	reg := prometheus.NewRegistry()
	client := upstream.New(upstream.Config{})
	s := &Server{log: c.Slog, errors: newErrorCounter(reg)}
	s.chain = newChain(parts{
		view: c.View, events: emit.New(c.Log, c.Slog, reg), client: client, slog: c.Slog, metrics: reg,
		intake:  intake.Config{MaxBody: c.MaxBody},
		forward: forward.Config{Drain: c.Drain, MaxBuffered: c.Buffer, MaxResponse: c.MaxResponse},
	})
	return http.HandlerFunc(s.serve)
}
