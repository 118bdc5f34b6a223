package price

import (
	"fmt"
	"math/bits"

	"github.com/rateguard/rateguard/schemas/money"
)

// Bound returns an upper bound of Cost for every usage that keeps to the declaration, rounded up to a nano-USD:
// each total at the dearest price that any of it can have. Errors: ErrUnbounded, ErrInvalidDeclaration, money.ErrOverflow.
func (p Price) Bound(d Declared) (money.Nano, error) {
	if err := d.check(); err != nil {
		return 0, err
	}
	if d.WebSearches != 0 && !p.searches() {
		return 0, fmt.Errorf("bounding web searches of %s, which have no price: %w", p.model, ErrUnbounded)
	}
	if p.rates == nil {
		return 0, nil
	}
	input, inputKnown := d.InputTokens, true
	if d.HiddenInput {
		input, inputKnown = max(input, p.context), p.context > 0
	}
	output, outputKnown, err := p.outputBound(d)
	if err != nil {
		return 0, err
	}

	top, topUnit := p.dearest(d, input, inputKnown)
	totals := [...]struct {
		count int64
		known bool
	}{
		totalInput:           {input, inputKnown},
		totalOutput:          {output, outputKnown},
		totalAudio:           {p.billedAudio(d.AudioMilliseconds), d.AudioMilliseconds > 0},
		totalRequests:        {max(d.Requests, 1), true},
		totalWebSearches:     {d.WebSearches, d.WebSearches >= 0},
		totalStorageSearches: {d.StorageSearches, d.StorageSearches >= 0},
		totalPages:           {d.DocumentPages, d.DocumentPages > 0},
		totalMessages:        {d.TextMessages, d.TextMessages > 0},
	}
	var s sum
	for i, t := range totals {
		if top[i] == 0 {
			continue
		}
		if !t.known {
			return 0, fmt.Errorf("bounding %s of %s: %w", units[topUnit[i]].name, p.model, ErrUnbounded)
		}
		s.add(topUnit[i], top[i], t.count)
	}
	bound, err := s.up()
	if err != nil {
		return 0, fmt.Errorf("bounding cost of %s: %w", p.model, err)
	}
	return bound, nil
}

// Totals that a bound is made of; every priced unit is part of one.
const (
	totalInput = iota
	totalOutput
	totalAudio
	totalRequests
	totalWebSearches
	totalStorageSearches
	totalPages
	totalMessages

	totalCount
)

func (u unit) total() int {
	switch units[u].family {
	case tokens:
		if units[u].kind&isInput != 0 {
			return totalInput
		}
		return totalOutput
	case duration:
		return totalAudio
	case call:
		return totalRequests
	case webSearch:
		return totalWebSearches
	case storageSearch:
		return totalStorageSearches
	case page:
		return totalPages
	default:
		return totalMessages
	}
}

// dearest returns for each total the highest price that a part of it can have, and a unit that has it.
func (p Price) dearest(d Declared, input int64, inputKnown bool) (top [totalCount]int64, by [totalCount]unit) {
	if !inputKnown {
		input = 1<<63 - 1 // every tier can be reached
	}
	for i := range p.rates.list {
		r := &p.rates.list[i]
		if d.excludes(r.unit) {
			continue
		}
		if t, price := r.unit.total(), r.dearest(input); price > top[t] {
			top[t], by[t] = price, r.unit
		}
	}
	return top, by
}

// excludes reports whether the declaration rules the unit out. Totals are never ruled out: they take what their parts do not.
func (d Declared) excludes(u unit) bool {
	if units[u].family != tokens {
		return false
	}
	k := units[u].kind
	media := k&(isAudio|isImage|isVideo) != 0
	return media && d.TextOnlyInput && k&isInput != 0 ||
		media && d.TextOnlyOutput && k&isOutput != 0 ||
		d.NoCacheWrite && k&isCacheWrite != 0 ||
		d.NoCacheWrite1h && k&isCache1h != 0
}

// searches reports whether a price says what web searches cost: by the search, or with the request.
func (p Price) searches() bool {
	if p.rates == nil {
		return false
	}
	for i := range p.rates.list {
		if u := p.rates.list[i].unit; u == webSearches || u == requests {
			return true
		}
	}
	return false
}

// outputBound returns the most output tokens of all choices together.
func (p Price) outputBound(d Declared) (int64, bool, error) {
	each := d.MaxOutputTokens
	if each == 0 {
		each = p.context
	}
	hi, lo := bits.Mul64(uint64(each), uint64(max(d.N, 1)))     //nolint:gosec // neither is negative
	lo, carry := bits.Add64(lo, uint64(d.ExtraOutputTokens), 0) //nolint:gosec // it is not negative
	if hi != 0 || carry != 0 || lo > 1<<63-1 {
		return 0, false, fmt.Errorf("bounding output of %s: %w", p.model, money.ErrOverflow)
	}
	return int64(lo), each > 0, nil
}

func (d Declared) check() error {
	for _, c := range [...]struct {
		name  string
		n     int64
		least int64
	}{
		{"input tokens", d.InputTokens, 0},
		{"max output tokens", d.MaxOutputTokens, 0},
		{"extra output tokens", d.ExtraOutputTokens, 0},
		{"choices", d.N, 0},
		{"requests", d.Requests, 0},
		{"web searches", d.WebSearches, Unknown},
		{"storage searches", d.StorageSearches, Unknown},
		{"audio milliseconds", d.AudioMilliseconds, Unknown},
		{"document pages", d.DocumentPages, Unknown},
		{"text messages", d.TextMessages, Unknown},
	} {
		if c.n < c.least {
			return fmt.Errorf("%w: %s is %d", ErrInvalidDeclaration, c.name, c.n)
		}
	}
	return nil
}
