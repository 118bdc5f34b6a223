package budget

import (
	"fmt"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/money"
)

// contentionRetry is what a client is told to wait for requests that are still open.
const contentionRetry = 250 * time.Millisecond

// Refusal says why a budget denies the call: budget_exceeded where what is posted stands in the way, and budget_contention where only open
// reservations do. Limited says that a limit denies it too, which is told instead of contention, as its wait is longer. Nil: no budget is the reason.
func (b *Budgets) Refusal(c *call.Call, h *Held, d *lua.Decision, limited bool) error {
	at := -1
	for i := range d.Held {
		if d.Held[i].Stands == lua.StandsPosted {
			b.metrics.exceeded.Inc()
			return b.exceeded(c, h, d, i)
		}
		if at < 0 && d.Held[i].Stands == lua.StandsReserved {
			at = i
		}
	}
	if at < 0 || limited {
		return nil
	}
	b.metrics.contended.Inc()
	return &call.Error{Code: call.BudgetContention, RetryAfter: contentionRetry, Message: describe(c, h, d, at) +
		" Requests that are still open hold the rest; it may become free when they end."}
}

func (b *Budgets) exceeded(c *call.Call, h *Held, d *lua.Decision, i int) error {
	e := &call.Error{Code: call.BudgetExceeded, Message: describe(c, h, d, i), Status: c.Workspace.BudgetExceededStatus}
	if end, ok := h.rules[i].end(d.Held[i].StartUS); ok {
		e.Message += " It is reset at " + end.Format(time.RFC3339) + "."
	}
	return e
}

// describe names the budget, its limit, what is posted and reserved, and what the call needs.
func describe(c *call.Call, h *Held, d *lua.Decision, i int) string {
	p, whose := h.rules[i].policy, ""
	if s := h.subjects[i]; s != "" && len(s) <= 100 {
		whose = " " + s
	}
	per := "in total"
	if p.GetPeriod() != total {
		per = "per " + p.GetPeriod()
	}
	return fmt.Sprintf("Budget %q (%s%s) of %s USD %s has no room: %s USD are posted, %s USD reserved, and this request needs up to %s USD.",
		p.GetId(), p.GetScope(), whose, money.Nano(p.GetLimitNanoUsd()), per,
		money.Nano(d.Held[i].PostedNano), money.Nano(d.Held[i].ReservedNano), money.Nano(c.Holds[i].GetAmountNanoUsd()))
}

// unbounded refuses what a hard budget cannot reserve.
func unbounded(c *call.Call) error {
	if c.Quote.Price == nil && !c.Asked.Unbounded && c.Asked.Model != "" && c.Route.Dialect != call.HTTP {
		return &call.Error{Code: call.PriceUnknown, Param: "model", Message: fmt.Sprintf("A hard budget applies and the model %q has no price.", short(c.Asked.Model))}
	}
	if by := c.Asked.UnboundedBy; by != "" {
		return &call.Error{Code: call.CostUnbounded, Param: by, Message: fmt.Sprintf("A hard budget applies and the cost of this call has no bound because of %q.", by)}
	}
	return call.Fail(call.CostUnbounded, nil)
}

func short(s string) string {
	if len(s) > 100 {
		return s[:100]
	}
	return s
}
