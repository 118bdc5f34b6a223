package price

import (
	"fmt"

	"github.com/rateguard/rateguard/schemas/money"
)

// Price is what one model costs at one instant. It is a small value; copies share its tables, which never change.
type Price struct {
	provider string
	model    string
	version  string
	context  int64
	minAudio int64
	rates    *rates
}

// Provider returns the catalogue's id of the provider whose price it is.
func (p Price) Provider() string { return p.provider }

// Model returns the catalogue's id of the model that the query's name stands for.
func (p Price) Model() string { return p.model }

// Version names the price: the version of the built-in catalogue, and where an override is in force "+override.<n>", n being the
// version of its history, with ".backdated" behind it for a backdated one. With the model and the instant it says exactly
// which rates were used, as long as every version of a history is kept.
func (p Price) Version() string { return p.version }

// ContextWindow returns the model's context window in tokens, 0 when it is not known.
func (p Price) ContextWindow() int64 { return p.context }

// Rates returns the prices, parts before their totals; none means that the model is free of charge.
func (p Price) Rates() []Rate {
	var list []Rate
	if p.rates == nil {
		return nil
	}
	for _, r := range p.rates.list {
		out := Rate{Unit: units[r.unit].name, PicoUSD: r.base}
		for _, t := range r.tiers {
			out.Tiers = append(out.Tiers, Tier{AboveInputTokens: t.Start, PicoUSD: t.Price})
		}
		list = append(list, out)
	}
	return list
}

// Rate is the price of one unit in pico-USD (10^-12 USD), for durations of one hour.
type Rate struct {
	Unit    string
	PicoUSD int64
	Tiers   []Tier
}

// Tier is the price of all units of a call that has more than so many input tokens.
type Tier struct {
	AboveInputTokens int64
	PicoUSD          int64
}

// Cost returns what a usage costs. It is exact in pico-USD and rounded once, to the nearest nano-USD, ties to even.
// Units that the model has no price for are charged as the total they are part of. Errors: ErrInvalidUsage, money.ErrOverflow.
func (p Price) Cost(u Usage) (money.Nano, error) {
	count := u.counts()
	for i := range count {
		if count[i] < 0 {
			return 0, fmt.Errorf("%w: %s is negative (%d)", ErrInvalidUsage, units[i].name, count[i])
		}
	}
	if p.rates == nil {
		return 0, nil
	}
	// A call that was made is a request, whether its usage says so or not.
	count[requests] = max(count[requests], 1)
	count[audioHours] = p.billedAudio(count[audioHours])
	count[inputAudioHours] = count[audioHours]

	var s sum
	var own [unitCount]int64 // what of a unit is not one of its priced parts
	for i := range p.rates.list {
		r := &p.rates.list[i]
		rest := count[r.unit]
		for _, part := range r.parts {
			rest -= own[part]
			if rest < 0 {
				return 0, fmt.Errorf("%w: the parts of %s are more than its %d", ErrInvalidUsage, units[r.unit].name, count[r.unit])
			}
		}
		own[i] = rest
		s.add(r.unit, r.at(u.InputTokens), rest)
	}
	cost, err := s.halfEven()
	if err != nil {
		return 0, fmt.Errorf("summing cost of %s: %w", p.model, err)
	}
	return cost, nil
}

// billedAudio raises a length of audio to the least that the model bills.
func (p Price) billedAudio(ms int64) int64 {
	if ms == 0 {
		return 0
	}
	return max(ms, p.minAudio)
}
