package proof

import (
	"slices"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// mostRecent is how many openings a view keeps to tell which of them were granted later than one that stands behind them.
const mostRecent = 4096

// view says how far Redis may honestly have been from the log's sums of one budget period when it decided a grant that stands at a
// place of the log. Producers ship their records on their own: an end that Redis knew may stand behind the grant, and a grant that
// was decided later may stand before it.
type view struct {
	// held is what each producer has open.
	held map[string]int64
	// local is what is open and was not granted in Redis.
	local int64
	// raised is all by which Redis may have learned of costs from the log alone, some time later: corrections, costs above what was held.
	raised int64
	// recent are the newest openings, ascending by epoch and number.
	recent []numbered
}

type numbered struct {
	epoch, op uint64
	amount    int64
}

func (n numbered) after(epoch, op uint64) bool {
	return n.epoch > epoch || n.epoch == epoch && n.op > op
}

// open takes an opening.
func (v *view) open(o opening, h *rateguardv1.Hold) {
	if o.GetEpoch() == 0 {
		v.local += h.GetAmountNanoUsd()
		return
	}
	v.held[o.producer] += h.GetAmountNanoUsd()
	i := len(v.recent)
	for i > 0 && v.recent[i-1].after(o.GetEpoch(), o.GetOp()) {
		i--
	}
	v.recent = slices.Insert(v.recent, i, numbered{o.GetEpoch(), o.GetOp(), h.GetAmountNanoUsd()})
	if n := len(v.recent); n > 2*mostRecent {
		v.recent = slices.Delete(v.recent, 0, n-mostRecent)
	}
}

// end takes the end of a reservation.
func (v *view) end(h *rateguardv1.Hold, o *rateguardv1.Outcome, producer string, local bool) {
	if local {
		v.local -= h.GetAmountNanoUsd()
		v.raised += o.GetCostNanoUsd()
		return
	}
	if v.held[producer] -= h.GetAmountNanoUsd(); v.held[producer] <= 0 {
		delete(v.held, producer)
	}
	v.raised += max(0, o.GetCostNanoUsd()-h.GetAmountNanoUsd())
}

// later returns what openings hold that were granted after a grant and stand before it in the log.
func (v *view) later(epoch, op uint64) int64 {
	sum := int64(0)
	for i := len(v.recent) - 1; i >= 0 && v.recent[i].after(epoch, op); i-- {
		sum += v.recent[i].amount
	}
	return sum
}

// explained returns the most by which a producer's grant may have seen less than the log shows. Its own ends stand before it; those of
// others may be on their way.
func (v *view) explained(producer string) int64 {
	sum := v.raised
	for p, held := range v.held {
		if p != producer {
			sum += held
		}
	}
	return sum
}
