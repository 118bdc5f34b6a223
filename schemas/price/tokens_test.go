package price_test

import (
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/schemas/price"
)

func TestTheBoundOfTokens(t *testing.T) {
	t.Parallel()
	known := find(t, "openai", "gpt-4o")
	window := known.ContextWindow()
	if window == 0 {
		t.Fatal("a price without a context window shows nothing")
	}
	unnamed, found := price.Price{}, false
	for _, p := range prices(t) {
		if p.ContextWindow() == 0 {
			unnamed, found = p, true
			break
		}
	}
	if !found {
		t.Fatal("each price names a context window")
	}
	for _, tt := range []struct {
		name    string
		p       *price.Price
		d       price.Declared
		answers bool
		want    int64
		known   bool
	}{
		{"input and output", &known, price.Declared{InputTokens: 100, MaxOutputTokens: 50}, true, 150, true},
		{"without a price", nil, price.Declared{InputTokens: 100, MaxOutputTokens: 50}, true, 150, true},
		{"choices", nil, price.Declared{InputTokens: 100, MaxOutputTokens: 50, N: 4}, true, 300, true},
		{"output beside the maximum", nil, price.Declared{InputTokens: 100, MaxOutputTokens: 50, N: 4, ExtraOutputTokens: 7}, true, 307, true},
		{"more extra output than a number holds", nil, price.Declared{MaxOutputTokens: 1, ExtraOutputTokens: math.MaxInt64}, true, 0, false},
		{"no output at all", nil, price.Declared{InputTokens: 100, MaxOutputTokens: 50, N: 4}, false, 100, true},
		{"output left open", &known, price.Declared{InputTokens: 100}, true, 100 + window, true},
		{"output and choices left open", &known, price.Declared{InputTokens: 100, N: 2}, true, 100 + 2*window, true},
		{"output left open, no price", nil, price.Declared{InputTokens: 100}, true, 0, false},
		{"output left open, no window", &unnamed, price.Declared{InputTokens: 100}, true, 0, false},
		{"hidden input", &known, price.Declared{InputTokens: 100, HiddenInput: true, MaxOutputTokens: 50}, true, window + 50, true},
		{"hidden input below what is seen", &known, price.Declared{InputTokens: 2 * window, HiddenInput: true, MaxOutputTokens: 50}, true, 2*window + 50, true},
		{"hidden input, no window", &unnamed, price.Declared{InputTokens: 100, HiddenInput: true, MaxOutputTokens: 50}, true, 0, false},
		{"hidden input, no output", &known, price.Declared{HiddenInput: true}, false, window, true},
		{"nothing", &known, price.Declared{}, false, 0, true},
		{"negative", &known, price.Declared{InputTokens: -1, MaxOutputTokens: 50}, true, 0, false},
		{"negative choices", &known, price.Declared{MaxOutputTokens: 50, N: -1}, true, 0, false},
		{"more than a number holds", nil, price.Declared{MaxOutputTokens: math.MaxInt64, N: 3}, true, 0, false},
		{"a sum above it", nil, price.Declared{InputTokens: math.MaxInt64, MaxOutputTokens: 1}, true, 0, false},
	} {
		got, ok := price.TokenBound(tt.p, tt.d, tt.answers)
		if got != tt.want || ok != tt.known {
			t.Errorf("%s: %d, known %t; want %d, %t", tt.name, got, ok, tt.want, tt.known)
		}
	}
}

// No usage that keeps to its declaration has more tokens than the bound.
func TestNoUsageIsAboveTheBoundOfTokens(t *testing.T) {
	t.Parallel()
	all := prices(t)
	bounded := 0
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(all).Draw(t, "price")
		d := drawDeclared(t)
		bound, known := price.TokenBound(&p, d, true)
		if !known {
			if p.ContextWindow() > 0 {
				t.Fatalf("%+v has no bound", d)
			}
			return
		}
		bounded++
		if u := drawUsage(t, p, d); u.InputTokens+u.OutputTokens > bound {
			t.Fatalf("%d and %d tokens of at most %d", u.InputTokens, u.OutputTokens, bound)
		}
	})
	if bounded == 0 {
		t.Error("no bound was known")
	}
}
