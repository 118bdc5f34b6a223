package ratelimit

import (
	"strconv"
	"strings"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
)

// setHeaders notes the headers that tell the client of its limits, on every answer from here on: all limits in the IETF draft's
// fields, and of each unit the one that binds in those of the dialect.
func setHeaders(c *call.Call) {
	h := make([]call.Header, 0, 8)
	var policy, state strings.Builder
	for i, k := range c.Checks {
		if i > 0 {
			policy.WriteString(", ")
			state.WriteString(", ")
		}
		writePolicy(&policy, k)
		writeState(&state, k)
	}
	h = append(h, call.Header{Name: "Ratelimit-Policy", Value: policy.String()}, call.Header{Name: "Ratelimit", Value: state.String()})
	for _, unit := range []string{limit.UnitRequests, limit.UnitTokens} {
		if k := binding(c.Checks, unit); k != nil {
			h = appendDialect(h, c.Dialect, unit, k, c.Start)
		}
	}
	c.LimitHeaders = h
}

// writePolicy writes an item of RateLimit-Policy: the quota and its window in seconds.
func writePolicy(b *strings.Builder, k *rateguardv1.Check) {
	writeName(b, k.GetId())
	b.WriteString(";q=")
	b.WriteString(strconv.FormatInt(k.GetLimit(), 10))
	b.WriteString(";w=")
	b.WriteString(strconv.FormatInt(seconds(k.GetWindowUs()), 10))
	if k.GetUnit() != limit.UnitRequests {
		b.WriteString(`;qu="`)
		b.WriteString(k.GetUnit())
		b.WriteByte('"')
	}
}

// writeState writes an item of RateLimit: what remains, and in how many seconds it is whole again. For a denied request that
// is never more than what it has to wait.
func writeState(b *strings.Builder, k *rateguardv1.Check) {
	writeName(b, k.GetId())
	b.WriteString(";r=")
	b.WriteString(strconv.FormatInt(max(0, k.GetRemaining()), 10))
	b.WriteString(";t=")
	t := k.GetResetAfterUs()
	if k.GetDenied() {
		t = k.GetRetryAfterUs()
	}
	b.WriteString(strconv.FormatInt(seconds(t), 10))
}

// writeName writes an id as a string of structured fields; ids of limits hold nothing that would have to be escaped.
func writeName(b *strings.Builder, id string) {
	b.WriteByte('"')
	b.WriteString(id)
	b.WriteByte('"')
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
