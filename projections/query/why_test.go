package query_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/projections/query"
	"github.com/rateguard/rateguard/schemas/money"
)

var at = time.Date(2026, 11, 17, 10, 0, 12, 0, time.UTC)

// perMinute is a limit of 60 requests per minute of one key, as it stands after a decision of Redis.
func perMinute(change func(*query.Check)) query.Check {
	k := query.Check{
		ID: "lim_x", Scope: "key", Kind: "limit", Limit: 60, Used: 20, Remaining: 40, Cost: 1, DecidedAt: at, Unit: "requests",
		Algorithm: "token_bucket", WindowUS: 60e6, Burst: 60, Subject: "key_y", DecidedBy: "redis", ClockOffsetUS: 400,
	}
	if change != nil {
		change(&k)
	}
	return k
}

// month is a hard budget of $10 a month of which a request needs $1.
func month(change func(*query.Check)) query.Check {
	k := query.Check{
		ID: "b1", Scope: "workspace", Kind: "budget", Enforcement: "hard", Limit: 10e9, Cost: 1e9, DecidedAt: at, DecidedBy: "redis", ClockOffsetUS: 400,
		PeriodStart: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), ResetAfterUS: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC).Sub(at).Microseconds(),
	}
	change(&k)
	return k
}

func refusing(change func(*query.Check)) query.Check {
	return perMinute(func(k *query.Check) {
		k.Used, k.Remaining, k.Denied, k.RetryAfterUS = 60, 0, true, 749_900
		if change != nil {
			change(k)
		}
	})
}

func forwarded(checks ...query.Check) query.Explanation {
	return query.Explanation{
		Request: query.Request{KeyID: "key_y", Method: "POST", Status: 200, Decision: "forwarded", Requests: 1}, Checks: checks, PolicyVersion: 7,
	}
}

func denied(status uint16, code string, checks ...query.Check) query.Explanation {
	e := forwarded(checks...)
	e.Request.Status, e.Request.Decision, e.Request.ErrorCode = status, "denied", code
	return e
}

// leased is the row of a lease that was charged, with the costs of its revisions.
func leased(costs ...money.Nano) query.Explanation {
	e := forwarded()
	e.Request.Method, e.Request.Decision = "", ""
	r := query.Reservation{ID: "l/lease"}
	for i := range costs {
		r.Outcomes = append(r.Outcomes, query.Outcome{Revision: i + 1, Kind: "expired", CostUSD: &costs[i]})
	}
	e.Reservations = []query.Reservation{r}
	return e
}

const (
	leaseText = "This is no request but a lease: what a proxy had reserved of budgets for requests to come. The proxy was lost, and what it may have spent of the lease without telling was charged."

	together = "Redis' clock, by which limits are decided, and the proxy's were less than 1 ms apart."
	version  = "Decided with policy version 7."
	limitX   = "limit lim_x: 60 requests per minute for key key_y (key scope)."
)

func TestWhy(t *testing.T) {
	broad := perMinute(func(k *query.Check) {
		k.ID, k.Scope, k.Subject, k.Limit, k.Burst, k.Used, k.Remaining, k.WindowUS, k.Algorithm = "lim_w", "workspace", "", 100, 0, 70, 30, 90e6, "sliding_window"
	})
	tests := []struct {
		name string
		e    query.Explanation
		want []string
	}{
		{"refused by one limit", denied(429, "rate_limit_exceeded", refusing(nil)), []string{
			"Refused by " + limitX + " 60 of 60 were used when the request came; it asked for 1.",
			"The same limit would have admitted it 0.8 s later.",
			together, version,
		}},
		{"refused by the one that takes longest", denied(429, "rate_limit_exceeded", refusing(func(k *query.Check) { k.ID, k.RetryAfterUS = "lim_y", 12_300 }), broad, refusing(nil)), []string{
			"Refused by " + limitX + " 60 of 60 were used when the request came; it asked for 1.",
			"The same limit would have admitted it 0.8 s later.",
			"Also refused by limit lim_y: 60 requests per minute for key key_y (key scope). 60 of 60 were used when the request came; it asked for 1. That limit would have admitted it 13 ms later.",
			"Limit lim_w: 100 requests per 90 s for the whole workspace (workspace scope). 30 of 100 remained.",
			"What is refused takes nothing from any limit.",
			together, version,
		}},
		{"refused by a small burst", denied(429, "rate_limit_exceeded", refusing(func(k *query.Check) { k.Burst, k.Used = 5, 5 })), []string{
			"Refused by " + limitX + " 5 of the 5 that it holds at once were used when the request came; it asked for 1.",
			"The same limit would have admitted it 0.8 s later.",
			together, version,
		}},
		{"refused by a queue", denied(429, "rate_limit_exceeded", refusing(func(k *query.Check) { k.Algorithm, k.Used = "leaky_bucket", 3 })), []string{
			"Refused by " + limitX + " It lets one out after the other, 3 waited when the request came, and no more may; it asked for 1.",
			"The same limit would have admitted it 0.8 s later.",
			together, version,
		}},
		{"refused by what a limit matches", denied(429, "rate_limit_exceeded", refusing(func(k *query.Check) { k.Scope, k.Subject = "model", "" })), []string{
			"Refused by limit lim_x: 60 requests per minute for all that it matches together (model scope). 60 of 60 were used when the request came; it asked for 1.",
			"The same limit would have admitted it 0.8 s later.",
			together, version,
		}},
		{"refused without the store", denied(429, "rate_limit_exceeded", refusing(func(k *query.Check) { k.DecidedBy, k.Used, k.ClockOffsetUS = "local", 15, 0 })), []string{
			"Refused by " + limitX + " Of this proxy's share of it 15 were used and 0 remained when the request came; it asked for 1.",
			"The same limit would have admitted it 0.8 s later.",
			"Redis did not answer in time, so the proxy decided alone, by its own share of each limit and its own clock (on_store_failure open).",
			version,
		}},
		{"refused by a budget that is spent", denied(402, "budget_exceeded", month(func(k *query.Check) { k.Used, k.Reserved, k.Denied = 9_800_000_001, 100, true }), refusing(nil)), []string{
			"Refused by hard budget b1: $10 for the whole workspace (workspace scope). $9.800000001 of it were spent and $0.0000001 reserved when the request came; it needed up to $1. " +
				"It is reset at 2026-12-01 00:00:00 UTC.",
			"Also refused by " + limitX + " 60 of 60 were used when the request came; it asked for 1. That limit would have admitted it 0.8 s later.",
			"What is refused takes nothing from any limit.",
			together, version,
		}},
		{"refused by a budget that waits for open requests, behind a limit", denied(429, "budget_contention", month(func(k *query.Check) { k.Used, k.Reserved, k.Denied = 2e9, 75e8, true }), refusing(nil)), []string{
			"Refused by " + limitX + " 60 of 60 were used when the request came; it asked for 1.",
			"The same limit would have admitted it 0.8 s later.",
			"Also refused by hard budget b1: $10 for the whole workspace (workspace scope). $2 of it were spent and $7.5 reserved when the request came; it needed up to $1. " +
				"Only what was reserved stood in its way: what open requests and leases do not use comes back when they end. It is reset at 2026-12-01 00:00:00 UTC.",
			"What is refused takes nothing from any limit.",
			together, version,
		}},
		{"refused by a budget without periods", denied(402, "budget_exceeded", month(func(k *query.Check) {
			k.Used, k.Denied, k.ResetAfterUS, k.PeriodStart, k.Scope, k.Subject = 10e9, true, 0, time.Time{}, "key", "key_y"
		})), []string{
			"Refused by hard budget b1: $10 for key key_y (key scope). $10 of it were spent and $0 reserved when the request came; it needed up to $1. It has no periods and is never reset.",
			together, version,
		}},
		{"admitted by a budget", forwarded(month(func(k *query.Check) { k.Used, k.Reserved, k.Remaining = 2e9, 15e8, 65e8 })), []string{
			"Admitted by hard budget b1: $10 for the whole workspace (workspace scope). It reserved up to $1; with that $2 of it were spent and $1.5 reserved, and $6.5 remained. " +
				"It is reset at 2026-12-01 00:00:00 UTC.",
			together, version,
		}},
		{"admitted by a soft budget above its limit", forwarded(month(func(k *query.Check) { k.Used, k.Reserved, k.Enforcement = 95e8, 15e8, "soft" })), []string{
			"Admitted by soft budget b1: $10 for the whole workspace (workspace scope). It reserved up to $1; with that $9.5 of it were spent and $1.5 reserved, " +
				"$1 above its limit, which a soft budget counts and does not refuse. It is reset at 2026-12-01 00:00:00 UTC.",
			together, version,
		}},
		{"refused by a limit, beside a budget", denied(429, "rate_limit_exceeded", refusing(nil), month(func(k *query.Check) { k.Used, k.Remaining = 4e9, 6e9 })), []string{
			"Refused by " + limitX + " 60 of 60 were used when the request came; it asked for 1.",
			"The same limit would have admitted it 0.8 s later.",
			"Hard budget b1: $10 for the whole workspace (workspace scope). $4 of it were spent and $0 reserved, and $6 remained.",
			"What is refused takes nothing from any limit.",
			together, version,
		}},
		{"admitted by one limit", forwarded(perMinute(nil)), []string{
			"Admitted by " + limitX + " It took 1, and 40 of 60 remained.", together, version,
		}},
		{"admitted by several, the tightest first", forwarded(perMinute(nil), broad), []string{
			"Admitted. The tightest was limit lim_w: 100 requests per 90 s for the whole workspace (workspace scope). It took 1, and 30 of 100 remained.",
			"Admitted by " + limitX + " It took 1, and 40 of 60 remained.",
			together, version,
		}},
		{"admitted after a wait", forwarded(perMinute(func(k *query.Check) { k.Algorithm, k.Remaining, k.DelayUS = "leaky_bucket", 2, 1_200_001 })), []string{
			"Admitted by " + limitX + " It took 1, and 2 more could wait. It was held for 1.3 s until its turn.", together, version,
		}},
		{"admitted without the store", forwarded(perMinute(func(k *query.Check) { k.DecidedBy, k.Remaining = "local", 4 })), []string{
			"Admitted by " + limitX + " It took 1, and of this proxy's share of it 4 remained.",
			"Redis did not answer in time, so the proxy decided alone, by its own share of each limit and its own clock (on_store_failure open).",
			version,
		}},
		{"admitted from a lease", forwarded(perMinute(func(k *query.Check) { k.DecidedBy = "lease" })), []string{
			"Admitted by " + limitX + " It took 1, and 40 of 60 remained.",
			"Decided in the proxy, from what it had leased from Redis before: lim_x.", version,
		}},
		{"admitted from a lease of a budget", forwarded(month(func(k *query.Check) { k.DecidedBy, k.Used, k.Reserved, k.Remaining = "lease", 2e9, 15e8, 65e8 })), []string{
			"Admitted by hard budget b1: $10 for the whole workspace (workspace scope). It took up to $1 from a lease of it; when Redis granted that, the lease included, " +
				"$2 of it were spent and $1.5 reserved, and $6.5 remained. It is reset at 2026-12-01 00:00:00 UTC.",
			"Decided in the proxy, from what it had leased from Redis before: b1.", version,
		}},
		{"a lease", leased(5e9), []string{leaseText, version}},
		{"a lease of which some came to light", leased(5e9, 3e9, 0), []string{leaseText, "Later some of it came to light: of $5 that were charged at first, $0 still are.", version}},
		{"admitted without limits", forwarded(), []string{"Admitted: no limit or budget applied to it.", version}},
		{"clock ahead", forwarded(perMinute(func(k *query.Check) { k.ClockOffsetUS = -12_300 })), []string{
			"Admitted by " + limitX + " It took 1, and 40 of 60 remained.",
			"Redis' clock, by which limits are decided, was 12 ms ahead of the proxy's.", version,
		}},
		{"clock behind", forwarded(perMinute(func(k *query.Check) { k.ClockOffsetUS = 150_000_000 })), []string{
			"Admitted by " + limitX + " It took 1, and 40 of 60 remained.",
			"Redis' clock, by which limits are decided, was 2m30s behind the proxy's.", version,
		}},
		{"upstream away", with(forwarded(), func(r *query.Request) { r.Status, r.ErrorCode = 502, "upstream_unreachable" }), []string{
			"Admitted: no limit or budget applied to it.",
			"The client got upstream_unreachable (502): the upstream could not be reached, or closed without an answer.", version,
		}},
		{"upstream refuses", with(forwarded(), func(r *query.Request) { r.Status = 429 }), []string{
			"Admitted: no limit or budget applied to it.", "The upstream answered 429, which was passed on.", version,
		}},
		{"client left", with(forwarded(), func(r *query.Request) { r.Status, r.ErrorCode = 499, "upstream_unreachable" }), []string{
			"Admitted: no limit or budget applied to it.", "The client left before its answer was complete (499).", version,
		}},
		{"client left early", denied(499, "upstream_unreachable"), []string{"The client left before the request was sent to the upstream (499).", version}},
		{"no route", denied(404, "route_not_found"), []string{"Refused with route_not_found (404): the workspace has no such route.", version}},
		{"closed without the store", denied(503, "store_unavailable"), []string{
			"Refused with store_unavailable (503): it was decided without the store: Redis did not answer and a limit refuses then (on_store_failure closed), or the proxy's event log took no new requests.",
			version,
		}},
		{"full log", denied(503, "store_unavailable", perMinute(nil)), []string{
			"Refused with store_unavailable (503): its limits had admitted it, but the proxy's event log took no new requests.",
			"No limit refused it; what it had taken from them was given back.",
			together, version,
		}},
		{"unknown code", denied(418, "a code\n"), []string{`Refused with "a code\n" (418): no more is known.`, version}},
		{"proxy died", with(forwarded(), func(r *query.Request) { r.Decision, r.Status = "", 0 }), []string{
			"How it was decided and what the client got is not known: the proxy died before it could record it.", version,
		}},
		{"one counted", with(denied(503, "store_unavailable"), func(r *query.Request) { r.Method = "" }), []string{
			"This row counts 1 request of key key_y that was refused with store_unavailable (503): in a flood of refusals not each gets a row, and what the limit showed is not kept.",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, query.Why(&test.e)); diff != "" {
				t.Errorf("why (-want +got):\n%s", diff)
			}
		})
	}
}

func with(e query.Explanation, change func(*query.Request)) query.Explanation {
	change(&e.Request)
	return e
}

func TestWhySaysWhoUsedTheLimit(t *testing.T) {
	k := refusing(func(k *query.Check) { k.Algorithm, k.Burst = "fixed_window", 0 })
	use := func(requests, units, denied int64) query.Use {
		return query.Use{Requests: requests, Units: units, Denied: denied}
	}
	tests := []struct {
		name string
		by   query.UsedBy
		want []string
	}{
		{"nobody in the log", query.UsedBy{Unit: "requests", By: "key", From: at.Add(-12 * time.Second), To: at}, []string{
			"Since its window began 12 s before, it admitted no other request that stands in the log; those that still run do not yet.",
		}},
		{"only refusals", query.UsedBy{Unit: "requests", By: "key", From: at.Add(-12 * time.Second), To: at, Use: use(0, 0, 9), Data: []query.User{{Key: "key_z", Use: use(0, 0, 9)}}}, []string{
			"Since its window began 12 s before, it admitted no other request that stands in the log; those that still run do not yet.",
			"In that time it refused 9 more requests: 9 of key key_z.",
		}},
		{"too much to read", query.UsedBy{Incomplete: true}, []string{
			"Who else used it is not known: the log of its window is too large to be read here.",
		}},
		{"keys", query.UsedBy{
			Unit: "requests", By: "key", From: at.Add(-time.Minute), To: at, Use: use(58, 58, 0), Data: []query.User{{Key: "key_y", Use: use(55, 55, 0)}, {Key: "key_z", Use: use(2, 2, 0)}},
			Others: &query.Others{Users: 1, Use: use(1, 1, 0)}, Pattern: "burst", Peak: &query.Peak{Requests: 48, Units: 48, From: at.Add(-2 * time.Second), To: at},
		}, []string{
			"In the 60 s before, it admitted 58 requests: 55 of this request's key key_y, 2 of key key_z, 1 of 1 other key.",
			"Burst: 48 of 58 requests came within 2 s.",
		}},
		{"routes and models of a steady key", query.UsedBy{
			Unit: "tokens", By: "route_model", From: at.Add(-time.Minute), To: at, Use: use(9, 900, 0),
			Data:    []query.User{{Route: "openai", Model: "gpt-4o", Use: use(5, 600, 0)}, {Route: "http", Use: use(1, 200, 0)}},
			Others:  &query.Others{Users: 3, Use: use(3, 100, 0)},
			Pattern: "steady", Peak: &query.Peak{Requests: 2, Units: 200, From: at.Add(-2 * time.Second), To: at},
		}, []string{
			"In the 60 s before, it admitted 900 tokens in 9 requests of this key, by route and model: 600 to openai gpt-4o, 200 to http, 100 of 3 other kinds.",
			"Steady: at most 200 of 900 tokens came within 6 s.",
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			e := denied(429, "rate_limit_exceeded", k)
			e.UsedBy = &test.by
			want := append([]string{
				"Refused by " + limitX + " 60 of 60 were used when the request came; it asked for 1.",
				"The same limit would have admitted it 0.8 s later.",
			}, append(test.want, together, version)...)
			if diff := cmp.Diff(want, query.Why(&e)); diff != "" {
				t.Errorf("why (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOfAWindowLongerThanADayTheLastDayIsShown(t *testing.T) {
	e := forwarded(perMinute(func(k *query.Check) { k.WindowUS = (30 * 24 * time.Hour).Microseconds() }))
	e.UsedBy = &query.UsedBy{Unit: "requests", By: "key", From: at.Add(-24 * time.Hour), To: at, Use: query.Use{Requests: 1, Units: 1}, Data: []query.User{{Key: "a", Use: query.Use{Requests: 1, Units: 1}}}}
	got := strings.Join(query.Why(&e), "\n")
	const want = "60 requests per 720 h for key key_y (key scope). It took 1, and 40 of 60 remained.\nIn the last 24 h of its window, it admitted 1 request: 1 of key a.\n"
	if !strings.Contains(got, want) {
		t.Errorf("got %s, want %s in it", got, want)
	}
}
