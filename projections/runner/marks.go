package runner

import (
	"encoding/json"
	"slices"
)

// Mark is what is known of one producer in one workspace: the largest sequence that came, and which
// smaller ones never did.
type Mark struct {
	Sequence uint64
	// Holes are closed intervals, ascending.
	Holes []Hole
	// Closed says that the producer's ProducerClosed was accepted.
	Closed bool
}

// Hole is an interval of sequences that never came.
type Hole struct{ From, To uint64 }

// MarshalJSON writes [from,to].
func (h Hole) MarshalJSON() ([]byte, error) { return json.Marshal([2]uint64{h.From, h.To}) }

// UnmarshalJSON reads [from,to].
func (h *Hole) UnmarshalJSON(b []byte) error {
	var pair [2]uint64
	if err := json.Unmarshal(b, &pair); err != nil {
		return err
	}
	h.From, h.To = pair[0], pair[1]
	return nil
}

// Observe takes a sequence. It reports whether its record is new, and how many sequences were skipped
// by it. A record that fills a hole is new: a dead letter that was sent again comes so.
func (m *Mark) Observe(sequence uint64) (fresh bool, skipped uint64) {
	if sequence > m.Sequence {
		skipped = sequence - m.Sequence - 1
		if skipped > 0 {
			m.Holes = append(m.Holes, Hole{m.Sequence + 1, sequence - 1})
		}
		m.Sequence = sequence
		return true, skipped
	}
	for i, h := range m.Holes {
		if sequence < h.From || sequence > h.To {
			continue
		}
		var rest []Hole
		if h.From < sequence {
			rest = append(rest, Hole{h.From, sequence - 1})
		}
		if sequence < h.To {
			rest = append(rest, Hole{sequence + 1, h.To})
		}
		m.Holes = slices.Replace(slices.Clone(m.Holes), i, i+1, rest...)
		return true, 0
	}
	return false, 0
}

// Refuse takes the sequence of a record that came and cannot be applied: it stays a hole until the record is sent
// again, and it counts for the closing of its producer, whose closer has seen it.
func (m *Mark) Refuse(sequence uint64) {
	if sequence <= m.Sequence {
		return
	}
	m.Holes = append(m.Holes, Hole{m.Sequence + 1, sequence})
	m.Sequence = sequence
}

// Close takes a ProducerClosed that names the producer's largest sequence. It is accepted once, and only if nothing
// of the producer came that its closer had not seen.
func (m *Mark) Close(sequence uint64) bool {
	if m.Closed || m.Sequence != sequence {
		return false
	}
	m.Closed = true
	return true
}
