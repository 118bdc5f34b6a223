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

//go:embed admit.lua
var admitSource string

//go:embed adjust.lua
var adjustSource string

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
	return Limit{kind: "b", params: [4]any{text(l.GetBurst()), text(scale.Unit), text(scale.Drain), "0"}}
}

// Take is what a request takes from one bucket of a limit.
type Take struct {
	Limit  *Limit
	Bucket string
	// Amount is in the limit's unit.
	Amount int64
}

// appendKeys appends the keys of a take.
func (t *Take) appendKeys(keys []string) []string {
	if t.Limit.sliced {
		return append(keys, t.Bucket, keyspace.Slotted(t.Bucket, 0), keyspace.Slotted(t.Bucket, 1))
	}
	return append(keys, t.Bucket)
}

// appendArgs appends the arguments of a take that was admitted at the instant (µs of Redis' clock).
func (t *Take) appendArgs(args []any, at any) []any {
	p := &t.Limit.params
	return append(args, t.Limit.kind, t.Amount, p[0], p[1], p[2], p[3], at)
}
