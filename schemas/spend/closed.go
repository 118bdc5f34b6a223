package spend

import (
	"cmp"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Closing is what a state knows of a reservation that the closing of its producer may have ended.
type Closing int

const (
	// ClosingUnknown means: nothing is held of the producer, or not of all that its closing ended.
	ClosingUnknown Closing = iota
	// ClosingEnded means: an accepted ProducerClosed ended it.
	ClosingEnded
	// ClosingNot means: none did.
	ClosingNot
)

// EndedByClosing says whether a ProducerClosed that is in the state ended a reservation of the producer.
func EndedByClosing(s *rateguardv1.SpendState, producer, reservation string) Closing {
	p := Producer(s, producer)
	if p == nil {
		return ClosingUnknown
	}
	if _, found := findEnd(p, reservation); found {
		return ClosingEnded
	}
	if p.GetClosedEndsCut() {
		return ClosingUnknown
	}
	return ClosingNot
}

// TakesOpening reports whether an opening by the producer is counted: it is not where the producer's closing ended the reservation already, or the lease that it was
// taken from. What it may cost is in what was charged for that lease then, and stays there until it ends: should its producer's disk be lost before, nobody would end it.
func TakesOpening(s *rateguardv1.SpendState, producer string, o *rateguardv1.ReservationOpened) bool {
	return Producer(s, producer).GetClosedAtUnixUs() == 0 ||
		EndedByClosing(s, producer, o.GetReservationId()) == ClosingNot && !chargedFor(s, producer, o.GetLeaseId())
}

// EndsCharged reports whether an event, which is still to be folded, ends a reservation whose opening was not counted, because the closing of its producer had ended the lease
// that it was taken from: its end takes off what was charged for the lease.
func EndsCharged(s *rateguardv1.SpendState, e *rateguardv1.Event) bool {
	o := outcomeOf(e)
	producer := OpenedBy(e, o)
	return chargedFor(s, producer, o.GetLeaseId()) && EndedByClosing(s, producer, o.GetReservationId()) == ClosingNot
}

// OpenedBy returns who opened what an event ends by itself.
func OpenedBy(e *rateguardv1.Event, o *rateguardv1.Outcome) string {
	return cmp.Or(o.GetOpenedBy(), e.GetProducerId())
}

// chargedFor reports whether the closing of a producer has ended its lease.
func chargedFor(s *rateguardv1.SpendState, producer, lease string) bool {
	return lease != "" && EndedByClosing(s, producer, lease) == ClosingEnded
}

// outcomeOf returns the outcome of an event that ends one reservation; nil for any other.
func outcomeOf(e *rateguardv1.Event) *rateguardv1.Outcome {
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_CostSettled:
		return body.CostSettled.GetOutcome()
	case *rateguardv1.Event_ReservationVoided:
		return body.ReservationVoided.GetOutcome()
	case *rateguardv1.Event_ReservationExpired:
		return body.ReservationExpired.GetOutcome()
	case *rateguardv1.Event_LeaseEnded:
		return body.LeaseEnded.GetOutcome()
	}
	return nil
}
