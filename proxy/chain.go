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
	"github.com/rateguard/rateguard/proxy/ratelimit"
)

// parts are what the steps of the chain need.
type parts struct {
	view    *policy.View
	events  *emit.Emitter
	client  *upstream.Client
	intake  intake.Config
	forward forward.Config
	limits  ratelimit.Options
	slog    *slog.Logger
	metrics prometheus.Registerer
}

// newChain is the life of a request, read from the top down: each step is made with the one behind it.
// An error is returned up the chain and written once, by Server.serve.
func newChain(p parts) call.Handler {
	return auth.New(p.view, p.metrics, // who is calling, with which policy: 401
		p.events.Step( // one row for each request from here on (a flood of refusals is counted), whatever happens below; after auth, so that a stranger cannot write to the log
			intake.New(p.intake, // which route, what is asked; the body is read once: 404, 403, 413, 400
				quote.New(p.view, p.metrics, // the price, pinned, and the bound of the cost
					ratelimit.New(p.limits, // take from all of the workspace's limits or from none: 429, 400, 503
						forward.New(p.forward, p.client, p.events, p.slog), // open in the log, send, stream back, end in the log: 503, 502, 504
					)))))
}
