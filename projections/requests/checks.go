package requests

import (
	"encoding/json"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// check is one entry of the column checks: every field of the event's Check under the name that it has there. The id comes
// first, so that readers can look for it in the text before they parse it.
type check struct {
	ID            string    `json:"id"`
	Scope         string    `json:"scope"`
	Kind          string    `json:"kind"`
	Limit         int64     `json:"limit"`
	Used          int64     `json:"used"`
	Remaining     int64     `json:"remaining"`
	ResetAfterUS  int64     `json:"reset_after_us"`
	Cost          int64     `json:"cost"`
	Denied        bool      `json:"denied"`
	DecidedAt     time.Time `json:"decided_at"`
	Unit          string    `json:"unit"`
	Algorithm     string    `json:"algorithm"`
	WindowUS      int64     `json:"window_us"`
	Burst         int64     `json:"burst"`
	Subject       string    `json:"subject"`
	RetryAfterUS  int64     `json:"retry_after_us"`
	DecidedBy     string    `json:"decided_by"`
	ClockOffsetUS int64     `json:"clock_offset_us"`
	DelayUS       int64     `json:"delay_us"`
	Reserved      int64     `json:"reserved"`
	Enforcement   string    `json:"enforcement"`
	PeriodStart   time.Time `json:"period_start"`
}

func checks(list []*rateguardv1.Check) string {
	if len(list) == 0 {
		return "[]"
	}
	out := make([]check, len(list))
	for i, c := range list {
		out[i] = check{
			ID: c.GetId(), Scope: c.GetScope(), Kind: c.GetKind(), Limit: c.GetLimit(), Used: c.GetUsed(), Remaining: c.GetRemaining(),
			ResetAfterUS: c.GetResetAfterUs(), Cost: c.GetCost(), Denied: c.GetDenied(), DecidedAt: at(c.GetDecidedAtUnixUs()),
			Unit: c.GetUnit(), Algorithm: c.GetAlgorithm(), WindowUS: c.GetWindowUs(), Burst: c.GetBurst(), Subject: c.GetSubject(),
			RetryAfterUS: c.GetRetryAfterUs(), DecidedBy: c.GetDecidedBy(), ClockOffsetUS: c.GetClockOffsetUs(), DelayUS: c.GetDelayUs(),
			Reserved: c.GetReserved(), Enforcement: c.GetEnforcement(), PeriodStart: at(c.GetPeriodStartUnixUs()),
		}
	}
	b, err := json.Marshal(out)
	if err != nil {
		return "[]" // only a time out of range could not be written, and at returns none
	}
	return string(b)
}

// refusal is the column checks of denials that were aggregated: which limit refused is all that is known of them.
func refusal(limit string) string {
	if limit == "" {
		return "[]"
	}
	b, err := json.Marshal([]struct {
		ID     string `json:"id"`
		Denied bool   `json:"denied"`
	}{{limit, true}})
	if err != nil {
		return "[]" // a string and a bool can always be written
	}
	return string(b)
}

// at returns the instant, the zero time where it is none.
func at(us int64) time.Time {
	if checkTime(us) != nil {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
