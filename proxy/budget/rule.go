package budget

import (
	"math"
	"slices"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	terms "github.com/rateguard/rateguard/schemas/budget"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// rule is one budget of a workspace, prepared for its requests.
type rule struct {
	policy *rateguardv1.Budget
	where  call.Scope
	// closed says that nothing is served while Redis cannot decide.
	hard, closed bool
	// percent is how much of the limit all leases together may hold; 0: it is not leased.
	percent int32
	// field is the balance of a budget that has but one.
	field string
	// alerts are the thresholds in permille of the limit, ascending. All holds share them.
	alerts []uint32
}

// rules are the budgets of a workspace at one version of its policy.
type rules struct {
	workspace *call.Workspace
	list      []rule
}

// budget returns the rule of a budget; nil: there is none.
func (r *rules) budget(id string) *rule {
	for i := range r.list {
		if r.list[i].policy.GetId() == id {
			return &r.list[i]
		}
	}
	return nil
}

func newRules(w *call.Workspace) *rules {
	out := &rules{workspace: w}
	for _, b := range w.Document.GetBudgets() {
		// Whatever is not "soft" is hard, and what is not "open" is closed: a word that this release does not know must not let requests through.
		r := rule{policy: b, where: call.NewScope(b.GetScope(), b.GetMatch()), hard: b.GetEnforcement() != Soft, alerts: permille(b.GetAlertAt())}
		if b.GetMode() == leased {
			r.percent = b.GetLeasePercent()
		}
		r.closed = r.hard || b.GetOnStoreFailure() != failOpen
		if r.where.One() {
			r.field = keyspace.Balance(b.GetId(), b.GetGeneration(), "")
		}
		out.list = append(out.list, r)
	}
	return out
}

// permille returns thresholds as folds take them. What is above 0 is at least one; what is no number or out of all reason is left out.
func permille(thresholds []float64) []uint32 {
	var out []uint32
	for _, t := range thresholds {
		if t > 0 && t <= terms.MaxAlertAt {
			out = append(out, max(1, uint32(math.Round(t*1000))))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Values of a policy's fields.
const (
	// Soft budgets count and refuse nothing.
	Soft     = "soft"
	leased   = "leased"
	failOpen = "open"
	total    = "total"
)

// hold returns what a call of the subject reserves.
func (r *rule) hold(subject string, nano int64) lua.Hold {
	field := r.field
	if field == "" {
		field = keyspace.Balance(r.policy.GetId(), r.policy.GetGeneration(), subject)
	}
	h := lua.Hold{Balance: field, Limit: r.policy.GetLimitNanoUsd(), Amount: nano, Hard: r.hard}
	if r.policy.GetPeriod() != total {
		// A budget with periods and without a boundary has no period of now, and is refused as such.
		h.Starts = r.policy.GetBoundariesUnixUs()
		if len(h.Starts) == 0 {
			h.Starts = noPeriods
		}
	}
	return h
}

var noPeriods = []int64{0}

// end returns the end of the period that starts at an instant; false for one without.
func (r *rule) end(startUS int64) (time.Time, bool) {
	for _, b := range r.policy.GetBoundariesUnixUs() {
		if b > startUS {
			return time.UnixMicro(b).UTC(), r.policy.GetPeriod() != total
		}
	}
	return time.Time{}, false
}

// start returns the start of the period that holds an instant by our own clock, for what is counted without Redis.
func (r *rule) start(us int64) int64 {
	if r.policy.GetPeriod() == total {
		return 0
	}
	var start int64
	for _, b := range r.policy.GetBoundariesUnixUs() {
		if b <= us {
			start = b
		}
	}
	return start
}
