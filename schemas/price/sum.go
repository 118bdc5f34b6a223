package price

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/rateguard/rateguard/schemas/money"
)

// sum adds products of prices and counts without losing anything: tokens and other units in pico-USD,
// durations in pico-USD a 3,600,000th (a price an hour times milliseconds).
type sum struct {
	units, hours u128
	overflow     bool
}

type u128 struct{ hi, lo uint64 }

// add adds count units at pico; both are not negative.
func (s *sum) add(u unit, pico, count int64) {
	hi, lo := bits.Mul64(uint64(pico), uint64(count)) //nolint:gosec // neither is negative
	to := &s.units
	if units[u].family == duration {
		to = &s.hours
	}
	var carry uint64
	to.lo, carry = bits.Add64(to.lo, lo, 0)
	to.hi, carry = bits.Add64(to.hi, hi, carry)
	s.overflow = s.overflow || carry != 0
}

const (
	picoPerNano = 1000
	// denominator of a total: 3,600,000ths of a pico-USD to nano-USD.
	denominator = msPerHour * picoPerNano
	// unitsLimit is far above the largest Nano in pico-USD (2^73) and low enough for the products below.
	unitsLimit = 1 << 32
)

// nano divides once: the quotient in nano-USD and what is left of it, in parts of denominator.
func (s *sum) nano() (quotient, rest uint64, err error) {
	if s.overflow || s.units.hi >= unitsLimit {
		return 0, 0, money.ErrOverflow
	}
	carry, lo := bits.Mul64(s.units.lo, msPerHour)
	hi := s.units.hi*msPerHour + carry
	lo, c := bits.Add64(lo, s.hours.lo, 0)
	hi, c = bits.Add64(hi, s.hours.hi, c)
	if c != 0 || hi >= denominator {
		return 0, 0, money.ErrOverflow
	}
	quotient, rest = bits.Div64(hi, lo, denominator)
	return quotient, rest, nil
}

// halfEven rounds the sum to the nearest nano-USD, ties to the even one.
func (s *sum) halfEven() (money.Nano, error) {
	q, rest, err := s.nano()
	if err != nil {
		return 0, err
	}
	if 2*rest > denominator || 2*rest == denominator && q%2 == 1 {
		q++
	}
	return toNano(q)
}

// up rounds the sum up to a nano-USD.
func (s *sum) up() (money.Nano, error) {
	q, rest, err := s.nano()
	if err != nil {
		return 0, err
	}
	if rest > 0 {
		q++
	}
	return toNano(q)
}

func toNano(q uint64) (money.Nano, error) {
	if q > math.MaxInt64 {
		return 0, fmt.Errorf("%d nano-USD: %w", q, money.ErrOverflow)
	}
	return money.Nano(q), nil
}
