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

// Peak is what was admitted in the busiest tenth of a window, from its first request to its last.
type Peak struct {
	Requests int64     `json:"requests"`
	Units    int64     `json:"units"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
}

// slot is what was taken in a slot; ago counts slots back from the end of the window. First and last are of what was admitted.
type slot struct {
	ago         int64
	first, last time.Time
	Use
}

// pattern tells a burst from steady use. It is a burst where the busiest tenth of the window has at least half of all units and at least 3
// requests, steady where it has less than half of at least 3 requests, and neither where so few requests took so much. Slots are in the order
// of their age.
func pattern(all []slot, u *UsedBy) (*Peak, string) {
	var best *Peak
	for i := range all {
		if all[i].Requests == 0 {
			continue
		}
		p := Peak{To: all[i].last.UTC()}
		for _, x := range all[i:] {
			if x.ago >= all[i].ago+tenth {
				break
			}
			if x.Requests > 0 {
				p.Requests += x.Requests
				p.Units += x.Units
				p.From = x.first.UTC()
			}
		}
		if best == nil || p.Units > best.Units || p.Units == best.Units && p.Requests > best.Requests {
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
