// Package spend folds the costs topic into what each workspace has spent and holds: in all,
// by month and by budget period. It is separate so that the arithmetic of money is one pure function: processors keep
// its states in a table, and the proxy folds the tail of the log on top of them with the same code.
package spend

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Effect is what an event did to a state.
type Effect struct {
	// New: the event was applied. Otherwise it is a repeat, and only a hole may have been filled.
	New bool
	// Closed: the event is a ProducerClosed that was taken. One that is not the first, or has another mark, is ignored by everyone.
	Closed bool
	// Alerts are what the event made known of budgets, at most maxAlerts. The state notes each, so that none comes twice.
	Alerts []Alert
	Notes  []fold.Note
}

// Fold applies one event of the costs topic to a workspace's state, in place. It is pure:
// the clock is the latest time of the events themselves.
func Fold(s *rateguardv1.SpendState, e *rateguardv1.Event) Effect {
	isNew, notes := admit(s, e)
	if !isNew {
		return Effect{Notes: notes}
	}
	s.LatestUnixUs = max(s.GetLatestUnixUs(), e.GetOccurredAtUnixUs())
	f := folding{state: s, event: e, Effect: Effect{New: true, Notes: notes}}
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		f.open(body.ReservationOpened)
	case *rateguardv1.Event_CostSettled, *rateguardv1.Event_ReservationVoided, *rateguardv1.Event_ReservationExpired, *rateguardv1.Event_LeaseEnded:
		f.end(outcomeOf(e))
	case *rateguardv1.Event_CostCorrected:
		f.correct(body.CostCorrected)
	case *rateguardv1.Event_ProducerClosed:
		f.closeProducer(body.ProducerClosed)
	case *rateguardv1.Event_BudgetsInstalled:
		if s.GetBudgetsEpoch() == 0 {
			s.BudgetsEpoch, s.BudgetsInstalledBy = body.BudgetsInstalled.GetEpoch(), e.GetProducerId()
		}
	case *rateguardv1.Event_Skipped:
		f.note(noteSkipped, "producer "+e.GetProducerId())
	}
	prune(s)
	return f.Effect
}

// folding is one event on its way into a state.
type folding struct {
	Effect
	state *rateguardv1.SpendState
	event *rateguardv1.Event
	// postponed: there were more alerts than one event may raise.
	postponed bool
}

func (f *folding) note(kind, detail string) {
	f.Notes = append(f.Notes, fold.Note{Kind: kind, Detail: detail})
}

// open adds what a reservation holds, unless its producer was closed and the closing ended it before its opening came, or the lease that it is taken from: a closing also
// ends what stands nowhere but in Redis. Where it is not known what the closing ended, the end will not be counted either. What is taken from a lease is reserved already.
func (f *folding) open(o *rateguardv1.ReservationOpened) {
	if !TakesOpening(f.state, f.event.GetProducerId(), o) {
		return
	}
	open := func(sums *rateguardv1.Sums, hold *rateguardv1.Hold) {
		sums.Opened++
		if hold == nil || o.GetLeaseId() == "" {
			sums.ReservedNanoUsd = f.add(sums.GetReservedNanoUsd(), held(o.BoundNanoUsd, hold))
		}
	}
	if !o.GetLease() {
		f.eachTotal(o.GetSubject(), open)
	}
	f.eachHold(o.GetSubject(), o.GetHolds(), open)
}

// end applies a first end, unless its producer was closed and the closing ended the reservation already.
func (f *folding) end(o *rateguardv1.Outcome) {
	p := Producer(f.state, OpenedBy(f.event, o))
	if p.GetClosedAtUnixUs() == 0 {
		f.firstEnd(o)
		return
	}
	i, found := findEnd(p, o.GetReservationId())
	switch {
	case found:
		end := p.GetClosedEnds()[i]
		if o.GetLease() {
			o = restOf(end, o)
		}
		f.replace(o, end.CostNanoUsd, end.GetEstimated())
		end.CostNanoUsd, end.Estimated = o.CostNanoUsd, o.GetEstimated()
	case p.GetClosedEndsCut():
		// Counting it could charge twice, dropping it can at most leave an estimate standing.
		f.note(noteUnmatchedEnd, o.GetReservationId())
	case chargedFor(f.state, p.GetProducerId(), o.GetLeaseId()):
		i, _ := findEnd(p, o.GetLeaseId())
		f.endCharged(o, p.GetClosedEnds()[i])
	default:
		f.firstEnd(o)
	}
}

// restOf returns what an outcome, by which its holder gives a lease back, leaves of what a closing has charged for it: the part of those that have taken from it and not
// ended. It is no estimate once nothing is left.
func restOf(charge *rateguardv1.ClosedEnd, o *rateguardv1.Outcome) *rateguardv1.Outcome {
	left := charge.GetCostNanoUsd() - min(charge.GetCostNanoUsd(), HeldOfEach(o))
	return &rateguardv1.Outcome{Subject: o.GetSubject(), Holds: o.GetHolds(), CostNanoUsd: &left, Estimated: left > 0 && charge.GetEstimated()}
}

// HeldOfEach returns what an outcome of a lease, or of what was taken from one, holds of each budget, in nano-USD.
func HeldOfEach(o *rateguardv1.Outcome) int64 {
	if len(o.GetHolds()) == 0 {
		return 0
	}
	return o.GetHolds()[0].GetAmountNanoUsd()
}

// endCharged applies the end of a reservation whose opening was not counted, as what it may cost was charged for its lease: that charge is less by what it took.
func (f *folding) endCharged(o *rateguardv1.Outcome, charge *rateguardv1.ClosedEnd) {
	taken := min(charge.GetCostNanoUsd(), HeldOfEach(o))
	left := charge.GetCostNanoUsd() - taken
	settled := left == 0 && charge.GetEstimated()
	charge.CostNanoUsd, charge.Estimated = &left, charge.GetEstimated() && !settled
	f.each(o.GetSubject(), o.GetHolds(), func(sums *rateguardv1.Sums, _ *rateguardv1.Hold) {
		sums.Opened++
		sums.Ended++
		sums.PostedNanoUsd = f.add(f.add(sums.GetPostedNanoUsd(), o.GetCostNanoUsd()), -taken)
		sums.Estimated = step(sums.GetEstimated(), settled, false) + count(o.GetEstimated())
		sums.Unpriced += count(o.CostNanoUsd == nil)
	})
	f.alert(o)
}

func (f *folding) firstEnd(o *rateguardv1.Outcome) {
	end := func(sums *rateguardv1.Sums, hold *rateguardv1.Hold) {
		if hold != nil || !o.GetLease() { // a lease was never counted among the requests, and only what is charged for it is
			sums.Ended++
		}
		sums.ReservedNanoUsd = f.add(sums.GetReservedNanoUsd(), -held(o.BoundNanoUsd, hold))
		sums.PostedNanoUsd = f.add(sums.GetPostedNanoUsd(), o.GetCostNanoUsd())
		sums.Estimated += count(o.GetEstimated())
		sums.Unpriced += count(o.CostNanoUsd == nil)
	}
	f.each(o.GetSubject(), o.GetHolds(), end)
	f.alert(o)
}

func (f *folding) correct(c *rateguardv1.CostCorrected) {
	o := c.GetOutcome()
	// A correction of what a closing ended is what a late end of the same id is compared with.
	for _, p := range f.state.GetProducers() {
		if i, found := findEnd(p, o.GetReservationId()); found {
			p.ClosedEnds[i].CostNanoUsd, p.ClosedEnds[i].Estimated = o.CostNanoUsd, o.GetEstimated()
		}
	}
	f.replace(o, c.PreviousCostNanoUsd, c.GetPreviousEstimated())
}

// replace takes the difference between an outcome and the one it follows. The bound left the open sum with the first end.
func (f *folding) replace(o *rateguardv1.Outcome, previous *int64, previousEstimated bool) {
	if sameCost(o.CostNanoUsd, previous) && o.GetEstimated() == previousEstimated {
		return
	}
	f.each(o.GetSubject(), o.GetHolds(), func(sums *rateguardv1.Sums, _ *rateguardv1.Hold) {
		sums.Corrected++
		sums.PostedNanoUsd = f.add(f.add(sums.GetPostedNanoUsd(), o.GetCostNanoUsd()), -value(previous))
		sums.Estimated = step(sums.GetEstimated(), previousEstimated, o.GetEstimated())
		sums.Unpriced = step(sums.GetUnpriced(), previous == nil, o.CostNanoUsd == nil)
	})
	f.alert(o)
}

// closeProducer takes a ProducerClosed iff it is the first of that producer and its mark is the
// one held here: otherwise its maker has not seen what this log shows, and starts again.
func (f *folding) closeProducer(c *rateguardv1.ProducerClosed) {
	p := Producer(f.state, c.GetProducerId())
	mark := p.GetMark()
	if c.GetProducerId() == f.event.GetProducerId() && f.event.GetSequence() == mark && mark > 0 {
		mark-- // it closes itself: its mark before this record
	}
	if mark != c.GetMark() || p.GetClosedAtUnixUs() != 0 {
		f.note(noteClosedIgnored, fmt.Sprintf("producer %s: mark %d, held %d", c.GetProducerId(), c.GetMark(), mark))
		return
	}
	if p == nil { // nothing of it was ever seen here, and its maker says the same
		i, _ := findProducer(f.state, c.GetProducerId())
		p = &rateguardv1.ProducerMark{ProducerId: c.GetProducerId()}
		f.state.Producers = slices.Insert(f.state.Producers, i, p)
	}
	f.Closed = true
	// The fold's clock and not the event's: a clock that once was ahead would make every later closing look old.
	p.ClosedAtUnixUs = max(f.state.GetLatestUnixUs(), 1)
	cutClosedEnds(f.state, min(len(c.GetEnds()), maxClosedEnds))
	for _, o := range c.GetEnds() {
		f.firstEnd(o)
		if len(p.GetClosedEnds()) == maxClosedEnds {
			p.ClosedEndsCut = true
			continue
		}
		i, _ := findEnd(p, o.GetReservationId())
		p.ClosedEnds = slices.Insert(p.ClosedEnds, i,
			&rateguardv1.ClosedEnd{IdHash: idHash(o.GetReservationId()), CostNanoUsd: o.CostNanoUsd, Estimated: o.GetEstimated()})
	}
}

// each calls change with the total, the month of the opening and the period of every hold.
func (f *folding) each(subject *rateguardv1.Subject, holds []*rateguardv1.Hold, change func(*rateguardv1.Sums, *rateguardv1.Hold)) {
	f.eachTotal(subject, change)
	f.eachHold(subject, holds, change)
}

// eachTotal calls change with the total and the month of the opening, which count the whole reservation: hold is nil.
func (f *folding) eachTotal(subject *rateguardv1.Subject, change func(*rateguardv1.Sums, *rateguardv1.Hold)) {
	if f.state.GetTotal() == nil {
		f.state.Total = new(rateguardv1.Sums)
	}
	opened := subject.GetOpenedAtUnixUs()
	if opened == 0 {
		opened = f.event.GetOccurredAtUnixUs()
	}
	change(f.state.GetTotal(), nil)
	change(month(f.state, monthOf(opened)), nil)
}

// eachHold calls change with the period of every hold.
func (f *folding) eachHold(subject *rateguardv1.Subject, holds []*rateguardv1.Hold, change func(*rateguardv1.Sums, *rateguardv1.Hold)) {
	for _, h := range holds {
		p := period(f.state, h)
		if p == nil {
			f.note(notePeriodDropped, fmt.Sprintf("budget %s from %d", h.GetBudgetId(), h.GetPeriodStartUnixUs()))
			continue
		}
		noteLimit(p, subject, h)
		change(p.GetSums(), h)
	}
}

// add returns a+b and holds at the ends of int64, which no honest sum reaches.
func (f *folding) add(a, b int64) int64 {
	sum := a + b
	switch {
	case b > 0 && sum < a:
		f.note(noteOverflow, f.event.GetWorkspaceId())
		return 1<<63 - 1
	case b < 0 && sum > a:
		f.note(noteOverflow, f.event.GetWorkspaceId())
		return -1 << 63
	}
	return sum
}

// held is what a reservation takes from a sum: the hold's amount, or for sums without one its bound.
func held(bound *int64, hold *rateguardv1.Hold) int64 {
	if hold != nil {
		return hold.GetAmountNanoUsd()
	}
	return value(bound)
}

func value(v *int64) int64 {
	if v == nil {
		return 0
	}
	return *v
}

func sameCost(a, b *int64) bool { return (a == nil) == (b == nil) && value(a) == value(b) }

func count(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// step moves a count of ends that have a property, of which one had it before and has it now or not.
func step(n uint64, before, now bool) uint64 {
	n += count(now)
	if before && n > 0 {
		n--
	}
	return n
}

func findEnd(p *rateguardv1.ProducerMark, reservation string) (int, bool) {
	return slices.BinarySearchFunc(p.GetClosedEnds(), idHash(reservation), func(e *rateguardv1.ClosedEnd, id uint64) int { return cmp.Compare(e.GetIdHash(), id) })
}

func idHash(reservation string) uint64 {
	sum := sha256.Sum256([]byte(reservation))
	return binary.BigEndian.Uint64(sum[:8])
}
