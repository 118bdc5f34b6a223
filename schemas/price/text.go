package price

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Per says for how much of a unit its price is quoted to people.
type Per string

// The quotations: tokens by the million, durations by the hour, everything else by the piece.
const (
	PerMillion Per = "million"
	PerHour    Per = "hour"
	PerUnit    Per = "unit"
)

// maxQuoted is the highest price that ParseRate takes, in USD: far above any price, far below what overflows.
const maxQuoted = 1_000_000

// ErrRate means that a text is no price of a unit.
var ErrRate = errors.New("no price")

// PerOf returns how the price of a unit is quoted; ok is false for a name that is no unit's.
func PerOf(name string) (per Per, ok bool) {
	u, ok := unitNamed(name)
	if !ok {
		return "", false
	}
	switch units[u].family {
	case tokens:
		return PerMillion, true
	case duration:
		return PerHour, true
	default:
		return PerUnit, true
	}
}

// decimals is how many decimals of a quoted price are whole pico-USD of the unit: one of a million tokens costs a millionth.
func (p Per) decimals() int {
	if p == PerMillion {
		return 6
	}
	return 12
}

// ParseRate reads the quoted price of a unit in USD, for example "2.5" for a million input tokens, and returns pico-USD: for one unit,
// for durations for one hour. Error: ErrRate, with what is wrong.
func ParseRate(name, usd string) (int64, error) {
	per, ok := PerOf(name)
	if !ok {
		return 0, fmt.Errorf("%w: unit %.40q is unknown", ErrRate, name)
	}
	whole, fraction, point := strings.Cut(usd, ".")
	if !isDigits(whole) || point && !isDigits(fraction) {
		return 0, fmt.Errorf("%w: must be a decimal number of USD", ErrRate)
	}
	n := per.decimals()
	if len(fraction) > n {
		return 0, fmt.Errorf("%w: must have at most %d decimals", ErrRate, n)
	}
	pico, err := strconv.ParseInt(whole+fraction+strings.Repeat("0", n-len(fraction)), 10, 64)
	most, _ := strconv.ParseInt(strconv.Itoa(maxQuoted)+strings.Repeat("0", n), 10, 64)
	if err != nil || pico > most {
		return 0, fmt.Errorf("%w: must be at most %d USD", ErrRate, maxQuoted)
	}
	return pico, nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// FormatRate writes a price as ParseRate reads it, without trailing zeros. The name is a unit's.
func FormatRate(name string, pico int64) string {
	per, _ := PerOf(name)
	n := per.decimals()
	digits := fmt.Sprintf("%0*d", n+1, pico)
	whole, fraction := digits[:len(digits)-n], strings.TrimRight(digits[len(digits)-n:], "0")
	if fraction == "" {
		return whole
	}
	return whole + "." + fraction
}
