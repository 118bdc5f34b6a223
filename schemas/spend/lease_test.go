package spend_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

func leased(producer string, seq uint64, id string, amount int64) *rateguardv1.Event {
	e := opened(producer, seq, id, amount)
	e.GetReservationOpened().Lease, e.GetReservationOpened().BoundNanoUsd = true, nil
	return e
}

func taken(producer string, seq uint64, id, lease string, bound int64) *rateguardv1.Event {
	e := opened(producer, seq, id, bound)
	e.GetReservationOpened().LeaseId = lease
	return e
}

// settledOf is the end of what was taken from a lease.
func settledOf(producer string, seq uint64, id, lease string, bound, cost int64) *rateguardv1.Event {
	e := settled(producer, seq, id, bound, cost)
	e.GetCostSettled().GetOutcome().LeaseId = lease
	return e
}

// leftover is such an end by the next process on the folder.
func leftover(id, lease, opener string, bound, cost int64) *rateguardv1.Event {
	e := settledOf("next", 1, id, lease, bound, cost)
	e.GetCostSettled().GetOutcome().OpenedBy = opener
	return e
}

// rest is the outcome of a lease of which that much was not taken.
func rest(id string, left, cost int64) *rateguardv1.Outcome {
	o := outcomeOf(id, left, proto.Int64(cost), cost > 0)
	o.Lease, o.BoundNanoUsd = true, nil
	return o
}

func leaseEnded(producer string, seq uint64, id string, left int64) *rateguardv1.Event {
	return event(producer, seq, noon, &rateguardv1.Event{Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{Outcome: rest(id, left, 0)}}})
}

func TestLeases(t *testing.T) {
	for name, test := range map[string]struct {
		events []*rateguardv1.Event
		want   *rateguardv1.Sums
		// total counts requests alone.
		total *rateguardv1.Sums
		notes string
	}{
		"a lease holds its amount": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100)},
			&rateguardv1.Sums{ReservedNanoUsd: 100, Opened: 1}, nil, "",
		},
		"what is taken passes from it": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30)},
			&rateguardv1.Sums{ReservedNanoUsd: 100, Opened: 2}, &rateguardv1.Sums{ReservedNanoUsd: 30, Opened: 1}, "",
		},
		"and ends by itself": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30), settled("p", 3, "r1", 30, 20)},
			&rateguardv1.Sums{ReservedNanoUsd: 70, PostedNanoUsd: 20, Opened: 2, Ended: 1}, &rateguardv1.Sums{PostedNanoUsd: 20, Opened: 1, Ended: 1}, "",
		},
		"the rest is given back, before or after that": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30), leaseEnded("p", 3, "l", 70), settled("p", 4, "r1", 30, 20)},
			&rateguardv1.Sums{PostedNanoUsd: 20, Opened: 2, Ended: 2}, &rateguardv1.Sums{PostedNanoUsd: 20, Opened: 1, Ended: 1}, "",
		},
		"a closing charges what nobody knows of": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30), closed(1, "p", 2, expired("r1", 30, 30), rest("l", 70, 70))},
			&rateguardv1.Sums{PostedNanoUsd: 100, Opened: 2, Ended: 2, Estimated: 2}, &rateguardv1.Sums{PostedNanoUsd: 100, Opened: 1, Ended: 1, Estimated: 2}, "",
		},
		"what surfaces later is charged as itself once it has ended": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100), closed(1, "p", 1, rest("l", 100, 100)), taken("p", 2, "r1", "l", 30), settledOf("p", 3, "r1", "l", 30, 20)},
			&rateguardv1.Sums{PostedNanoUsd: 90, Opened: 2, Ended: 2, Estimated: 1}, &rateguardv1.Sums{PostedNanoUsd: 90, Opened: 1, Ended: 1, Estimated: 1}, "",
		},
		"and is part of the charge until then, which may be for ever": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100), closed(1, "p", 1, rest("l", 100, 100)), taken("p", 2, "r1", "l", 30)},
			&rateguardv1.Sums{PostedNanoUsd: 100, Opened: 1, Ended: 1, Estimated: 1}, &rateguardv1.Sums{PostedNanoUsd: 100, Estimated: 1}, "",
		},
		"the next process on its folder ends it as well": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100), closed(1, "p", 1, rest("l", 100, 100)), taken("p", 2, "r1", "l", 30), leftover("r1", "l", "p", 30, 25)},
			&rateguardv1.Sums{PostedNanoUsd: 95, Opened: 2, Ended: 2, Estimated: 1}, &rateguardv1.Sums{PostedNanoUsd: 95, Opened: 1, Ended: 1, Estimated: 1}, "",
		},
		"the end of a lease that surfaces later takes the rest of the charge back": {
			[]*rateguardv1.Event{
				leased("p", 1, "l", 100), closed(1, "p", 1, rest("l", 100, 100)), taken("p", 2, "r1", "l", 30), settledOf("p", 3, "r1", "l", 30, 20), leaseEnded("p", 4, "l", 70),
			},
			&rateguardv1.Sums{PostedNanoUsd: 20, Opened: 2, Ended: 2, Corrected: 1}, &rateguardv1.Sums{PostedNanoUsd: 20, Opened: 1, Ended: 1, Corrected: 1}, "",
		},
		"and leaves what is for those that have not ended": {
			[]*rateguardv1.Event{leased("p", 1, "l", 100), closed(1, "p", 1, rest("l", 100, 100)), taken("p", 2, "r1", "l", 30), leaseEnded("p", 3, "l", 70)},
			&rateguardv1.Sums{PostedNanoUsd: 30, Opened: 1, Ended: 1, Corrected: 1, Estimated: 1}, &rateguardv1.Sums{PostedNanoUsd: 30, Corrected: 1, Estimated: 1}, "",
		},
		"which take it off when they end": {
			[]*rateguardv1.Event{
				leased("p", 1, "l", 100), closed(1, "p", 1, rest("l", 100, 100)), taken("p", 2, "r1", "l", 30), leaseEnded("p", 3, "l", 70), settledOf("p", 4, "r1", "l", 30, 20),
			},
			&rateguardv1.Sums{PostedNanoUsd: 20, Opened: 2, Ended: 2, Corrected: 1}, &rateguardv1.Sums{PostedNanoUsd: 20, Opened: 1, Ended: 1, Corrected: 1}, "",
		},
		"what had opened before the closing is ended by it, and its end corrects that": {
			[]*rateguardv1.Event{
				leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30), closed(1, "p", 2, expired("r1", 30, 30), rest("l", 70, 70)), settledOf("p", 3, "r1", "l", 30, 20),
			},
			&rateguardv1.Sums{PostedNanoUsd: 90, Opened: 2, Ended: 2, Corrected: 1, Estimated: 1}, nil, "",
		},
		"a lease that stood in Redis alone is charged, and its opening comes too late": {
			[]*rateguardv1.Event{closed(1, "p", 0, rest("l", 0, 100)), leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30), settledOf("p", 3, "r1", "l", 30, 20)},
			&rateguardv1.Sums{PostedNanoUsd: 90, Opened: 1, Ended: 2, Estimated: 1}, &rateguardv1.Sums{PostedNanoUsd: 90, Opened: 1, Ended: 1, Estimated: 1}, "",
		},
		"one that no closing knew is a lease like any other": {
			[]*rateguardv1.Event{closed(1, "p", 0), leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30), settledOf("p", 3, "r1", "l", 30, 20), leaseEnded("p", 4, "l", 70)},
			&rateguardv1.Sums{PostedNanoUsd: 20, Opened: 2, Ended: 2}, &rateguardv1.Sums{PostedNanoUsd: 20, Opened: 1, Ended: 1}, "",
		},
		"an opening that fills a hole behind all of that is part of the charge as well": {
			[]*rateguardv1.Event{
				leased("p", 1, "l", 100), closed(1, "p", 1, rest("l", 100, 100)), leaseEnded("p", 3, "l", 70), taken("p", 2, "r1", "l", 30), settledOf("p", 4, "r1", "l", 30, 20),
			},
			&rateguardv1.Sums{PostedNanoUsd: 20, Opened: 2, Ended: 2, Corrected: 1}, nil, "sequence_hole",
		},
		"and one behind its own end changes nothing": {
			[]*rateguardv1.Event{
				leased("p", 1, "l", 100), closed(1, "p", 1, rest("l", 100, 100)), settledOf("p", 3, "r1", "l", 30, 20), taken("p", 2, "r1", "l", 30), leaseEnded("p", 4, "l", 70),
			},
			&rateguardv1.Sums{PostedNanoUsd: 20, Opened: 2, Ended: 2, Corrected: 1}, nil, "sequence_hole",
		},
		"repeats change nothing": {
			[]*rateguardv1.Event{
				leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30), leased("p", 1, "l", 100), taken("p", 2, "r1", "l", 30), leaseEnded("p", 3, "l", 70), leaseEnded("p", 3, "l", 70),
			},
			&rateguardv1.Sums{ReservedNanoUsd: 30, Opened: 2, Ended: 1}, &rateguardv1.Sums{ReservedNanoUsd: 30, Opened: 1}, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, notes := fold(test.events...)
			got := spend.Find(s, hold(0, noon))
			if !proto.Equal(got, test.want) || notes != test.notes {
				t.Errorf("got %v %q, want %v %q", got, notes, test.want, test.notes)
			}
			if test.total != nil && !proto.Equal(s.GetTotal(), test.total) {
				t.Errorf("in all %v, want %v", s.GetTotal(), test.total)
			}
		})
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// Whatever is taken, ends, is given back, closed and surfaces in which order: what is reserved is what is open, and what is posted is what was spent and what
// is charged for the unknown; never more than what was granted, as no call costs more than its bound here.
func TestLeasesAddUp(t *testing.T) {
	t.Parallel()
	type reservation struct {
		lease string
		bound int64
	}
	rapid.Check(t, func(t *rapid.T) {
		s := new(rateguardv1.SpendState)
		// late have taken from a lease that was charged, and not ended.
		left, open, late, charged := map[string]int64{}, map[string]reservation{}, map[string]reservation{}, map[string]int64{}
		seq, posted, granted, closing := uint64(0), int64(0), int64(0), false
		next := func() uint64 { seq++; return seq }
		pick := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(t, what) }
		apply := func(e *rateguardv1.Event) { spend.Fold(s, e) }
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch pick("what", 7) {
			case 0:
				if closing {
					continue
				}
				id, amount := fmt.Sprintf("l%d", i), rapid.Int64Range(1, 1000).Draw(t, "amount")
				apply(leased("p", next(), id, amount))
				left[id], granted = amount, granted+amount
			case 1, 2:
				for _, id := range sorted(left) {
					n := left[id]
					if n == 0 {
						continue
					}
					b := rapid.Int64Range(1, n).Draw(t, "bound")
					r := fmt.Sprintf("r%d", i)
					apply(taken("p", next(), r, id, b))
					left[id] -= b
					if open[r] = (reservation{id, b}); closing {
						late[r] = open[r]
						delete(open, r)
					}
					break
				}
			case 3:
				for _, id := range sorted(open) {
					r := open[id]
					cost := rapid.Int64Range(0, r.bound).Draw(t, "cost")
					apply(settledOf("p", next(), id, r.lease, r.bound, cost))
					posted += cost
					delete(open, id)
					break
				}
			case 6:
				for _, id := range sorted(late) {
					r := late[id]
					cost := rapid.Int64Range(0, r.bound).Draw(t, "cost")
					apply(settledOf("p", next(), id, r.lease, r.bound, cost))
					posted += cost
					charged[r.lease] -= r.bound
					delete(late, id)
					break
				}
			case 4:
				for _, id := range sorted(left) {
					n := left[id]
					apply(leaseEnded("p", next(), id, n))
					delete(left, id)
					if closing {
						charged[id] -= n
					}
					break
				}
			case 5:
				if closing || pick("close", 4) > 0 {
					continue
				}
				closing = true
				var ends []*rateguardv1.Outcome
				for id, r := range open {
					ends = append(ends, expired(id, r.bound, r.bound))
					posted += r.bound
				}
				for id, n := range left {
					ends = append(ends, rest(id, n, n))
					charged[id] = n
				}
				clear(open)
				apply(closed(1, "p", seq, ends...))
			}
			var reserved, unknown int64
			for _, r := range open {
				reserved += r.bound
			}
			for _, n := range charged {
				unknown += n
			}
			for _, n := range left {
				if !closing {
					reserved += n
				}
			}
			got := spend.Find(s, hold(0, noon))
			if got.GetReservedNanoUsd() != reserved || got.GetPostedNanoUsd() != posted+unknown || got.GetPostedNanoUsd()+got.GetReservedNanoUsd() > granted {
				t.Fatalf("%v; want %d reserved, %d and %d for the unknown posted, of %d", got, reserved, posted, unknown, granted)
			}
			if total := s.GetTotal(); total.GetPostedNanoUsd() != got.GetPostedNanoUsd() {
				t.Fatalf("in all %v, of the budget %v", total, got)
			}
		}
	})
}
