package proof

import (
	"time"

	"github.com/rateguard/rateguard/schemas/money"
)

// Decision is what the budget showed when a request was decided, as its row keeps it.
type Decision struct {
	Request string `json:"request"`
	// At is by the clock of Redis.
	At time.Time `json:"at"`
	// Posted and Reserved are after the decision.
	Posted   money.Nano `json:"posted_usd"`
	Reserved money.Nano `json:"reserved_usd"`
	Needed   money.Nano `json:"needed_usd"`
	Limit    money.Nano `json:"limit_usd"`
	Denied   bool       `json:"denied"`
}

// What explains a decision.
const (
	// ByLog: the sums of the log at that instant.
	ByLog = "log"
	// ByClocks: the sums of the log at another instant close by; Redis and each proxy have clocks of their own.
	ByClocks = "clocks"
	// ByUnshipped: nothing in the log; Redis held grants that never were opened, or whose records are still on the disk of a proxy.
	ByUnshipped = "unshipped"
)

// Refusal is a decision beside what the log shows at the same instant.
type Refusal struct {
	Decision
	LogPosted   money.Nano `json:"log_posted_usd"`
	LogReserved money.Nano `json:"log_reserved_usd"`
	// Peak is the largest sum of posted and reserved that the log shows within 10 s, and PeakAt when.
	Peak   money.Nano `json:"peak_usd"`
	PeakAt time.Time  `json:"peak_at"`
	// Proved: by the log the request did not fit, at that instant or close by.
	Proved bool `json:"proved"`
	// ExplainedBy is ByLog, ByClocks or ByUnshipped; empty where the budget did not refuse.
	ExplainedBy string `json:"explained_by"`
}

// explain compares a decision with the sums of the log at the book's instant.
func explain(d Decision, b *Book, s Sums) *Refusal {
	r := &Refusal{Decision: d, LogPosted: s.Posted, LogReserved: s.Reserved}
	r.Peak, r.PeakAt = b.peak()
	if !d.Denied {
		return r
	}
	switch {
	case s.Posted+s.Reserved+d.Needed > d.Limit:
		r.Proved, r.ExplainedBy = true, ByLog
	case r.Peak+d.Needed > d.Limit:
		r.Proved, r.ExplainedBy = true, ByClocks
	default:
		r.ExplainedBy = ByUnshipped
	}
	return r
}
