package ratelimit

import (
	"context"
	"log/slog"
	"sync"

	"github.com/rateguard/rateguard/proxy/budget"
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
	// back says that what was spent of the lease went back to it.
	back bool
	// offsetUS is our clock less the store's when it last spoke of the lease's bucket.
	offsetUS int64
}

// grant is what a call holds of its limits and budgets, until its end is known.
type grant struct {
	step    *RateLimit
	rules   []taken
	held    budget.Held
	request lua.Request
	// seen is room for a decision by leases.
	seen []lua.Seen
	// atUS is when it was taken, by Redis' clock.
	atUS int64
	// local says that nothing was taken from Redis.
	local bool
	// unreserved says that Redis decided the limits and could not reserve the budgets, which are all soft.
	unreserved bool
	// leased says that one of the limits is; byLease that none of them had to ask the store.
	leased, byLease bool
}

var grants = sync.Pool{New: func() any { return new(grant) }}

func (g *grant) reset(s *RateLimit, c *call.Call) {
	g.step, g.rules, g.atUS, g.local, g.unreserved, g.leased, g.byLease = s, g.rules[:0], 0, false, false, false, false
	g.held.Reset()
	c.Checks, c.Grant = nil, nil
	c.Holds, c.Epoch, c.Op, c.Lease = nil, 0, 0, nil
}

func (g *grant) free() {
	clear(g.rules)
	clear(g.request.Takes)
	clear(g.request.Holds)
	g.held.Reset()
	*g = grant{rules: g.rules[:0], held: g.held, seen: g.seen[:0], request: lua.Request{Takes: g.request.Takes[:0], Holds: g.request.Holds[:0]}}
	grants.Put(g)
}

// Settle gives back what the call did not use, once its end stands in the log: everything where it was never forwarded, of tokens
// what was not used, and takes what was used above; budgets post its cost instead of its bound. One try: limits leak out by themselves, and budgets are
// brought up to the log by who reads it. What is taken of budgets without a word in the log is cancelled until that is acknowledged.
func (g *grant) Settle(c *call.Call) {
	if !c.Opened {
		g.held.GiveBack()
	}
	if g.held.Any() && c.Opened && g.step.budgets.Settled(c) {
		g.step.log.Warn("a request cost more than it had reserved", slog.String("workspace", c.Workspace.ID), slog.String("request_id", c.ID),
			slog.String("model", c.Asked.Model), slog.String("bound_usd", c.Quote.Bound.String()), slog.String("cost_usd", c.Result.Cost.String()))
	}
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
	g.unused(c)
	if len(g.request.Takes) == 0 && len(g.request.Holds) == 0 {
		return
	}
	if c.Result.HasCost {
		g.request.Cost = int64(c.Result.Cost)
	}
	if len(g.request.Takes) > 0 {
		g.amend(c, lua.Settle)
		return
	}
	g.unsettled(g.step.store.Settle(context.WithoutCancel(c.Request.Context()), g.request.Workspace, g.request.Reservation, g.request.Cost))
}

// unused leaves of the takes what is to be given back or taken.
func (g *grant) unused(c *call.Call) {
	used, known := tokens(c)
	n := 0
	for i := range g.rules {
		t := g.request.Takes[i]
		if !known || !g.rules[i].rule.tokens || t.Amount == used {
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
	g.request.Takes = g.request.Takes[:n]
}

// stored reports whether something was taken from the store for this call itself.
func (g *grant) stored() bool {
	if len(g.request.Holds) > 0 {
		return true
	}
	for i := range g.request.Takes {
		if !g.request.Takes[i].Held {
			return true
		}
	}
	return false
}

// amend runs an adjustment once and reports whether it failed. The client's leaving does not end it: it comes from the end of the call.
func (g *grant) amend(c *call.Call, how lua.Adjustment) (failed bool) {
	return g.unsettled(g.step.store.Adjust(context.WithoutCancel(c.Request.Context()), how, &g.request, g.atUS))
}

// unsettled counts a failure, and reports whether there was one.
func (g *grant) unsettled(err error) bool {
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
