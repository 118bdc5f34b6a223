package spend

import rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"

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

// TakesOpening reports whether an opening by the producer is counted: it is not where the producer's closing ended the reservation already.
func TakesOpening(s *rateguardv1.SpendState, producer, reservation string) bool {
	return Producer(s, producer).GetClosedAtUnixUs() == 0 || EndedByClosing(s, producer, reservation) == ClosingNot
}
