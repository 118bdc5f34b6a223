package proxy

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/budget"
	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/emit"
	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/forward"
	"github.com/rateguard/rateguard/proxy/forward/upstream"
	"github.com/rateguard/rateguard/proxy/intake"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/proxy/ratelimit"
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
	// Store is nil where no workspace has limits or budgets.
	Store *lua.Store
	// Gate is nil for one that has started at epoch 1. Producer is who reserves.
	Gate     *epoch.Gate
	Producer string
}

// NewHandler returns the request path alone, and what its limits do beside it.
func NewHandler(c HandlerConfig) (h http.Handler, background []func(context.Context) error) {
	reg := prometheus.NewRegistry()
	client := upstream.New(upstream.Config{})
	s := &Server{log: c.Slog, errors: newErrorCounter(reg)}
	limits := ratelimit.Options{Proxies: func() int { return 1 }, Log: c.Slog, Metrics: reg}
	if c.Gate == nil {
		c.Gate = epoch.NewGate()
		c.Gate.Start(1, nil)
	}
	var wants epoch.Wants
	var places epoch.Places
	if c.Store != nil {
		wants, places = lua.NewWants(c.Store.Client()), lua.NewBalances(c.Store)
	}
	installs := epoch.NewInstalls(c.Gate, wants, places, c.Slog)
	events := emit.New(c.Log, c.Gate, c.Slog, reg)
	var leases *budget.Leases
	if c.Store != nil {
		admissions := lua.NewAdmissions(c.Store, reg)
		leases = budget.NewLeases(budget.LeaseOptions{
			Store: admissions, Log: events, Epochs: installs, Producer: c.Producer, Slog: c.Slog, Metrics: reg,
			Cancel: func(r *lua.Request) { limits.Amends.Add(lua.Cancel, r, 0) },
		})
		limits.Store, limits.Policies = admissions, &policies{view: c.View, store: c.Store}
		limits.Amends = ratelimit.NewAmends(admissions, installs.Ask, c.Slog, reg)
		limits.Leases = ratelimit.NewLeases(ratelimit.LeaseConfig{
			Holder: call.NewID(time.Now()), Store: admissions, Log: c.Slog, Metrics: reg,
		})
		background = append(background, limits.Amends.Run, limits.Leases.Run, leases.Run, installs.Run)
	}
	limits.Budgets = budget.New(budget.Options{Epochs: installs, Producer: c.Producer, Leases: leases, Metrics: reg})
	s.chain = newChain(parts{
		view: c.View, events: events, client: client, slog: c.Slog, metrics: reg,
		intake:  intake.Config{MaxBody: c.MaxBody},
		limits:  limits,
		forward: forward.Config{Drain: c.Drain, MaxBuffered: c.Buffer, MaxResponse: c.MaxResponse},
	})
	return http.HandlerFunc(s.serve), background
}

// WatchIsolation looks until ctx ends whether both of the two answer.
func WatchIsolation(ctx context.Context, redis, kafka func(context.Context) error, after time.Duration, log *slog.Logger, reg prometheus.Registerer) {
	i := isolation{redis: redis, kafka: kafka, after: after, log: log, gauge: newIsolatedGauge(reg)}
	i.run(ctx)
}
