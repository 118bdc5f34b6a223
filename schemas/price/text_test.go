package price_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/schemas/price"
)

func TestRatesAreReadExactly(t *testing.T) {
	for _, test := range []struct {
		unit, usd string
		pico      int64
		written   string
	}{
		{"input_tokens", "2.5", 2_500_000, "2.5"},
		{"input_tokens", "0.000001", 1, "0.000001"},
		{"output_tokens", "0", 0, "0"},
		{"output_tokens", "0010.50", 10_500_000, "10.5"},
		{"audio_hours", "0.36", 360_000_000_000, "0.36"},
		{"web_searches", "0.01", 10_000_000_000, "0.01"},
		{"requests", "0.000000000001", 1, "0.000000000001"},
		{"requests", "1000000", 1_000_000_000_000_000_000, "1000000"},
	} {
		got, err := price.ParseRate(test.unit, test.usd)
		if err != nil || got != test.pico {
			t.Errorf("%s at %s: got %d, %v; want %d", test.unit, test.usd, got, err, test.pico)
		}
		if text := price.FormatRate(test.unit, test.pico); text != test.written {
			t.Errorf("%s at %d: written %s, want %s", test.unit, test.pico, text, test.written)
		}
	}
	for _, bad := range [][2]string{
		{"input_tokens", ""},
		{"input_tokens", "-1"},
		{"input_tokens", "1e3"},
		{"input_tokens", "1."},
		{"input_tokens", ".5"},
		{"input_tokens", "0.0000001"},
		{"input_tokens", "1000000.000001"},
		{"requests", "1000001"},
		{"requests", strings.Repeat("9", 60)},
		{"input_mtok", "1"},
	} {
		if got, err := price.ParseRate(bad[0], bad[1]); !errors.Is(err, price.ErrRate) {
			t.Errorf("%s at %q: got %d, %v; want ErrRate", bad[0], bad[1], got, err)
		}
	}
}
