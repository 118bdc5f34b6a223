package rebuild

// marks is what a consumer remembers of one producer in one workspace and topic.
type marks struct {
	mark  uint64
	holes map[uint64]struct{}
	// closed: a ProducerClosed was accepted.
	closed bool
	// asked: we wrote a ProducerClosed, with the mark askedAt.
	asked   bool
	askedAt uint64
}

// ask notes that a ProducerClosed with the present mark is written. It reports false when one was before: that is read by
// now and was not there, so another would fare no better.
func (m *marks) ask() bool {
	if m.asked && m.askedAt == m.mark {
		return false
	}
	m.asked, m.askedAt = true, m.mark
	return true
}

// take reports whether a record of that sequence is new; a repeat changes nothing.
func (m *marks) take(seq uint64) bool {
	if seq <= m.mark {
		_, hole := m.holes[seq]
		delete(m.holes, seq)
		return hole
	}
	for missing := m.mark + 1; missing < seq; missing++ {
		if m.holes == nil {
			m.holes = make(map[uint64]struct{})
		}
		m.holes[missing] = struct{}{}
	}
	m.mark = seq
	return true
}

// accept reports whether consumers take a ProducerClosed with that mark at this place, and notes it.
func (m *marks) accept(mark uint64) bool {
	if m.closed || mark != m.mark {
		return false
	}
	m.closed = true
	return true
}
