package query

import "time"

// A window is cut into slots, and a tenth of it is a run of so many of them.
const (
	slots       = 100
	tenth       = slots / 10
	minInABurst = 3
)

// What the use of a limit looks like.
const (
	burst  = "burst"
	steady = "steady"
)

// Peak is what was admitted in the busiest tenth of a window; From and To are the slots of it, a hundredth of the window each, in which
// anything was.
type Peak struct {
	Requests int64     `json:"requests"`
	Units    int64     `json:"units"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
}

// slot is what a slot saw; ago counts slots back from the end of the window.
type slot struct {
	ago int64
	Use
}

// pattern tells a burst from steady use. It is a burst where the busiest tenth of the window has at least half of all units and at least 3
// requests, steady where it has less than half of at least 3 requests, and neither where so few requests took so much. Slots are in the order of
// their age and width µs wide.
func pattern(all []slot, u *UsedBy, width int64) (*Peak, string) {
	var best *Peak
	for i := range all {
		if all[i].Requests == 0 {
			continue
		}
		var p Peak
		oldest := all[i].ago
		for _, x := range all[i:] {
			if x.ago >= all[i].ago+tenth {
				break
			}
			if x.Requests > 0 {
				p.Requests += x.Requests
				p.Units += x.Units
				oldest = x.ago
			}
		}
		if best == nil || p.Units > best.Units || p.Units == best.Units && p.Requests > best.Requests {
			ago := func(n int64) time.Time { return u.To.Add(-time.Duration(n*width) * time.Microsecond) }
			p.From, p.To = ago(oldest+1), ago(all[i].ago)
			best = &p
		}
	}
	switch {
	case best == nil || u.Units == 0:
		return best, ""
	case 2*best.Units >= u.Units && best.Requests >= minInABurst:
		return best, burst
	case 2*best.Units < u.Units && u.Requests >= minInABurst:
		return best, steady
	}
	return best, ""
}
