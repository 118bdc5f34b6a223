package spend

import (
	"math/bits"
	"slices"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Alert is what a budget period has come to: a threshold of its policy, or a sum above the limit of a hard budget. Each
// comes once a period, whatever the sum does afterwards.
type Alert struct {
	// Hold names budget, generation, balance and period.
	Hold *rateguardv1.Hold
	// Permille is the threshold, in permille of the limit; 0 for an overrun.
	Permille uint32
	// Cause of an overrun, where the event tells it.
	Cause Cause
	// LimitNano and PostedNano are nano-USD, right after the end or correction that raised the alert.
	LimitNano, PostedNano int64
}

// Overrun reports whether a hard budget is over its limit.
func (a Alert) Overrun() bool { return a.Permille == 0 }

// Cause says why a hard budget could come above its limit, although no admission takes it there.
type Cause string

// The causes that an event can tell.
const (
	CauseUnknown        Cause = ""
	CauseCorrection     Cause = "correction"
	CauseCostAboveBound Cause = "cost_above_bound"
	CauseLimitLowered   Cause = "limit_lowered"
)

const (
	// maxThresholds bounds what a period notes of them; a policy has at most ten, and changes them rarely within a period.
	maxThresholds = 32
	// maxAlerts is how many alerts one event may raise: a closing can end thousands of reservations of as many balances. What is
	// above is raised by the next end of its balance.
	maxAlerts = 64
)

// noteLimit keeps the limit of the newest policy. Holds that a closing made from Redis alone state neither, which is older than any.
func noteLimit(p *rateguardv1.PeriodSums, subject *rateguardv1.Subject, h *rateguardv1.Hold) {
	if subject.GetPolicyVersion() >= p.GetPolicyVersion() {
		p.LimitNanoUsd, p.PolicyVersion = h.GetLimitNanoUsd(), subject.GetPolicyVersion()
	}
}

// alert raises what the sums have come to with an outcome. It asks what they are and not whether they grew: a limit that was
// lowered, or an alert that had to wait, is told with the next outcome.
func (f *folding) alert(o *rateguardv1.Outcome) {
	for _, h := range o.GetHolds() {
		p := period(f.state, h)
		if p == nil || p.GetLimitNanoUsd() <= 0 || p.GetSums().GetPostedNanoUsd() <= 0 {
			continue
		}
		for _, t := range h.GetAlertPermille() {
			f.threshold(p, h, t)
		}
		if h.GetHard() && p.GetSums().GetPostedNanoUsd() > p.GetLimitNanoUsd() && !p.GetOverrunAlerted() {
			p.OverrunAlerted = f.raise(p, Alert{Hold: h, Cause: f.cause(p, h, o)})
		}
	}
}

func (f *folding) threshold(p *rateguardv1.PeriodSums, h *rateguardv1.Hold, permille uint32) {
	i, alerted := slices.BinarySearch(p.GetAlertedPermille(), permille)
	if alerted || permille == 0 || len(p.GetAlertedPermille()) == maxThresholds || !reached(p, permille) {
		return
	}
	if f.raise(p, Alert{Hold: h, Permille: permille}) {
		p.AlertedPermille = slices.Insert(p.AlertedPermille, i, permille)
	}
}

// raise reports whether the alert is among the event's.
func (f *folding) raise(p *rateguardv1.PeriodSums, a Alert) bool {
	if len(f.Alerts) == maxAlerts {
		if !f.postponed {
			f.note(notePostponed, "budget "+a.Hold.GetBudgetId())
		}
		f.postponed = true
		return false
	}
	a.LimitNano, a.PostedNano = p.GetLimitNanoUsd(), p.GetSums().GetPostedNanoUsd()
	f.Alerts = append(f.Alerts, a)
	return true
}

// reached reports whether posted ≥ limit × permille / 1000, exactly. Both amounts are positive.
func reached(p *rateguardv1.PeriodSums, permille uint32) bool {
	high, low := bits.Mul64(uint64(p.GetSums().GetPostedNanoUsd()), 1000)          //nolint:gosec // positive
	wantHigh, wantLow := bits.Mul64(uint64(p.GetLimitNanoUsd()), uint64(permille)) //nolint:gosec // positive
	return high > wantHigh || high == wantHigh && low >= wantLow
}

// cause is what the event shows of why the sum is above its limit. An end within its bound may also be the last of several, of which an
// earlier one broke the rule: that is unknown here.
func (f *folding) cause(p *rateguardv1.PeriodSums, h *rateguardv1.Hold, o *rateguardv1.Outcome) Cause {
	switch {
	case f.event.GetCostCorrected() != nil:
		return CauseCorrection
	case o.GetCostNanoUsd() > h.GetAmountNanoUsd():
		return CauseCostAboveBound
	case h.GetLimitNanoUsd() > p.GetLimitNanoUsd():
		return CauseLimitLowered
	}
	return CauseUnknown
}
