// Package oracle says what calls must have cost, from prices written down by hand and exact
// rational arithmetic: it shares no code and no data file with the product, so that both
// being wrong in the same way would take two people making the same mistake.
package oracle

import (
	"fmt"
	"math/big"
)

// Tokens is what a call used; InputTokens holds the cached ones too.
type Tokens struct {
	Input, CacheRead, CacheWrite, Output int64
}

// price is in USD a million tokens, as the providers publish it.
type price struct{ input, cacheRead, cacheWrite, output string }

var prices = map[string]price{
	"gpt-4o":                 {"2.50", "1.25", "0", "10"},
	"gpt-4o-mini":            {"0.15", "0.075", "0", "0.60"},
	"gpt-4.1-mini":           {"0.40", "0.10", "0", "1.60"},
	"text-embedding-3-small": {"0.02", "0", "0", "0"},
	"claude-haiku-4-5":       {"1", "0.10", "1.25", "5"},
	// Below 200,000 input tokens.
	"claude-sonnet-4-5": {"3", "0.30", "3.75", "15"},
	"gemini-2.5-flash":  {"0.30", "0.03", "0", "2.50"},
}

// Models lists what Nano knows.
func Models() []string {
	models := make([]string, 0, len(prices))
	for m := range prices {
		models = append(models, m)
	}
	return models
}

// Nano returns the cost in nano-USD, rounded once, half to even.
func Nano(model string, t Tokens) (int64, error) {
	p, ok := prices[model]
	if !ok {
		return 0, fmt.Errorf("the oracle has no price of %q", model)
	}
	sum := new(big.Rat)
	for _, part := range []struct {
		tokens int64
		usd    string
	}{
		{t.Input - t.CacheRead - t.CacheWrite, p.input},
		{t.CacheRead, p.cacheRead},
		{t.CacheWrite, p.cacheWrite},
		{t.Output, p.output},
	} {
		rate, ok := new(big.Rat).SetString(part.usd)
		if !ok {
			return 0, fmt.Errorf("the oracle's price of %q is no number: %q", model, part.usd)
		}
		// USD a million tokens is a thousand nano-USD a token.
		rate.Mul(rate, big.NewRat(1000, 1))
		sum.Add(sum, rate.Mul(rate, new(big.Rat).SetInt64(part.tokens)))
	}
	return roundHalfEven(sum), nil
}

func roundHalfEven(r *big.Rat) int64 {
	whole, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	switch twice := rest.Lsh(rest, 1); twice.Cmp(r.Denom()) {
	case 1:
		whole.Add(whole, big.NewInt(1))
	case 0:
		if whole.Bit(0) == 1 {
			whole.Add(whole, big.NewInt(1))
		}
	}
	return whole.Int64()
}
