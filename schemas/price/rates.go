package price

import (
	"errors"
	"fmt"
	"slices"

	"github.com/rateguard/rateguard/schemas/price/internal/catalogue"
)

// rates is one set of prices, laid out so that Cost is one pass without a lookup.
type rates struct {
	// priced units, parts before their totals.
	list []rate
}

// rate is the price of one unit.
type rate struct {
	unit unit
	// base in pico-USD: for one unit, for durations for one hour.
	base int64
	// tiers by rising start.
	tiers []catalogue.Tier
	// parts are the places in the list of the units that are part of this one.
	parts []int
}

// newRates checks and lays out prices by unit name.
func newRates(byName map[string]catalogue.Rate) (*rates, error) {
	var priced [unitCount]bool
	r := &rates{list: make([]rate, 0, len(byName))}
	for name, p := range byName {
		u, ok := unitNamed(name)
		if !ok {
			return nil, fmt.Errorf("unit %q is unknown", name)
		}
		if err := checkRate(p); err != nil {
			return nil, fmt.Errorf("price of %s: %w", name, err)
		}
		priced[u] = true
		r.list = append(r.list, rate{unit: u, base: p.Base(), tiers: p.Tiers()})
	}
	if err := checkUnits(priced); err != nil {
		return nil, err
	}
	slices.SortFunc(r.list, func(a, b rate) int {
		// A part has more properties than its total; the unit number makes the order total.
		if d := units[b.unit].kind.size() - units[a.unit].kind.size(); d != 0 {
			return d
		}
		return int(a.unit) - int(b.unit)
	})
	for i := range r.list {
		for j := range i {
			if r.list[j].unit.partOf(r.list[i].unit) {
				r.list[i].parts = append(r.list[i].parts, j)
			}
		}
	}
	return r, nil
}

func (k kind) size() int {
	n := 0
	for ; k != 0; k &= k - 1 {
		n++
	}
	return n
}

func checkRate(p catalogue.Rate) error {
	if len(p)%2 == 0 {
		return errors.New("not a base and pairs of start and price")
	}
	if p.Base() < 0 {
		return fmt.Errorf("%d is negative", p.Base())
	}
	start := int64(-1)
	for _, t := range p.Tiers() {
		if t.Price < 0 || t.Start <= start {
			return fmt.Errorf("tier %d at %d is negative or out of order", t.Price, t.Start)
		}
		start = t.Start
	}
	return nil
}

// at returns the price for a call with so many input tokens. A tier is a cliff: above its start, it prices the whole call.
func (r *rate) at(input int64) int64 {
	p := r.base
	for _, t := range r.tiers {
		if input > t.Start {
			p = t.Price
		}
	}
	return p
}

// dearest returns the highest price for any call with at most so many input tokens.
func (r *rate) dearest(input int64) int64 {
	p := r.base
	for _, t := range r.tiers {
		if input > t.Start {
			p = max(p, t.Price)
		}
	}
	return p
}
