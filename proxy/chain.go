package proxy

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/auth"
	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/emit"
	"github.com/rateguard/rateguard/proxy/forward"
	"github.com/rateguard/rateguard/proxy/forward/upstream"
	"github.com/rateguard/rateguard/proxy/intake"
	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/proxy/quote"
)

// parts are what the steps of the chain need.
type parts struct {
	view    *policy.View
	log     emit.Log
	client  *upstream.Client
	intake  intake.Config
	forward forward.Config
	slog    *slog.Logger
	metrics prometheus.Registerer
}

// newChain is the life of a request, read from the bottom up: each step is made with the one behind it.
// An error is returned up the chain and written once, by Server.serve.
func newChain(p parts) call.Handler {
	events := emit.New(p.log, p.slog, p.metrics)

	// Open in the log, send, stream back and read the usage, end in the log. 503, 502, 504.
	h := call.Handler(forward.New(p.forward, p.client, events, p.slog))
	// Pin the price, bound the cost.
	h = quote.New(p.view, p.metrics, h)
	// Which route and what is asked: reads the body once. 404, 403, 413, 400.
	h = intake.New(p.intake, h)
	// One row for each request that comes here, whatever happens behind. After auth: a stranger cannot write to the log.
	h = events.Step(h)
	// Who is calling, with which policy. 401.
	return auth.New(p.view, p.metrics, h)
}
