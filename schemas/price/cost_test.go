package price_test

import (
	"errors"
	"math"
	"math/big"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/price"
)

func TestUsageSurvivesItsEventForm(t *testing.T) {
	var u price.Usage
	v := reflect.ValueOf(&u).Elem()
	for i := range v.NumField() {
		v.Field(i).SetInt(int64(i + 1))
	}
	if fields := (&rateguardv1.Usage{}).ProtoReflect().Descriptor().Fields().Len(); fields != v.NumField() {
		t.Errorf("the event has %d fields, Usage %d", fields, v.NumField())
	}
	if got := price.UsageFromProto(u.Proto()); got != u {
		t.Errorf("got %+v, want %+v", got, u)
	}
	if got := price.UsageFromProto(nil); got != (price.Usage{}) {
		t.Errorf("nil gives %+v", got)
	}
}

func TestCostRefusesNegativeCounts(t *testing.T) {
	p := find(t, "openai", "gpt-4o")
	for i := range reflect.TypeFor[price.Usage]().NumField() {
		var u price.Usage
		reflect.ValueOf(&u).Elem().Field(i).SetInt(-1)
		if cost, err := p.Cost(u); !errors.Is(err, price.ErrInvalidUsage) {
			t.Errorf("%+v costs %s, %v; want ErrInvalidUsage", u, cost, err)
		}
	}
}

func TestCostOverflowIsAnError(t *testing.T) {
	for _, u := range []price.Usage{
		{InputTokens: math.MaxInt64},
		{OutputTokens: math.MaxInt64},
		{InputTokens: math.MaxInt64, OutputTokens: math.MaxInt64},
		{InputTokens: math.MaxInt64 / 2500 * 2, OutputTokens: 1},
	} {
		if cost, err := find(t, "openai", "gpt-4o").Cost(u); !errors.Is(err, money.ErrOverflow) {
			t.Errorf("%+v costs %s, %v; want ErrOverflow", u, cost, err)
		}
	}
	if cost, err := find(t, "openai", "whisper-1").Cost(price.Usage{AudioMilliseconds: math.MaxInt64}); !errors.Is(err, money.ErrOverflow) {
		t.Errorf("2^63 ms cost %s, %v; want ErrOverflow", cost, err)
	}
	// The largest amounts that fit, at 100 nano-USD a millisecond and 2,500 a token.
	if cost, err := find(t, "openai", "whisper-1").Cost(price.Usage{AudioMilliseconds: math.MaxInt64 / 100}); err != nil {
		t.Errorf("the largest amount costs %s, %v", cost, err)
	}
	if cost, err := find(t, "openai", "gpt-4o").Cost(price.Usage{InputTokens: math.MaxInt64 / 2500}); err != nil {
		t.Errorf("the largest amount costs %s, %v", cost, err)
	}
}

// With overrides any price can be set, so that the arithmetic is compared with rationals at all magnitudes.
func TestCostIsExactAndRoundedOnceHalfToEven(t *testing.T) {
	amount := rapid.OneOf(rapid.Int64Range(0, math.MaxInt64), rapid.Int64Range(0, 100_000), rapid.SampledFrom([]int64{
		0, 1, 500, 1500, 1_800_000_000, 5_400_000_000, math.MaxInt64,
	}))
	rapid.Check(t, func(t *rapid.T) {
		input, output, hours, calls := amount.Draw(t, "input"), amount.Draw(t, "output"), amount.Draw(t, "hours"), amount.Draw(t, "calls")
		c, err := price.Default().With([]*rateguardv1.PriceHistory{{
			Provider: "acme", Model: "m",
			Overrides: []*rateguardv1.PriceOverride{{PicoUsd: map[string]int64{
				"input_tokens": input, "output_tokens": output, "audio_hours": hours, "requests": calls,
			}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.Find(price.Query{Provider: "acme", Model: "m", At: noon})
		if err != nil {
			t.Fatal(err)
		}
		u := price.Usage{
			InputTokens: amount.Draw(t, "input tokens"), OutputTokens: amount.Draw(t, "output tokens"),
			AudioMilliseconds: amount.Draw(t, "ms"), Requests: 1,
		}
		total := product(input, u.InputTokens)
		total.Add(total, product(output, u.OutputTokens))
		total.Add(total, product(calls, 1))
		audio := product(hours, u.AudioMilliseconds)
		total.Add(total, audio.Quo(audio, big.NewRat(3_600_000, 1)))
		want, ok := halfEven(total.Quo(total, big.NewRat(1000, 1)))
		got, err := p.Cost(u)
		if !ok {
			if !errors.Is(err, money.ErrOverflow) {
				t.Fatalf("got %d, %v; want ErrOverflow", got, err)
			}
			return
		}
		if err != nil || int64(got) != want {
			t.Fatalf("got %d, %v; want %d", got, err, want)
		}
	})
}

func product(a, b int64) *big.Rat {
	return new(big.Rat).Mul(new(big.Rat).SetInt64(a), new(big.Rat).SetInt64(b))
}

func halfEven(r *big.Rat) (int64, bool) {
	q, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if c := rest.Lsh(rest, 1).Cmp(r.Denom()); c > 0 || c == 0 && q.Bit(0) == 1 {
		q.Add(q, big.NewInt(1))
	}
	return q.Int64(), q.IsInt64()
}

func TestManySmallCallsAddUpExactly(t *testing.T) {
	c, err := price.Default().With([]*rateguardv1.PriceHistory{{
		Provider: "openai", Model: "gpt-4o",
		Overrides: []*rateguardv1.PriceOverride{{PicoUsd: map[string]int64{"input_tokens": 1_500_000}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := c.Find(price.Query{Provider: "openai", Model: "gpt-4o", At: noon})
	if err != nil {
		t.Fatal(err)
	}
	var total money.Nano
	for range 1_000_000 {
		cost, err := p.Cost(price.Usage{InputTokens: 1})
		if err != nil {
			t.Fatal(err)
		}
		if total, err = money.Add(total, cost); err != nil {
			t.Fatal(err)
		}
	}
	if total.String() != "1.5" {
		t.Errorf("a million tokens at $0.0000015 cost %s, want 1.5", total)
	}
}

// A bill may be split over a call's parts only by rounding: more usage never costs less.
func TestCostGrowsWithUsage(t *testing.T) {
	all := prices(t)
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SampledFrom(all).Draw(t, "model")
		in, out := rapid.Int64Range(0, 1_000_000).Draw(t, "in"), rapid.Int64Range(0, 1_000_000).Draw(t, "out")
		less, err := p.Cost(price.Usage{InputTokens: in, OutputTokens: out})
		if err != nil {
			t.Fatal(err)
		}
		more, err := p.Cost(price.Usage{InputTokens: in + 1, OutputTokens: out + 1})
		if err != nil || more < less {
			t.Fatalf("%s: %d+%d costs %s, one more %s, %v", p.Model(), in, out, less, more, err)
		}
	})
}
