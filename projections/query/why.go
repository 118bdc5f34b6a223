package query

import (
	"fmt"
	"slices"
	"strings"
)

// statusClientGone is recorded for a client that left before its answer was complete.
const statusClientGone = 499

// Why says in sentences why a request was decided as it was: what refused or admitted it, who else used the limit, whether as a burst, by
// whose clock and with which policy. It reads nothing but the explanation, and not its Why.
func Why(e *Explanation) []string {
	if e.Request.Method == "" && e.Request.Decision == "denied" {
		return []string{counted(e)}
	}
	k := binding(e.Checks)
	var out []string
	switch {
	case isLease(e):
		out = lease(e)
	case e.Request.Decision == "forwarded":
		out = admitted(e, k)
	case e.Request.Decision != "denied":
		out = []string{"How it was decided and what the client got is not known: the proxy died before it could record it."}
	case k != nil && k.Denied:
		out = refused(e, k)
	default:
		out = refusedOtherwise(e)
	}
	if e.UsedBy != nil && k != nil {
		out = append(out, neighbours(e, k)...)
	}
	if k != nil {
		out = append(out, decider(e.Checks, k)...)
	}
	if e.PolicyVersion > 0 {
		out = append(out, fmt.Sprintf("Decided with policy version %d.", e.PolicyVersion))
	}
	return out
}

// leaseSuffix ends the id of a lease, in the place of an attempt's number.
const leaseSuffix = "/lease"

// isLease reports whether the row is that of a lease: it has one only where it was charged.
func isLease(e *Explanation) bool {
	return slices.ContainsFunc(e.Reservations, func(r Reservation) bool { return strings.HasSuffix(r.ID, leaseSuffix) })
}

// lease is about a lease that was charged, and what of that still stands.
func lease(e *Explanation) []string {
	out := []string{"This is no request but a lease: what a proxy had reserved of budgets for requests to come. The proxy was lost, and what it may have spent of the lease without telling was charged."}
	for _, r := range e.Reservations {
		n := len(r.Outcomes)
		if n < 2 || r.Outcomes[0].CostUSD == nil || r.Outcomes[n-1].CostUSD == nil {
			continue
		}
		out = append(out, fmt.Sprintf("Later some of it came to light: of $%s that were charged at first, $%s still are.", *r.Outcomes[0].CostUSD, *r.Outcomes[n-1].CostUSD))
	}
	return out
}

// counted is about denials that share a row.
func counted(e *Explanation) string {
	by := ""
	if len(e.Checks) > 0 {
		by = " by " + name(e.Checks[0].ID)
	}
	return fmt.Sprintf("This row counts %s of key %s that %s refused%s with %s (%d): in a flood of refusals not each gets a row, and what the limit showed is not kept.",
		plural(int64(e.Request.Requests), "request"), name(e.Request.KeyID), was(int64(e.Request.Requests)), by, e.Request.ErrorCode, e.Request.Status) //nolint:gosec // counts fit
}

// refused is about a request that a limit or budget refused.
func refused(e *Explanation, k *Check) []string {
	out := []string{"Refused by " + k.describe() + " " + k.full()}
	if k.RetryAfterUS > 0 {
		out = append(out, fmt.Sprintf("The same limit would have admitted it %s later.", up(k.RetryAfterUS)))
	}
	for i := range e.Checks {
		switch o := &e.Checks[i]; {
		case o == k:
		case o.Denied:
			text := "Also refused by " + o.describe() + " " + o.full()
			if o.RetryAfterUS > 0 {
				text += fmt.Sprintf(" That limit would have admitted it %s later.", up(o.RetryAfterUS))
			}
			out = append(out, text)
		default:
			out = append(out, sentence(o.describe())+" "+sentence(o.rest())+".")
		}
	}
	if len(e.Checks) > 1 {
		out = append(out, "What is refused takes nothing from any limit.")
	}
	return out
}

// admitted is about a request that was forwarded.
func admitted(e *Explanation, k *Check) []string {
	var out []string
	switch {
	case k == nil:
		out = []string{"Admitted: no limit or budget applied to it."}
	case len(e.Checks) == 1:
		out = []string{"Admitted by " + k.describe() + " " + k.took()}
	default:
		out = []string{"Admitted. The tightest was " + k.describe() + " " + k.took()}
		for i := range e.Checks {
			if o := &e.Checks[i]; o != k {
				out = append(out, "Admitted by "+o.describe()+" "+o.took())
			}
		}
	}
	r := &e.Request
	switch {
	case r.Status == statusClientGone:
		out = append(out, "The client left before its answer was complete (499).")
	case r.ErrorCode != "":
		out = append(out, fmt.Sprintf("The client got %s (%d): %s.", name(r.ErrorCode), r.Status, reason(r.ErrorCode)))
	case r.Status >= 400:
		out = append(out, fmt.Sprintf("The upstream answered %d, which was passed on.", r.Status))
	}
	return out
}

// refusedOtherwise is about a request that no limit and no budget refused.
func refusedOtherwise(e *Explanation) []string {
	r := &e.Request
	if r.Status == statusClientGone {
		return []string{"The client left before the request was sent to the upstream (499)."}
	}
	why := reason(r.ErrorCode)
	if r.ErrorCode == "store_unavailable" && len(e.Checks) > 0 {
		why = "its limits had admitted it, but the proxy's event log took no new requests"
	}
	out := []string{fmt.Sprintf("Refused with %s (%d): %s.", name(r.ErrorCode), r.Status, why)}
	if len(e.Checks) > 0 {
		out = append(out, "No limit refused it; what it had taken from them was given back.")
	}
	return out
}

// reasons say what each error code means where no limit's numbers do.
var reasons = map[string]string{
	"invalid_api_key":      "the API key is missing or unknown",
	"api_key_expired":      "the API key has expired",
	"api_key_revoked":      "the API key was revoked",
	"route_not_allowed":    "the API key may not use this route",
	"model_not_allowed":    "the API key may not use this model",
	"insufficient_scope":   "the API key lacks the scope invoke",
	"route_not_found":      "the workspace has no such route",
	"invalid_request":      "the request is malformed, or takes more of a limit than that can ever have",
	"price_unknown":        "a hard budget applies and the model has no price",
	"cost_unbounded":       "a hard budget applies and the cost of this call has no bound",
	"body_too_large":       "the body is larger than the proxy takes",
	"rate_limit_exceeded":  "a rate limit was exceeded; which one is not recorded",
	"budget_exceeded":      "a budget was exceeded; which one is not recorded",
	"budget_contention":    "only requests that were still open stood in the way of a budget",
	"store_unavailable":    "it was decided without the store: Redis did not answer and a limit refuses then (on_store_failure closed), or the proxy's event log took no new requests",
	"upstream_unreachable": "the upstream could not be reached, or closed without an answer",
	"upstream_timeout":     "the upstream did not answer in time",
	"internal":             "an error of the proxy; its log has the cause under the id of the request",
}

func reason(code string) string {
	if r, ok := reasons[code]; ok {
		return r
	}
	return "no more is known"
}

// decider says who decided and by which clock.
func decider(checks []Check, k *Check) []string {
	var leased []string
	for i := range checks {
		if checks[i].DecidedBy == byLease {
			leased = append(leased, name(checks[i].ID))
		}
	}
	switch {
	case k.DecidedBy == byProxy:
		return []string{"Redis did not answer in time, so the proxy decided alone, by its own share of each limit and its own clock (on_store_failure open)."}
	case len(leased) > 0:
		return []string{"Decided in the proxy, from what it had leased from Redis before: " + strings.Join(leased, ", ") + "."}
	case k.DecidedBy == byRedis:
		return []string{clock(k.ClockOffsetUS)}
	}
	return nil
}

// clock compares the clocks; the offset is the proxy's minus Redis' in µs, and holds the way of the answer too.
func clock(offsetUS int64) string {
	const decides = ", by which limits are decided, "
	switch abs := max(offsetUS, -offsetUS); {
	case abs < 1000:
		return "Redis' clock" + decides + "and the proxy's were less than 1 ms apart."
	case offsetUS > 0:
		return "Redis' clock" + decides + "was " + near(abs) + " behind the proxy's."
	default:
		return "Redis' clock" + decides + "was " + near(abs) + " ahead of the proxy's."
	}
}
