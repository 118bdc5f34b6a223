// Package budget says what a request reserves of the budgets of its workspace before it is sent, and what their answer means. The
// reservation itself is made by the script that also decides the limits: all of them, or none.
package budget

import (
	"context"
	"math"
	"sync"
	"time"

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
	leases   *Leases
	compiled sync.Map // workspace id → *rules
	metrics  metrics
}

// Options are what budgets need.
type Options struct {
	Epochs Epochs
	// Producer is the id of this process, under which it reserves.
	Producer string
	// Leases are what this process has reserved in advance; nil: nothing ever.
	Leases  *Leases
	Metrics prometheus.Registerer
}

// New returns the budgets.
func New(o Options) *Budgets {
	return &Budgets{epochs: o.Epochs, producer: o.Producer, leases: o.Leases, metrics: newMetrics(o.Metrics)}
}

// Held is what one call reserves. Its zero value is of a call that reserves nothing.
type Held struct {
	rules    []*rule
	subjects []string
	// hard says that one of the budgets is.
	hard bool
	// compiled are the rules that these are of, and pool the leases of their balances where all of them are leased. share is what the call has taken from one.
	compiled *rules
	pool     *pool
	share    share
}

// Any reports whether a budget applies.
func (h *Held) Any() bool { return len(h.rules) > 0 }

// Leased reports whether what is held was taken from a lease.
func (h *Held) Leased() bool { return h.share.lease != nil }

// percent is the least part of a limit that leases of these budgets may hold; 0 where one of them is not leased.
func (h *Held) percent() int32 {
	least := int32(math.MaxInt32)
	for _, r := range h.rules {
		least = min(least, r.percent)
	}
	return least
}

// GiveBack gives back what was taken from a lease and is not opened.
func (h *Held) GiveBack() { h.share.Opened(false) }

// Reset forgets everything but its room. What was taken from a lease goes back to it.
func (h *Held) Reset() {
	h.share.Opened(false)
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
	h.compiled = b.rules(c.Workspace)
	list := h.compiled.list
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

// Take takes what the call holds from a lease where all of its budgets are leased, and reports whether it could: then nothing is to be asked of Redis for
// them. Where it could not, the request may carry an ask for a lease, and Answered is to be called with the answer.
func (b *Budgets) Take(c *call.Call, h *Held, r *lua.Request) bool {
	if b.leases == nil || h.percent() == 0 || !c.Quote.Bounded || !b.leases.take(c, h, r) {
		return false
	}
	c.Lease = &h.share
	r.Holds = r.Holds[:0]
	return true
}

// Answered takes what Redis said to a request since Take. After it the request carries no ask where Redis has answered.
func (b *Budgets) Answered(c *call.Call, h *Held, r *lua.Request, sent time.Time, d *lua.Decision, err error) {
	if h.pool != nil {
		b.leases.answered(h.pool, h.compiled, r, c.Holds, sent, d, err)
	}
}

// Show adds to a decision what the budgets of a lease have shown, and to which grant they belong.
func (h *Held) Show(d *lua.Decision) {
	d.Held, d.Epoch, d.Op = h.share.lease.held, h.share.lease.epoch, 0
}

// NowUS is Redis' clock as the lease knows it, in µs.
func (h *Held) NowUS(now time.Time) int64 {
	return h.share.lease.nowUS + now.Sub(h.share.lease.received).Microseconds()
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
	offset, by := d.Received.UnixMicro()-d.NowUS, call.DecidedByRedis
	if h.Leased() {
		by = call.DecidedByLease
	}
	for i, r := range h.rules {
		held, hold, k := &d.Held[i], c.Holds[i], &checks[i]
		hold.PeriodStartUnixUs, hold.PostedNanoUsd, hold.ReservedNanoUsd = held.StartUS, held.PostedNano, held.ReservedNano
		k.Id, k.Kind, k.Scope, k.Subject, k.Enforcement = hold.GetBudgetId(), kind, r.policy.GetScope(), hold.GetBalance(), r.policy.GetEnforcement()
		k.Limit, k.Used, k.Reserved, k.Cost = hold.GetLimitNanoUsd(), held.PostedNano, held.ReservedNano, hold.GetAmountNanoUsd()
		k.Remaining = max(0, k.GetLimit()-k.GetUsed()-k.GetReserved())
		k.Denied = held.Stands != lua.StandsNothing
		k.PeriodStartUnixUs, k.DecidedAtUnixUs, k.DecidedBy, k.ClockOffsetUs = held.StartUS, d.NowUS, by, offset
		if end, ok := r.end(held.StartUS); ok {
			k.ResetAfterUs = max(0, end.UnixMicro()-d.NowUS)
		}
		c.Checks = append(c.Checks, k)
	}
	if d.Admitted {
		b.metrics.admitted.Inc()
	}
}

// kind is what checks of budgets are called.
const kind = "budget"

// Locally notes what a call holds that is served although Redis did not decide: the log counts it, nothing here does.
func (b *Budgets) Locally(c *call.Call, h *Held, us int64) {
	c.Epoch, c.Op = 0, 0
	for i, r := range h.rules {
		c.Holds[i].PeriodStartUnixUs = r.start(us)
	}
	b.metrics.local.Inc()
}

// Closed reports whether the call must not be served while Redis cannot decide, and by which budget. What a lease holds is decided.
func (h *Held) Closed() (budget string, closed bool) {
	if h.Leased() {
		return "", false
	}
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
