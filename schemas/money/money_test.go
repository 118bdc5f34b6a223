package money_test

import (
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"testing"

	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/schemas/money"
)

func TestParseUSD(t *testing.T) {
	for _, c := range []struct {
		in   string
		want money.Nano
		err  error
	}{
		{in: "10", want: 10_000_000_000},
		{in: "0", want: 0},
		{in: "-0", want: 0},
		{in: "0.0021", want: 2_100_000},
		{in: "0.000000001", want: 1},
		{in: "-0.000000001", want: -1},
		{in: "007.50", want: 7_500_000_000},
		{in: "9223372036.854775807", want: math.MaxInt64},
		{in: "-9223372036.854775808", want: math.MinInt64},
		{in: "9223372036.854775808", err: money.ErrOverflow},
		{in: "-9223372036.854775809", err: money.ErrOverflow},
		{in: "100000000000000000000000000000000", err: money.ErrOverflow},
		{in: "0.0000000001", err: money.ErrSyntax},
		{in: "", err: money.ErrSyntax},
		{in: "-", err: money.ErrSyntax},
		{in: ".", err: money.ErrSyntax},
		{in: ".5", err: money.ErrSyntax},
		{in: "5.", err: money.ErrSyntax},
		{in: "+5", err: money.ErrSyntax},
		{in: "--5", err: money.ErrSyntax},
		{in: "1e3", err: money.ErrSyntax},
		{in: "1,000", err: money.ErrSyntax},
		{in: "1_000", err: money.ErrSyntax},
		{in: " 1", err: money.ErrSyntax},
		{in: "1.-5", err: money.ErrSyntax},
		{in: "NaN", err: money.ErrSyntax},
		{in: "٣", err: money.ErrSyntax},
		{in: "$5", err: money.ErrSyntax},
	} {
		got, err := money.ParseUSD(c.in)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("ParseUSD(%q) = %d, %v; want %d, %v", c.in, got, err, c.want, c.err)
		}
	}
}

func TestString(t *testing.T) {
	for want, n := range map[string]money.Nano{
		"0": 0, "10": 10 * money.USD, "0.0021": 2_100_000, "-0.5": -500_000_000, "1.000000001": 1_000_000_001,
		"9223372036.854775807": math.MaxInt64, "-9223372036.854775808": math.MinInt64,
	} {
		if got := n.String(); got != want {
			t.Errorf("String(%d) = %q, want %q", int64(n), got, want)
		}
	}
}

func TestTextIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := money.Nano(rapid.Int64().Draw(t, "amount"))
		got, err := money.ParseUSD(n.String())
		if err != nil || got != n {
			t.Fatalf("ParseUSD(%q) = %d, %v; want %d", n.String(), got, err, n)
		}
	})
}

func TestAnyTextIsAnAmountOrAnError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringMatching(`-?[0-9]{0,12}\.?[0-9]{0,11}`)).Draw(t, "text")
		n, err := money.ParseUSD(text)
		if err != nil {
			if !errors.Is(err, money.ErrSyntax) && !errors.Is(err, money.ErrOverflow) {
				t.Fatalf("ParseUSD(%q): unknown error %v", text, err)
			}
			return
		}
		want, ok := new(big.Rat).SetString(text)
		got := big.NewRat(int64(n), int64(money.USD))
		if !ok || want.Cmp(got) != 0 {
			t.Fatalf("ParseUSD(%q) = %s", text, n)
		}
	})
}

func TestJSONIsADecimalString(t *testing.T) {
	b, err := json.Marshal(map[string]any{"limit": 10 * money.USD, "by": map[money.Nano]int{5: 1}})
	if want := `{"by":{"0.000000005":1},"limit":"10"}`; err != nil || string(b) != want {
		t.Errorf("got %s, %v; want %s", b, err, want)
	}
	var v struct{ USD money.Nano }
	if err := json.Unmarshal([]byte(`{"USD":"0.25"}`), &v); err != nil || v.USD != 250_000_000 {
		t.Errorf("got %d, %v", v.USD, err)
	}
	for _, bad := range []string{`{"USD":0.25}`, `{"USD":"0.25 "}`, `{"USD":"1e2"}`, `{"USD":true}`} {
		if err := json.Unmarshal([]byte(bad), &v); err == nil {
			t.Errorf("%s was read", bad)
		}
	}
}

// Arithmetic is compared with integers of any size.
func TestArithmeticIsExactOrAnOverflow(t *testing.T) {
	edge := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, 1, -1, math.MaxInt64, math.MinInt64, math.MaxInt64 - 1, math.MinInt64 + 1}))
	rapid.Check(t, func(t *rapid.T) {
		a, b := edge.Draw(t, "a"), edge.Draw(t, "b")
		x, y := big.NewInt(a), big.NewInt(b)
		for name, c := range map[string]struct {
			got  func() (money.Nano, error)
			want *big.Int
		}{
			"add": {func() (money.Nano, error) { return money.Add(money.Nano(a), money.Nano(b)) }, new(big.Int).Add(x, y)},
			"sub": {func() (money.Nano, error) { return money.Sub(money.Nano(a), money.Nano(b)) }, new(big.Int).Sub(x, y)},
			"mul": {func() (money.Nano, error) { return money.Mul(money.Nano(a), b) }, new(big.Int).Mul(x, y)},
		} {
			got, err := c.got()
			if !c.want.IsInt64() {
				if !errors.Is(err, money.ErrOverflow) {
					t.Fatalf("%s %d %d = %d, %v; want ErrOverflow", name, a, b, got, err)
				}
				continue
			}
			if err != nil || int64(got) != c.want.Int64() {
				t.Fatalf("%s %d %d = %d, %v; want %s", name, a, b, got, err, c.want)
			}
		}
	})
}
