package query

import (
	"encoding/json"
	"time"

	"github.com/rateguard/rateguard/schemas/limit"
)

// Kinds and deciders of checks, as the proxy records them.
const (
	kindLimit  = "limit"
	kindBudget = "budget"

	byRedis = "redis"
	byLease = "lease"
	byProxy = "local"
)

// Check is what one limit or budget saw when a request was decided. Amounts are in its unit, those of a budget in nano-USD. Fields that the
// record lacks are zero: of denials that were counted together only the id is known.
type Check struct {
	ID    string `json:"id"`
	Scope string `json:"scope"`
	// Kind is "limit" or "budget".
	Kind  string `json:"kind"`
	Limit int64  `json:"limit"`
	// Used and Remaining are after the decision, in which a denied request has taken nothing.
	Used      int64 `json:"used"`
	Remaining int64 `json:"remaining"`
	// ResetAfterUS is how long until nothing is used any more.
	ResetAfterUS int64 `json:"reset_after_us"`
	// Cost is what the request takes.
	Cost   int64 `json:"cost"`
	Denied bool  `json:"denied"`
	// DecidedAt is by the clock of Redis, of a local decision by the proxy's.
	DecidedAt time.Time `json:"decided_at,omitzero"`
	// Unit is "requests" or "tokens"; empty for a budget.
	Unit      string `json:"unit"`
	Algorithm string `json:"algorithm"`
	WindowUS  int64  `json:"window_us"`
	Burst     int64  `json:"burst"`
	// Subject is the key, route, model or endpoint whose bucket it is; empty where the limit has one bucket.
	Subject string `json:"subject"`
	// RetryAfterUS of a denial is how long until the same request would have been admitted.
	RetryAfterUS int64 `json:"retry_after_us"`
	// DecidedBy is "redis", "lease" (units or a part of a budget that the proxy had taken before) or "local" (the store was unavailable).
	DecidedBy string `json:"decided_by"`
	// ClockOffsetUS is the proxy's clock minus Redis' clock.
	ClockOffsetUS int64 `json:"clock_offset_us"`
	// DelayUS is how long a leaky bucket held the request.
	DelayUS int64 `json:"delay_us"`
	// Reserved, of a budget, is what is reserved after the decision beside what is used, which is what was spent. Enforcement is "hard" or "soft";
	// PeriodStart is zero for a budget without periods, and ResetAfterUS is how long the period still ran.
	Reserved    int64     `json:"reserved"`
	Enforcement string    `json:"enforcement"`
	PeriodStart time.Time `json:"period_start,omitzero"`
}

// readChecks reads the column checks; a text that is none, which only another program can have written, has no checks.
func readChecks(column string) []Check {
	checks := []Check{}
	if err := json.Unmarshal([]byte(column), &checks); err != nil || checks == nil {
		return []Check{}
	}
	for i := range checks {
		for _, at := range []*time.Time{&checks[i].DecidedAt, &checks[i].PeriodStart} {
			if at.Unix() <= 0 {
				*at = time.Time{}
			}
		}
	}
	return checks
}

// room is how much the check's limit or budget holds at once.
func (k *Check) room() int64 {
	if k.Algorithm == limit.TokenBucket && k.Burst > 0 {
		return k.Burst
	}
	return k.Limit
}

func (k *Check) window() time.Duration { return time.Duration(k.WindowUS) * time.Microsecond }

// binding returns the check that decided: of those that refused a budget that is spent, which is what the client hears, then the limit that refuses for
// longest, then a budget that waits for open requests; else the one with the smallest part of its room left. It is nil where there are no checks.
func binding(checks []Check) *Check {
	var best *Check
	for i := range checks {
		if k := &checks[i]; best == nil || k.tighter(best) {
			best = k
		}
	}
	return best
}

func (k *Check) tighter(o *Check) bool {
	if k.Denied != o.Denied {
		return k.Denied
	}
	if k.Denied {
		if a, b := k.rank(), o.rank(); a != b {
			return a > b
		}
		return k.RetryAfterUS > o.RetryAfterUS
	}
	if a, b := k.left(), o.left(); a < b || a > b {
		return a < b
	}
	return k.ResetAfterUS > o.ResetAfterUS
}

// rank orders checks that refused by which of them the client hears of.
func (k *Check) rank() int {
	switch {
	case k.spent():
		return 2
	case k.Kind == kindBudget:
		return 0
	}
	return 1
}

// left is the part of the room that remains.
func (k *Check) left() float64 {
	if k.room() <= 0 {
		return 1
	}
	return float64(k.Remaining) / float64(k.room())
}
