// Package limit says what a rate limit means: the defaults and the checks of its fields, and its numbers as the
// integers that the admission script counts with. Control refuses with it and the proxy compiles with it, so that
// no limit is accepted that cannot be kept.
package limit

import (
	"fmt"
	"math/bits"
	"slices"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Scopes, units, algorithms, modes and answers to a failed store, as the admin API names them.
const (
	ScopeWorkspace = "workspace"
	ScopeKey       = "key"
	ScopeRoute     = "route"
	ScopeModel     = "model"
	ScopeEndpoint  = "endpoint"

	UnitRequests = "requests"
	UnitTokens   = "tokens"

	TokenBucket   = "token_bucket"
	SlidingWindow = "sliding_window"
	FixedWindow   = "fixed_window"
	LeakyBucket   = "leaky_bucket"

	ModeStrict = "strict"
	ModeLeased = "leased"

	FailOpen   = "open"
	FailClosed = "closed"
)

// Bounds of a limit's fields.
const (
	// MaxAmount is the largest limit and burst, in units.
	MaxAmount = 1_000_000_000_000
	// MinWindow and MaxWindow bound the window.
	MinWindow = 10 * time.Millisecond
	MaxWindow = 400 * 24 * time.Hour
	// DefaultMaxDelay and MaxMaxDelay are how long a leaky bucket may hold a request.
	DefaultMaxDelay = time.Second
	MaxMaxDelay     = time.Minute
	// MaxWeight is the largest weight of a model.
	MaxWeight = 1_000_000
	// DefaultLeasePercent and MaxLeasePercent are how much of the burst proxies may hold unspent.
	DefaultLeasePercent = 5
	MaxLeasePercent     = 50
)

// Problem is one thing that is wrong with a limit.
type Problem struct {
	// Field is the JSON name of the field at fault.
	Field   string
	Message string
}

// WithDefaults returns the limit with every field filled that may be left out.
func WithDefaults(l *rateguardv1.Limit) *rateguardv1.Limit {
	out := &rateguardv1.Limit{
		Id: l.GetId(), Scope: l.GetScope(), Match: l.GetMatch(), Unit: l.GetUnit(), Algorithm: l.GetAlgorithm(),
		Limit: l.GetLimit(), WindowUs: l.GetWindowUs(), Burst: l.GetBurst(), Mode: l.GetMode(),
		OnStoreFailure: l.GetOnStoreFailure(), MaxDelayUs: l.GetMaxDelayUs(), LeasePercent: l.GetLeasePercent(),
	}
	text := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	text(&out.Scope, ScopeWorkspace)
	text(&out.Unit, UnitRequests)
	text(&out.Algorithm, TokenBucket)
	text(&out.Mode, ModeStrict)
	text(&out.OnStoreFailure, FailOpen)
	if out.Burst == 0 && hasBurst(out.GetAlgorithm()) {
		out.Burst = out.GetLimit()
	}
	if out.MaxDelayUs == 0 && out.GetAlgorithm() == LeakyBucket {
		out.MaxDelayUs = DefaultMaxDelay.Microseconds()
	}
	if out.LeasePercent == 0 && out.GetMode() == ModeLeased {
		out.LeasePercent = DefaultLeasePercent
	}
	return out
}

func hasBurst(algorithm string) bool { return algorithm == TokenBucket || algorithm == LeakyBucket }

// Check returns everything that is wrong with a limit whose defaults are filled in.
func Check(l *rateguardv1.Limit) []Problem {
	var out []Problem
	bad := func(field, format string, args ...any) {
		out = append(out, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	oneOf := func(field, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			bad(field, "%q is not one of %q", v, allowed)
		}
	}
	oneOf("scope", l.GetScope(), ScopeWorkspace, ScopeKey, ScopeRoute, ScopeModel, ScopeEndpoint)
	oneOf("unit", l.GetUnit(), UnitRequests, UnitTokens)
	oneOf("algorithm", l.GetAlgorithm(), TokenBucket, SlidingWindow, FixedWindow, LeakyBucket)
	oneOf("mode", l.GetMode(), ModeStrict, ModeLeased)
	oneOf("on_store_failure", l.GetOnStoreFailure(), FailOpen, FailClosed)
	if l.GetLimit() < 1 || l.GetLimit() > MaxAmount {
		bad("limit", "%d is not between 1 and %d", l.GetLimit(), int64(MaxAmount))
	}
	if w := time.Duration(l.GetWindowUs()) * time.Microsecond; l.GetWindowUs() > MaxWindow.Microseconds() || w < MinWindow {
		bad("window", "is not between %s and %s", MinWindow, MaxWindow)
	}
	out = append(out, checkBucket(l)...)
	if l.GetAlgorithm() == LeakyBucket && l.GetUnit() == UnitTokens {
		bad("unit", "a leaky bucket spaces requests, it cannot count tokens")
	}
	switch n := l.GetLeasePercent(); {
	case l.GetMode() == ModeLeased && l.GetAlgorithm() != TokenBucket:
		bad("mode", "only a token bucket can be leased")
	case l.GetMode() == ModeLeased && (n < 1 || n > MaxLeasePercent):
		bad("lease_percent", "%d is not between 1 and %d", n, MaxLeasePercent)
	case l.GetMode() != ModeLeased && n != 0:
		bad("lease_percent", "only a leased limit has one")
	}
	if len(out) == 0 && hasBurst(l.GetAlgorithm()) {
		if _, err := NewScale(l.GetLimit(), l.GetWindowUs(), l.GetBurst()); err != nil {
			bad("burst", "%s", err)
		}
	}
	return out
}

// checkBucket returns what is wrong with the fields that only some algorithms have.
func checkBucket(l *rateguardv1.Limit) []Problem {
	var out []Problem
	if hasBurst(l.GetAlgorithm()) {
		if l.GetBurst() < 1 || l.GetBurst() > MaxAmount {
			out = append(out, Problem{"burst", fmt.Sprintf("%d is not between 1 and %d", l.GetBurst(), int64(MaxAmount))})
		}
	} else if l.GetBurst() != 0 {
		out = append(out, Problem{"burst", "only a token bucket and a leaky bucket have one"})
	}
	switch {
	case l.GetAlgorithm() != LeakyBucket && l.GetMaxDelayUs() != 0:
		out = append(out, Problem{"max_delay", "only a leaky bucket delays"})
	case l.GetAlgorithm() == LeakyBucket && (l.GetMaxDelayUs() < 0 || l.GetMaxDelayUs() > MaxMaxDelay.Microseconds()):
		out = append(out, Problem{"max_delay", "is not between 0s and " + MaxMaxDelay.String()})
	}
	return out
}

// maxExact bounds what the script multiplies and compares. Its numbers are doubles, exact to 2^53; twice this is still exact.
const maxExact = 1 << 52

// Scale says how a bucket is counted in integers: a unit weighs Unit, and Drain leaks out each microsecond. Where the
// ratio is exact in 52 bits, Unit/Drain is window/limit; elsewhere Drain is rounded down, so that a bucket
// may be slower by a thousandth and never faster.
type Scale struct {
	Unit, Drain int64
}

// NewScale returns the scale of limit units in window µs with room for burst units. It fails where the burst is so much
// larger than the rate that no scale is within a thousandth.
func NewScale(limit, windowUS, burst int64) (Scale, error) {
	g := gcd(limit, windowUS)
	unit, drain := windowUS/g, limit/g
	room := max(burst, 1)
	if hi, lo := bits.Mul64(uint64(unit), uint64(room)); hi == 0 && lo <= maxExact && drain <= maxExact { //nolint:gosec // both are positive
		return Scale{Unit: unit, Drain: drain}, nil
	}
	unit = maxExact / room
	hi, lo := bits.Mul64(uint64(limit), uint64(unit)) //nolint:gosec // both are positive
	if hi >= uint64(windowUS) {                       //nolint:gosec // positive
		return Scale{}, fmt.Errorf("the rate %d in %d µs is too fast for a burst of %d", limit, windowUS, burst)
	}
	q, _ := bits.Div64(hi, lo, uint64(windowUS)) //nolint:gosec // positive
	if q < 1000 || q > maxExact {
		return Scale{}, fmt.Errorf("a burst of %d is too large for the rate of %d in %s", burst, limit, time.Duration(windowUS)*time.Microsecond)
	}
	return Scale{Unit: unit, Drain: int64(q)}, nil
}

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// ExactEntries is how many entries the log of a sliding window holds. A limit that can need more counts in slots of a
// Slots-th of its window: then what was used comes back up to one slot late, and never early.
const (
	ExactEntries = 1000
	Slots        = 256
)

// Slot returns the width of a sliding window's slots in µs: 1 where the log is exact.
func Slot(limit, windowUS int64) int64 {
	if limit <= ExactEntries {
		return 1
	}
	return (windowUS + Slots - 1) / Slots
}
