package budget

import (
	"math"
	"sort"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/money"
)

// leastFit is the smallest maximum of output tokens that is worth sending: OpenAI's Responses take no smaller one.
const leastFit = 16

// Fit lowers the call's maximum of output tokens to what the hard budgets that denied it have room for, where the workspace wants that, and
// reports whether it did: the request is then to be decided anew.
func (b *Budgets) Fit(c *call.Call, h *Held, d *lua.Decision) bool {
	if !c.Workspace.Document.GetSettings().GetFitMaxOutputTokens() || c.Quote.Price == nil || !c.Asked.TakesCap() {
		return false
	}
	denied, room := false, int64(math.MaxInt64)
	for i, r := range h.rules {
		if !r.hard {
			continue
		}
		denied = denied || d.Held[i].Stands != lua.StandsNothing
		room = min(room, r.policy.GetLimitNanoUsd()-d.Held[i].PostedNano-d.Held[i].ReservedNano)
	}
	if !denied || room <= 0 {
		return false
	}
	most := c.Asked.Declared.MaxOutputTokens
	if most == 0 {
		most = c.Quote.Price.ContextWindow()
	}
	declared := c.Asked.Declared
	fits := func(n int64) (money.Nano, bool) {
		declared.MaxOutputTokens = n
		bound, err := c.Quote.Price.Bound(declared)
		return bound, err == nil && bound <= money.Nano(room)
	}
	// The first that does not fit; the bound never falls while the maximum grows.
	n := int64(sort.Search(int(min(most, math.MaxInt32)), func(i int) bool { _, ok := fits(int64(i) + 1); return !ok }))
	bound, ok := fits(n)
	if n < max(leastFit, c.Asked.LeastOutput) || n >= most || !ok {
		return false
	}
	c.Asked.Declared.MaxOutputTokens, c.Asked.Cap = n, n
	c.Quote.Bound = bound
	if c.Quote.HasUnknown {
		c.Quote.Unknown = min(c.Quote.Unknown, bound)
	}
	b.metrics.fitted.Inc()
	return true
}
