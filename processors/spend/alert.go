package spend

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/processors/group"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/spend"
)

// Kinds of the alerts of budgets.
const (
	kindThreshold = "budget_threshold"
	kindOverrun   = "budget_overrun"
)

// alertSpace makes the ids of alerts from what they are about: a replay, which counts at other positions, gives the same ids.
var alertSpace = uuid.MustParse("3f0c2a7e-5d0b-4a3c-9a52-54c6b1d2a9ee")

// causes say in words how a hard budget came above its limit.
var causes = map[spend.Cause]string{
	spend.CauseCorrection:     "a cost was corrected upwards",
	spend.CauseCostAboveBound: "a call cost more than was reserved for it",
	spend.CauseLimitLowered:   "the limit was lowered",
}

// newAlert returns the event of an alert that an input gave rise to.
func newAlert(in group.Input, a spend.Alert) *rateguardv1.Event {
	h := a.Hold
	alert := &rateguardv1.Alert{
		AlertId: alertID(in.Key, a), Rule: "budget:" + h.GetBudgetId(), Kind: kindThreshold, State: "raised", Severity: severity(a),
		Labels: map[string]string{
			"budget": h.GetBudgetId(), "generation": strconv.FormatUint(h.GetBudgetGeneration(), 10), "balance": h.GetBalance(),
			"period_start": periodStart(h), "limit_usd": money.Nano(a.LimitNano).String(), "posted_usd": money.Nano(a.PostedNano).String(),
		},
		RaisedAtUnixUs: in.Event.GetOccurredAtUnixUs(),
	}
	spent := fmt.Sprintf("%s of %s USD spent%s", money.Nano(a.PostedNano), money.Nano(a.LimitNano), during(h))
	if a.Overrun() {
		alert.Kind, alert.Title = kindOverrun, fmt.Sprintf("Budget %s is above its hard limit: %s", subject(h), spent)
		if words, known := causes[a.Cause]; known {
			alert.Labels["cause"] = string(a.Cause)
			alert.Title += "; " + words
		}
	} else {
		alert.Labels["threshold"] = decimal(a.Permille, 3)
		alert.Title = fmt.Sprintf("Budget %s has reached %s%% of its limit: %s", subject(h), decimal(a.Permille, 1), spent)
	}
	return &rateguardv1.Event{WorkspaceId: in.Key, OccurredAtUnixUs: in.Event.GetOccurredAtUnixUs(), Body: &rateguardv1.Event_Alert{Alert: alert}}
}

// alertID is made from workspace, budget, generation, balance, period and threshold: there is one alert of each.
func alertID(workspace string, a spend.Alert) string {
	h := a.Hold
	of := fmt.Sprintf("%q %q %d %q %d %d", workspace, h.GetBudgetId(), h.GetBudgetGeneration(), h.GetBalance(), h.GetPeriodStartUnixUs(), a.Permille)
	return uuid.NewSHA1(alertSpace, []byte(of)).String()
}

func severity(a spend.Alert) string {
	switch {
	case a.Overrun() || a.Permille >= 1000:
		return "critical"
	case a.Permille >= 800:
		return "warning"
	}
	return "info"
}

// periodStart is the start of the hold's period in UTC; empty for a budget without periods.
func periodStart(h *rateguardv1.Hold) string {
	if h.GetPeriodStartUnixUs() == 0 {
		return ""
	}
	return time.UnixMicro(h.GetPeriodStartUnixUs()).UTC().Format(time.RFC3339)
}

func during(h *rateguardv1.Hold) string {
	if start := periodStart(h); start != "" {
		return " in the period from " + start
	}
	return ""
}

// subject names the budget, and of one with several balances which it is.
func subject(h *rateguardv1.Hold) string {
	if h.GetBalance() == "" {
		return h.GetBudgetId()
	}
	return h.GetBudgetId() + " (" + h.GetBalance() + ")"
}

// decimal returns n / 10^places without zeros at the end.
func decimal(n uint32, places int) string {
	digits := fmt.Sprintf("%0*d", places+1, n)
	whole, fraction := digits[:len(digits)-places], strings.TrimRight(digits[len(digits)-places:], "0")
	if fraction == "" {
		return whole
	}
	return whole + "." + fraction
}
