package closing

import (
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

// marks is what a consumer remembers of one producer in one workspace and topic.
type marks struct {
	held rateguardv1.ProducerMark
	// closed: a ProducerClosed was accepted.
	closed bool
	// asked: we wrote a ProducerClosed, with the mark askedAt.
	asked   bool
	askedAt uint64
}

// begin starts with a mark: what is numbered up to it is a repeat.
func (m *marks) begin(mark uint64) { m.held.Mark = mark }

// mark is the producer's largest sequence.
func (m *marks) mark() uint64 { return m.held.GetMark() }

// ask notes that a ProducerClosed with the present mark is written. It reports false when one was before: that is read by
// now and was not there, so another would fare no better.
func (m *marks) ask() bool {
	if m.asked && m.askedAt == m.mark() {
		return false
	}
	m.asked, m.askedAt = true, m.mark()
	return true
}

// take reports whether a record of that sequence is new; a repeat changes nothing.
func (m *marks) take(seq uint64) bool {
	isNew, _ := spend.Take(&m.held, seq) // holes are the alarm of those who keep the sums
	return isNew
}

// accept reports whether consumers take a ProducerClosed with that mark at this place, and notes it.
func (m *marks) accept(mark uint64) bool {
	if m.closed || mark != m.mark() {
		return false
	}
	m.closed = true
	return true
}
