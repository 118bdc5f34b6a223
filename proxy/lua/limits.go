package lua

import (
	_ "embed"
	"strconv"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

//go:embed buckets.lua
var bucketsSource string

//go:embed budgets.lua
var budgetsSource string

//go:embed admit.lua
var admitSource string

//go:embed adjust.lua
var adjustSource string

// lows is how many lows a bucket keeps that units are given back to as a rule: neighbours are then 1.5 times apart between a request and a
// bucket of a hundred, so that at worst a third of what is given back does not count at once.
const lows = "12"

// Limit is one limit as the scripts count it, prepared once: only the bucket and the amount differ from request to request.
type Limit struct {
	kind   string
	sliced bool
	params [4]any
}

// NewLimit prepares a limit that limit.Check has nothing against; the scale is that of a token or leaky bucket.
func NewLimit(l *rateguardv1.Limit, scale limit.Scale) Limit {
	text := func(n int64) any { return strconv.FormatInt(n, 10) }
	switch l.GetAlgorithm() {
	case limit.LeakyBucket:
		return Limit{kind: "l", params: [4]any{text(l.GetBurst()), text(scale.Unit), text(scale.Drain), text(l.GetMaxDelayUs())}}
	case limit.FixedWindow:
		return Limit{kind: "f", params: [4]any{text(l.GetLimit()), text(l.GetWindowUs()), "0", "0"}}
	case limit.SlidingWindow:
		slot := text(limit.Slot(l.GetLimit(), l.GetWindowUs()))
		return Limit{kind: "s", sliced: true, params: [4]any{text(l.GetLimit()), text(l.GetWindowUs()), slot, "0"}}
	}
	keep := "0"
	if l.GetUnit() == limit.UnitTokens || l.GetMode() == limit.ModeLeased {
		keep = lows
	}
	return Limit{kind: "b", params: [4]any{text(l.GetBurst()), text(scale.Unit), text(scale.Drain), keep}}
}

// Take is what a request takes from one bucket of a limit.
type Take struct {
	Limit  *Limit
	Bucket string
	// Amount is in the limit's unit.
	Amount int64
	// Held says that the amount was taken from what the caller holds of the bucket: the store is not asked.
	Held bool
	// Ask asks for units to hold, of a token bucket; nil: for none.
	Ask *Ask
}

// Ask asks for units of a bucket that its holder may spend later without the store, until it has to ask again. What it holds and what it
// gets is taken from the bucket at once. Units are the limit's.
type Ask struct {
	// Holder is who asks: the producer's id.
	Holder string
	// Held is what it holds unspent, at most; Want what it would like on top, Least the smallest number that helps it, at least 1. Want 0 asks for nothing.
	Held, Want, Least int64
	// Most is what all holders together may hold.
	Most int64
	// TTL is how long it holds them, in ms.
	TTL int64
	// Back is given back, and was taken at BackAtUS or later, by Redis' clock.
	Back, BackAtUS int64
}

// Lent answers an Ask.
type Lent struct {
	// Units came on top; Counted is false where what was held counts no more, as the store has forgotten it or its time was over.
	Units   int64
	Counted bool
}

// appendKeys appends the keys of a take.
func (t *Take) appendKeys(keys []string) []string {
	switch {
	case t.Held:
		return keys
	case t.Limit.sliced:
		return append(keys, t.Bucket, keyspace.Slotted(t.Bucket, 0), keyspace.Slotted(t.Bucket, 1))
	case t.Ask != nil:
		return append(keys, t.Bucket, keyspace.Holders(t.Bucket))
	}
	return append(keys, t.Bucket)
}

// appendArgs appends the arguments of a take that was admitted at the instant (µs of Redis' clock).
func (t *Take) appendArgs(args []any, at any) []any {
	p, ask := &t.Limit.params, t.Ask
	switch {
	case t.Held:
		return args
	case ask == nil:
		return append(args, t.Limit.kind, t.Amount, p[0], p[1], p[2], p[3], at)
	}
	return append(args, "p", t.Amount, p[0], p[1], p[2], p[3], at,
		ask.Holder, ask.Held, ask.Want, ask.Least, ask.Most, ask.TTL, ask.Back, ask.BackAtUS)
}
