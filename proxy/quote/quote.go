// Package quote pins the price of a call and bounds its cost before it is sent, with the workspace's own maximum of output where the request names none, so that everything behind it
// (budgets, the log, the settlement) speaks of the same price.
package quote

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/price"
)

// Prices returns the catalogue in force; it never blocks.
type Prices interface {
	Prices() *price.Catalogue
}

// Quote is the step; make it with New.
type Quote struct {
	prices   Prices
	next     call.Handler
	unpriced prometheus.Counter
}

// New returns the step in front of next. Without a hard budget a call without price or bound is served.
func New(prices Prices, reg prometheus.Registerer, next call.Handler) *Quote {
	unpriced := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "rateguard_proxy_unpriced_requests_total",
		Help: "Requests of models without a price: served, with an unknown cost.",
	})
	reg.MustRegister(unpriced)
	return &Quote{prices: prices, next: next, unpriced: unpriced}
}

// Serve fills Quote.
func (q *Quote) Serve(c *call.Call) error {
	if err := q.pin(c); err != nil {
		return fmt.Errorf("quoting: %w", err)
	}
	return q.next.Serve(c)
}

func (q *Quote) pin(c *call.Call) error {
	out := &c.Quote
	if n := c.Workspace.Document.GetSettings().GetDefaultMaxOutputTokens(); n > 0 && c.Asked.Declared.MaxOutputTokens == 0 && c.Asked.TakesCap() {
		c.Asked.Declared.MaxOutputTokens, c.Asked.Cap = n, n
	}
	switch {
	case c.Route.HasPerRequest:
		out.Fixed, out.FixedCost = true, c.Route.PerRequest
		out.Bounded, out.Bound = true, c.Route.PerRequest
	case c.Asked.API == call.Free:
		out.Fixed, out.Bounded = true, true
	case c.Route.Dialect == call.HTTP:
		return nil // nothing says what it costs
	default:
		if err := q.find(c); err != nil {
			return err
		}
	}
	q.unknown(c)
	return nil
}

func (q *Quote) find(c *call.Call) error {
	catalogue := q.prices.Prices()
	out := &c.Quote
	out.PriceVersion = catalogue.Version()
	if c.Asked.Model == "" {
		q.unpriced.Inc()
		return nil
	}
	p, err := catalogue.Find(price.Query{Provider: c.Route.Provider, Model: c.Asked.Model, At: c.Start})
	if errors.Is(err, price.ErrUnknownModel) {
		q.unpriced.Inc()
		return nil
	}
	if err != nil {
		return err
	}
	out.Price, out.PriceVersion = &p, p.Version()
	if c.Asked.Unbounded && c.Asked.UnboundedBy == "" {
		return nil
	}
	// No bound, for whatever reason, is an answer: what a hard budget makes of it is decided behind. What no store counts is none.
	if bound, err := p.Bound(c.Asked.Declared); err == nil && bound <= money.MaxCall {
		if c.Asked.Unbounded { // by a field that adds to this
			out.HasUnknown, out.Unknown = true, bound
		} else {
			out.Bounded, out.Bound = true, bound
		}
	}
	return nil
}

// unknown decides what the call costs when nobody ever learns what the provider did.
func (q *Quote) unknown(c *call.Call) {
	out := &c.Quote
	switch c.Workspace.UnknownOutcome {
	case rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_NONE:
		out.HasUnknown, out.Unknown = out.Price != nil || out.Fixed, 0
	case rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_INPUT:
		if out.Fixed {
			out.HasUnknown, out.Unknown = true, out.FixedCost
		} else if out.Price != nil {
			u := price.Usage{InputTokens: call.CountBody(c.Body)}
			if cost, err := out.Price.Cost(u); err == nil && cost <= money.MaxCall {
				out.HasUnknown, out.Unknown = true, cost
				if out.Bounded {
					out.Unknown = min(cost, out.Bound)
				}
			}
		}
	case rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_UNSPECIFIED, rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_RESERVED:
		if out.Bounded {
			out.HasUnknown, out.Unknown = true, out.Bound
		}
	}
}
