package ratelimit

import (
	"context"
	"log/slog"
	"sync"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// taken is one limit of a call.
type taken struct {
	rule    *rule
	subject string
	// lease is that of a leased limit's bucket, and generation and sinceUS are the lease's when it was spent, if it was; low: it runs out.
	lease      *lease
	generation uint64
	sinceUS    int64
	low        bool
	// offsetUS is our clock less the store's when it last spoke of the lease's bucket.
	offsetUS int64
}

// grant is what a call holds of its limits, until its end is known.
type grant struct {
	step    *RateLimit
	rules   []taken
	request lua.Request
	// seen is room for a decision by leases.
	seen []lua.Seen
	// atUS is when it was taken, by Redis' clock.
	atUS int64
	// local says that nothing was taken from Redis.
	local bool
	// leased says that one of the limits is; byLease that none of them had to ask the store.
	leased, byLease bool
}

var grants = sync.Pool{New: func() any { return new(grant) }}

func (g *grant) reset(s *RateLimit, c *call.Call) {
	g.step, g.rules, g.atUS, g.local, g.leased, g.byLease = s, g.rules[:0], 0, false, false, false
	c.Checks, c.Grant = nil, nil
}

func (g *grant) free() {
	clear(g.rules)
	clear(g.request.Takes)
	*g = grant{rules: g.rules[:0], seen: g.seen[:0], request: lua.Request{Takes: g.request.Takes[:0]}}
	grants.Put(g)
}

// Settle gives back what the call did not use, once its end stands in the log: everything where it was never forwarded, of tokens
// what was not used, and takes what was used above. One try: what it does not give back now leaks out by itself.
func (g *grant) Settle(c *call.Call) {
	if g.local {
		return
	}
	if !c.Opened {
		g.step.leases.putBack(g)
		if g.stored() && g.amend(c, lua.Cancel) {
			g.step.amends.Add(lua.Cancel, &g.request, g.atUS)
		}
		return
	}
	used, known := tokens(c)
	if !known {
		return
	}
	n := 0
	for i := range g.rules {
		t := g.request.Takes[i]
		if !g.rules[i].rule.tokens || t.Amount == used {
			continue
		}
		if t.Held && t.Amount > used {
			g.step.leases.giveBack(&g.rules[i], g.request.Workspace, t.Amount-used)
			continue
		}
		t.Held = false // what it used above is taken from the bucket
		t.Amount -= used
		g.request.Takes[n] = t
		n++
	}
	if n == 0 {
		return
	}
	g.request.Takes = g.request.Takes[:n]
	g.amend(c, lua.Settle)
}

// stored reports whether something was taken from the store for this call itself.
func (g *grant) stored() bool {
	for i := range g.request.Takes {
		if !g.request.Takes[i].Held {
			return true
		}
	}
	return false
}

// amend runs an adjustment once and reports whether it failed. The client's leaving does not end it: it comes from the end of the call.
func (g *grant) amend(c *call.Call, how lua.Adjustment) (failed bool) {
	err := g.step.store.Adjust(context.WithoutCancel(c.Request.Context()), how, &g.request, g.atUS)
	if err != nil {
		g.step.metrics.unsettled.Inc()
		g.step.log.Debug("limits are not settled", slog.String("workspace", g.request.Workspace),
			slog.String("reservation", g.request.Reservation), slog.Any("error", err))
	}
	return err != nil
}

// tokens returns what the call used; known is false where nobody knows, and the bound stays taken.
func tokens(c *call.Call) (n int64, known bool) {
	switch {
	case c.Result.Kind == rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED:
		return 0, true
	case c.Result.HasUsage:
		return c.Result.Usage.InputTokens + c.Result.Usage.OutputTokens, true
	}
	return 0, false
}
