package ratelimit

import (
	"strconv"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
)

// setHeaders notes the headers that tell the client of its limits, on every answer from here on: all limits in the IETF draft's
// fields, and of each unit the one that binds in those of the dialect.
func setHeaders(c *call.Call, g *grant) {
	if len(g.rules) == 0 {
		return
	}
	h := make([]call.Header, 0, 8)
	var room [512]byte
	policy, state := room[:0:256], room[256:256]
	for i, k := range c.Checks {
		if i > 0 {
			policy, state = append(policy, ", "...), append(state, ", "...)
		}
		policy, state = append(policy, g.rules[i].rule.quota...), appendState(state, k)
	}
	h = append(h, call.Header{Name: "Ratelimit-Policy", Value: string(policy)}, call.Header{Name: "Ratelimit", Value: string(state)})
	for _, unit := range []string{limit.UnitRequests, limit.UnitTokens} {
		if k := binding(c.Checks, unit); k != nil {
			h = appendDialect(h, c.Dialect, unit, k, c.Start)
		}
	}
	c.LimitHeaders = h
}

// quota is the limit's item of RateLimit-Policy: the quota and its window in seconds.
func quota(l *rateguardv1.Limit) string {
	b := appendName(nil, l.GetId())
	b = strconv.AppendInt(append(b, ";q="...), l.GetLimit(), 10)
	b = strconv.AppendInt(append(b, ";w="...), seconds(l.GetWindowUs()), 10)
	if l.GetUnit() != limit.UnitRequests {
		b = append(append(append(b, `;qu="`...), l.GetUnit()...), '"')
	}
	return string(b)
}

// appendState appends an item of RateLimit: what remains, and in how many seconds it is whole again. For a denied request that
// is never more than what it has to wait.
func appendState(b []byte, k *rateguardv1.Check) []byte {
	b = strconv.AppendInt(append(appendName(b, k.GetId()), ";r="...), max(0, k.GetRemaining()), 10)
	t := k.GetResetAfterUs()
	if k.GetDenied() {
		t = k.GetRetryAfterUs()
	}
	return strconv.AppendInt(append(b, ";t="...), seconds(t), 10)
}

// appendName appends an id as a string of structured fields; ids of limits hold nothing that would have to be escaped.
func appendName(b []byte, id string) []byte {
	return append(append(append(b, '"'), id...), '"')
}

// binding returns the limit of the unit that a client meets first: one that denied, the longest first, else the one with least left.
func binding(checks []*rateguardv1.Check, unit string) *rateguardv1.Check {
	var best *rateguardv1.Check
	for _, k := range checks {
		if k.GetUnit() == unit && (best == nil || tighter(k, best)) {
			best = k
		}
	}
	return best
}

func tighter(a, b *rateguardv1.Check) bool {
	if a.GetRetryAfterUs() != b.GetRetryAfterUs() {
		return a.GetRetryAfterUs() > b.GetRetryAfterUs()
	}
	if a.GetRemaining() != b.GetRemaining() {
		return a.GetRemaining() < b.GetRemaining()
	}
	return a.GetResetAfterUs() > b.GetResetAfterUs()
}

// appendDialect appends the fields that SDKs of the dialect read: durations for OpenAI's and everybody else's, instants for Anthropic's.
func appendDialect(h []call.Header, d call.Dialect, unit string, k *rateguardv1.Check, now time.Time) []call.Header {
	most := strconv.FormatInt(k.GetLimit(), 10)
	remaining := strconv.FormatInt(max(0, k.GetRemaining()), 10)
	reset := time.Duration(k.GetResetAfterUs()) * time.Microsecond
	if d == call.Anthropic {
		prefix := "Anthropic-Ratelimit-Requests-"
		if unit == limit.UnitTokens {
			prefix = "Anthropic-Ratelimit-Tokens-"
		}
		at := now.Add(reset + time.Second - 1).UTC().Truncate(time.Second)
		return append(h, call.Header{Name: prefix + "Limit", Value: most}, call.Header{Name: prefix + "Remaining", Value: remaining},
			call.Header{Name: prefix + "Reset", Value: at.Format(time.RFC3339)})
	}
	suffix := "Requests"
	if unit == limit.UnitTokens {
		suffix = "Tokens"
	}
	reset = (reset + time.Millisecond - 1).Truncate(time.Millisecond)
	return append(h, call.Header{Name: "X-Ratelimit-Limit-" + suffix, Value: most}, call.Header{Name: "X-Ratelimit-Remaining-" + suffix, Value: remaining},
		call.Header{Name: "X-Ratelimit-Reset-" + suffix, Value: reset.String()})
}

// seconds rounds µs up.
func seconds(us int64) int64 { return (us + 999_999) / 1_000_000 }
