package price

import "math/bits"

// TokenBound returns an upper bound of the tokens, input and output, of every usage that keeps to the declaration; answers says whether
// the call has output at all. Known is false where a total is left to a context window that nobody names: p may be nil for a
// model without a price, and prices do not all name one.
func TokenBound(p *Price, d Declared, answers bool) (n int64, known bool) {
	if d.check() != nil {
		return 0, false
	}
	var context int64
	if p != nil {
		context = p.context
	}
	input := d.InputTokens
	if d.HiddenInput {
		if context == 0 {
			return 0, false
		}
		input = max(input, context)
	}
	if !answers {
		return input, true
	}
	each := d.MaxOutputTokens
	if each == 0 {
		each = context
	}
	hi, output := bits.Mul64(uint64(each), uint64(max(d.N, 1)))
	if d.ExtraOutputTokens > 1<<61 || output > 1<<61 {
		return 0, false
	}
	output += uint64(d.ExtraOutputTokens) //nolint:gosec // it is not negative
	if sum := uint64(input) + output; each == 0 || hi != 0 || sum > 1<<62 {
		return 0, false
	}
	return input + int64(output), true
}
