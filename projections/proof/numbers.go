package proof

import "slices"

// numbers are the numbers of the grants of one epoch that were opened, as ascending ranges that do not touch. Openings come almost in
// the order of their grants, so that there are few.
type numbers struct {
	ranges   []Range
	openings int64
}

// add takes a number and reports whether it is new.
func (n *numbers) add(op uint64) bool {
	n.openings++
	i := len(n.ranges)
	for i > 0 && n.ranges[i-1].From > op {
		i--
	}
	if i > 0 && op <= n.ranges[i-1].To {
		return false
	}
	after := i < len(n.ranges) && n.ranges[i].From == op+1
	switch before := i > 0 && n.ranges[i-1].To+1 == op; {
	case before && after:
		n.ranges[i-1].To = n.ranges[i].To
		n.ranges = slices.Delete(n.ranges, i, i+1)
	case before:
		n.ranges[i-1].To = op
	case after:
		n.ranges[i].From = op
	default:
		n.ranges = slices.Insert(n.ranges, i, Range{op, op})
	}
	return true
}

// audit returns what is missing up to the last number.
func (n *numbers) audit(epoch uint64) EpochAudit {
	a := EpochAudit{Epoch: epoch, Openings: n.openings, Gaps: []Range{}}
	for _, r := range n.ranges {
		if from := a.LastOp + 1; r.From > from {
			a.Missing += r.From - from
			if len(a.Gaps) < mostNamed {
				a.Gaps = append(a.Gaps, Range{from, r.From - 1})
			}
		}
		a.LastOp = r.To
	}
	return a
}
