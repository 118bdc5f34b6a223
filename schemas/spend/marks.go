package spend

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Kinds of notes.
const (
	noteHole          = "sequence_hole"
	noteHolesCut      = "sequence_holes_cut"
	noteClosedIgnored = "producer_closed_ignored"
	noteUnmatchedEnd  = "late_end_unmatched"
	notePeriodDropped = "budget_period_dropped"
	noteOverflow      = "sum_overflow"
	noteSkipped       = "record_skipped"
	notePostponed     = "budget_alerts_postponed"
)

// Producer returns what a state holds of a producer; nil when it holds nothing.
func Producer(s *rateguardv1.SpendState, id string) *rateguardv1.ProducerMark {
	if i, found := findProducer(s, id); found {
		return s.GetProducers()[i]
	}
	return nil
}

func findProducer(s *rateguardv1.SpendState, id string) (int, bool) {
	return slices.BinarySearchFunc(s.GetProducers(), id, func(e *rateguardv1.ProducerMark, id string) int { return cmp.Compare(e.GetProducerId(), id) })
}

// admit moves the marks for an event and reports whether it is new. An event without a
// producer or a sequence carries no promise of order and is always new.
func admit(s *rateguardv1.SpendState, e *rateguardv1.Event) (bool, []fold.Note) {
	id, seq := e.GetProducerId(), e.GetSequence()
	if id == "" || seq == 0 {
		return true, nil
	}
	i, found := findProducer(s, id)
	if !found {
		s.Producers = slices.Insert(s.Producers, i, &rateguardv1.ProducerMark{ProducerId: id})
	}
	isNew, notes := Take(s.Producers[i], seq)
	if seq == s.Producers[i].GetMark() && isNew {
		s.Producers[i].LastSeenUnixUs = max(s.Producers[i].GetLastSeenUnixUs(), e.GetOccurredAtUnixUs())
	}
	return isNew, notes
}

// Raise moves the mark of a producer to what is known to have been written before anything that is read: records up to it are repeats.
func Raise(s *rateguardv1.SpendState, producer string, mark uint64) {
	i, found := findProducer(s, producer)
	if !found {
		s.Producers = slices.Insert(s.Producers, i, &rateguardv1.ProducerMark{ProducerId: producer})
	}
	p := s.Producers[i]
	p.Mark = max(p.GetMark(), mark)
	p.Holes = slices.DeleteFunc(p.GetHoles(), func(h *rateguardv1.Hole) bool { return h.GetTo() <= mark })
	for _, h := range p.GetHoles() {
		h.From = max(h.GetFrom(), mark+1)
	}
}

// Take moves a producer's mark for a sequence, from 1, and reports whether a record with it is new: above the mark, or in a hole
// below it. It is the rule of repeats of everyone who reads the log.
func Take(p *rateguardv1.ProducerMark, seq uint64) (bool, []fold.Note) {
	if seq <= p.GetMark() {
		return fillHole(p, seq), nil
	}
	var notes []fold.Note
	if from := p.GetMark() + 1; seq > from {
		p.Holes = append(p.Holes, &rateguardv1.Hole{From: from, To: seq - 1})
		notes = append(notes, fold.Note{Kind: noteHole, Detail: fmt.Sprintf("producer %s: %d to %d", p.GetProducerId(), from, seq-1)})
		if n := len(p.GetHoles()); n > maxHoles {
			p.Holes = slices.Delete(p.Holes, 0, n-maxHoles)
			notes = append(notes, fold.Note{Kind: noteHolesCut, Detail: "producer " + p.GetProducerId()})
		}
	}
	p.Mark = seq
	return true, notes
}

// fillHole takes seq out of the holes and reports whether it was in one.
func fillHole(p *rateguardv1.ProducerMark, seq uint64) bool {
	for i, h := range p.GetHoles() {
		if seq < h.GetFrom() || seq > h.GetTo() {
			continue
		}
		var rest []*rateguardv1.Hole
		if seq > h.GetFrom() {
			rest = append(rest, &rateguardv1.Hole{From: h.GetFrom(), To: seq - 1})
		}
		if seq < h.GetTo() {
			rest = append(rest, &rateguardv1.Hole{From: seq + 1, To: h.GetTo()})
		}
		p.Holes = slices.Replace(p.Holes, i, i+1, rest...)
		return true
	}
	return false
}
