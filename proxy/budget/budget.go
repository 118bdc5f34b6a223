// Package budget says what a request reserves of the budgets of its workspace before it is sent, and what their answer means. The
// reservation itself is made by the script that also decides the limits: all of them, or none.
package budget

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Epochs know which epoch of a workspace's budgets may be used.
type Epochs interface {
	// Least returns the least epoch that this process may use; false while it may use none.
	Least(workspace string) (uint64, bool)
	// Ask asks for the budgets of the workspace to be read from the log.
	Ask(workspace string)
	// Await asks for the budgets of the workspace to be read from the log, and waits a moment for it. It returns nil when they are there.
	Await(ctx context.Context, workspace string) error
}

// Budgets are the budgets of all workspaces; make them with New.
type Budgets struct {
	epochs   Epochs
	producer string
	compiled sync.Map // workspace id → *rules
	metrics  metrics
}

// Options are what budgets need.
type Options struct {
	Epochs Epochs
	// Producer is the id of this process, under which it reserves.
	Producer string
	Metrics  prometheus.Registerer
}

// New returns the budgets.
func New(o Options) *Budgets {
	return &Budgets{epochs: o.Epochs, producer: o.Producer, metrics: newMetrics(o.Metrics)}
}

// Held is what one call reserves. Its zero value is of a call that reserves nothing.
type Held struct {
	rules    []*rule
	subjects []string
	// hard says that one of the budgets is.
	hard bool
}

// Any reports whether a budget applies.
func (h *Held) Any() bool { return len(h.rules) > 0 }

// Reset forgets everything but its room.
func (h *Held) Reset() {
	clear(h.rules)
	*h = Held{rules: h.rules[:0], subjects: h.subjects[:0]}
}

// Collect finds the budgets that are for the call and adds to the request what it reserves of them: the bound of its cost. It refuses with
// price_unknown and cost_unbounded where a hard budget applies and there is no bound.
func (b *Budgets) Collect(c *call.Call, h *Held, r *lua.Request) error {
	h.Reset()
	r.Holds = r.Holds[:0]
	if len(c.Workspace.Document.GetBudgets()) == 0 || c.Quote.Bounded && c.Quote.Bound == 0 {
		return nil // what costs nothing is not held up by an empty budget
	}
	list := b.rules(c.Workspace).list
	for i := range list {
		subject, ok := list[i].where.Of(c)
		if !ok {
			continue
		}
		h.rules, h.subjects = append(h.rules, &list[i]), append(h.subjects, subject)
		h.hard = h.hard || list[i].hard
		r.Holds = append(r.Holds, list[i].hold(subject, int64(c.Quote.Bound)))
	}
	if !h.Any() {
		return nil
	}
	if h.hard && !c.Quote.Bounded {
		b.metrics.unbounded.Inc()
		return unbounded(c)
	}
	b.note(c, h)
	r.Producer = b.producer
	return nil
}

// Enter sets the least epoch that the request may use. An error matches lua.ErrUnavailable: this process may use none yet.
func (b *Budgets) Enter(r *lua.Request) error {
	least, ok := b.epochs.Least(r.Workspace)
	if !ok {
		return lua.ErrNoEpoch
	}
	r.Epoch = least
	return nil
}

// Ask asks for the budgets of a workspace to be read from the log.
func (b *Budgets) Ask(workspace string) { b.epochs.Ask(workspace) }

// Await waits a moment for the budgets of a workspace to be read from the log.
func (b *Budgets) Await(ctx context.Context, workspace string) error {
	return b.epochs.Await(ctx, workspace)
}

func (b *Budgets) rules(w *call.Workspace) *rules {
	if v, ok := b.compiled.Load(w.ID); ok {
		if r := v.(*rules); r.workspace == w { //nolint:forcetypeassert,errcheck // the map holds nothing else
			return r
		}
	}
	r := newRules(w)
	b.compiled.Store(w.ID, r)
	return r
}

// note writes into the call what it holds; the sums come with the decision.
func (b *Budgets) note(c *call.Call, h *Held) {
	holds := make([]rateguardv1.Hold, len(h.rules))
	c.Holds = make([]*rateguardv1.Hold, len(h.rules))
	for i, r := range h.rules {
		hold := &holds[i]
		hold.BudgetId, hold.BudgetGeneration, hold.Balance = r.policy.GetId(), r.policy.GetGeneration(), h.subjects[i]
		hold.AmountNanoUsd, hold.LimitNanoUsd = int64(c.Quote.Bound), r.policy.GetLimitNanoUsd()
		hold.AlertPermille, hold.Hard = r.alerts, r.hard
		c.Holds[i] = hold
	}
}

// Decided notes what the budgets showed: in the holds, which go into the log, and in the call's checks.
func (b *Budgets) Decided(c *call.Call, h *Held, d *lua.Decision) {
	c.Epoch, c.Op = d.Epoch, d.Op
	checks := make([]rateguardv1.Check, len(h.rules))
	offset := d.Received.UnixMicro() - d.NowUS
	for i, r := range h.rules {
		held, hold, k := &d.Held[i], c.Holds[i], &checks[i]
		hold.PeriodStartUnixUs, hold.PostedNanoUsd, hold.ReservedNanoUsd = held.StartUS, held.PostedNano, held.ReservedNano
		k.Id, k.Kind, k.Scope, k.Subject, k.Enforcement = hold.GetBudgetId(), kind, r.policy.GetScope(), hold.GetBalance(), r.policy.GetEnforcement()
		k.Limit, k.Used, k.Reserved, k.Cost = hold.GetLimitNanoUsd(), held.PostedNano, held.ReservedNano, hold.GetAmountNanoUsd()
		k.Remaining = max(0, k.GetLimit()-k.GetUsed()-k.GetReserved())
		k.Denied = held.Stands != lua.StandsNothing
		k.PeriodStartUnixUs, k.DecidedAtUnixUs, k.DecidedBy, k.ClockOffsetUs = held.StartUS, d.NowUS, decidedByRedis, offset
		if end, ok := r.end(held.StartUS); ok {
			k.ResetAfterUs = max(0, end.UnixMicro()-d.NowUS)
		}
		c.Checks = append(c.Checks, k)
	}
	if d.Admitted {
		b.metrics.admitted.Inc()
	}
}

// What checks of budgets say: what they are, and who decided, which never is anybody else.
const (
	kind           = "budget"
	decidedByRedis = "redis"
)

// Locally notes what a call holds that is served although Redis did not decide: the log counts it, nothing here does.
func (b *Budgets) Locally(c *call.Call, h *Held, us int64) {
	c.Epoch, c.Op = 0, 0
	for i, r := range h.rules {
		c.Holds[i].PeriodStartUnixUs = r.start(us)
	}
	b.metrics.local.Inc()
}

// Closed reports whether the call must not be served while Redis cannot decide, and by which budget.
func (h *Held) Closed() (budget string, closed bool) {
	for _, r := range h.rules {
		if r.closed {
			return r.policy.GetId(), true
		}
	}
	return "", false
}

// Settled counts what cost more than it reserved: the provider billed beyond the bound, and the budget takes all of it.
func (b *Budgets) Settled(c *call.Call) (over bool) {
	over = c.Quote.Bounded && c.Result.HasCost && c.Result.Cost > c.Quote.Bound
	if over {
		b.metrics.overruns.Inc()
		b.metrics.overrun.Add(float64(c.Result.Cost - c.Quote.Bound))
	}
	return over
}
