// Package money holds the one amount type of RateGuard: an integer number of
// nano-USD. It is separate so that every store, event and API counts in the same
// unit and nobody reaches for a float.
package money

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Nano is an amount in nano-USD (10^-9 USD). One Nano is the smallest amount that
// is ever posted; the largest is about 9.2 billion USD.
type Nano int64

// USD is one US dollar.
const USD Nano = 1_000_000_000

// MaxCall is the largest cost or bound of one call that enters the log. Every store takes amounts up to it, and none
// above: 100,000 USD, of which a batch of tens of thousands still fits a Nano.
const MaxCall = 100_000 * USD

// decimals is the number of decimal places that a Nano has in USD.
const decimals = 9

// Errors of this package.
var (
	// ErrOverflow means that a result does not fit a Nano. Amounts never wrap or saturate.
	ErrOverflow = errors.New("amount of money overflows")
	// ErrSyntax means that a text is no decimal amount of USD with at most nine decimals.
	ErrSyntax = errors.New("not a decimal amount of USD with at most nine decimals")
)

// ParseUSD reads a decimal amount of USD, for example "10", "0.0021" or "-3.5".
// It knows no sign "+", exponent, separator or blank, and more than nine decimals are an
// error rather than rounded away. Errors: ErrSyntax, ErrOverflow.
func ParseUSD(s string) (Nano, error) {
	digits, negative := strings.CutPrefix(s, "-")
	whole, fraction, point := strings.Cut(digits, ".")
	if !isDigits(whole) || point && !isDigits(fraction) || len(fraction) > decimals {
		return 0, fmt.Errorf("parsing %.40q: %w", s, ErrSyntax)
	}
	text := whole + fraction + "000000000"[len(fraction):]
	if negative {
		text = "-" + text
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parsing %.40q: %w", s, ErrOverflow)
	}
	return Nano(n), nil
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// String returns the amount in USD as a decimal with up to nine decimals and no
// trailing zeros, for example "0.0021" or "10". ParseUSD reads it back.
func (n Nano) String() string {
	return string(n.append(make([]byte, 0, 24)))
}

func (n Nano) append(b []byte) []byte {
	// The magnitude of the smallest int64 fits only the unsigned type.
	u := uint64(n) //nolint:gosec // two's complement is what is wanted here
	if n < 0 {
		b = append(b, '-')
		u = -u
	}
	b = strconv.AppendUint(b, u/uint64(USD), 10)
	fraction := u % uint64(USD)
	if fraction == 0 {
		return b
	}
	b = append(b, '.')
	for unit := uint64(USD) / 10; fraction > 0; unit /= 10 {
		b = append(b, byte('0'+fraction/unit)) //nolint:gosec // a single digit
		fraction %= unit
	}
	return b
}

// MarshalText makes amounts decimal strings in JSON, never numbers that a reader would turn into floats.
func (n Nano) MarshalText() ([]byte, error) {
	return n.append(nil), nil
}

// UnmarshalText reads what MarshalText writes; see ParseUSD.
func (n *Nano) UnmarshalText(text []byte) error {
	v, err := ParseUSD(string(text))
	if err != nil {
		return err
	}
	*n = v
	return nil
}

// Add returns a + b, or ErrOverflow.
func Add(a, b Nano) (Nano, error) {
	sum := a + b
	if (sum > a) != (b > 0) && b != 0 {
		return 0, fmt.Errorf("adding %s and %s: %w", a, b, ErrOverflow)
	}
	return sum, nil
}

// Sub returns a - b, or ErrOverflow.
func Sub(a, b Nano) (Nano, error) {
	difference := a - b
	if (difference < a) != (b > 0) && b != 0 {
		return 0, fmt.Errorf("subtracting %s from %s: %w", b, a, ErrOverflow)
	}
	return difference, nil
}

// Mul returns n times the amount, or ErrOverflow.
func Mul(a Nano, n int64) (Nano, error) {
	if a == 0 || n == 0 {
		return 0, nil
	}
	product := a * Nano(n)
	if product/Nano(n) != a || a == math.MinInt64 && n == -1 {
		return 0, fmt.Errorf("multiplying %s by %d: %w", a, n, ErrOverflow)
	}
	return product, nil
}
