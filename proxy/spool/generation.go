package spool

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// Generation is a stretch of the producer's log; AppendOpen says in which a reservation was opened, and AppendEnd is told.
type Generation uint64

// firstGeneration begins with the producer and stands in no log.
const firstGeneration Generation = 1

// maxGenerations bounds those that are remembered. Reservations that never end would let them grow for ever; neighbours are joined then,
// which only makes the watermark coarser.
const maxGenerations = 64

// generation is what is known of one that may still have open reservations, or has none and is the newest.
type generation struct {
	n     Generation
	began time.Time
	// open counts its reservations without an end.
	open int64
	// from are the ends of the partitions before its first record was appended: all of its records stand behind them.
	from offsets
}

// offsets are places in the topics that a producer is read from, by partition.
type offsets struct{ costs, requests map[int32]int64 }

// records returns how many records stand between earlier offsets and these.
func (o offsets) records(earlier offsets) int64 {
	var n int64
	for p, end := range o.costs {
		n += end - earlier.costs[p]
	}
	for p, end := range o.requests {
		n += end - earlier.requests[p]
	}
	return n
}

// enter counts a reservation into the newest generation. Call with the append lock held.
func (s *Spool) enter() Generation {
	g := &s.generations[len(s.generations)-1]
	g.open++
	return g.n
}

// leave counts a reservation out of its generation, or the one that has been joined with. Call with the append lock held.
func (s *Spool) leave(n Generation) {
	for i := len(s.generations) - 1; i >= 0; i-- {
		if g := &s.generations[i]; g.n <= n {
			g.open = max(0, g.open-1)
			return
		}
	}
}

// beginGeneration appends GenerationStarted to every partition and begins a generation there. The offsets are the ends of the partitions, listed
// before the call: what is appended from now on comes behind them, wherever it goes and however often it is shipped. The marks
// are those of the place in the log, so that the append lock is held while they are gathered: about a millisecond for 10,000 workspaces.
func (s *Spool) beginGeneration(from offsets) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest++                                                            // also where it comes to nothing: a number is used once
	records, err := s.generationRecords(s.newest, int32(len(from.costs))) //nolint:gosec // a number of partitions
	if err != nil {
		return err
	}
	size, err := s.checkSize(plain, records)
	if err == nil {
		_, err = s.appendLocked(plain, 0, records, size, 0)
	}
	if err != nil {
		return fmt.Errorf("beginning generation: %w", err)
	}
	s.sync.note()
	s.wakeShipper()
	if len(s.generations) >= maxGenerations {
		s.joinGenerations()
	}
	s.generations = append(s.generations, generation{n: s.newest, began: time.Now(), from: from})
	s.sinceBegan = 0
	return nil
}

// generationRecords makes the GenerationStarted of every partition.
func (s *Spool) generationRecords(n Generation, partitions int32) ([]Record, error) {
	if partitions == 0 {
		return nil, errors.New("beginning generation: topic without partitions")
	}
	marks := make(map[string]*rateguardv1.WorkspaceMarks, len(s.sequences))
	for k, seq := range s.sequences {
		if hash.IsPartitionKey(k.key) || k.topic != topics.Costs.Name && k.topic != topics.Requests.Name {
			continue
		}
		m := marks[k.key]
		if m == nil {
			m = &rateguardv1.WorkspaceMarks{WorkspaceId: k.key}
			marks[k.key] = m
		}
		if k.topic == topics.Costs.Name {
			m.Costs = *seq
		} else {
			m.Requests = *seq
		}
	}
	bodies := make([]*rateguardv1.GenerationStarted, partitions)
	for p := range bodies {
		bodies[p] = &rateguardv1.GenerationStarted{ProducerId: s.id, Generation: uint64(n), Partition: int32(p)}
	}
	for ws, m := range marks {
		p := hash.Partition([]byte(ws), partitions)
		bodies[p].Marks = append(bodies[p].Marks, m)
	}
	records := make([]Record, partitions)
	for p, body := range bodies {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, fmt.Errorf("minting event id: %w", err)
		}
		e := &rateguardv1.Event{
			Id: id.String(), OccurredAtUnixUs: time.Now().UnixMicro(), Body: &rateguardv1.Event_GenerationStarted{GenerationStarted: body},
		}
		b, err := envelope.Encode(e)
		if err != nil {
			return nil, fmt.Errorf("beginning generation: %w", err)
		}
		records[p] = Record{
			Topic: topics.Costs, Key: hash.PartitionKey(body.GetPartition(), partitions), Value: b, Headers: envelope.Headers(e, ""), Unnumbered: true,
		}
	}
	return records, nil
}

// joinGenerations joins every second generation with the one before it.
func (s *Spool) joinGenerations() {
	joined := s.generations[:0]
	for i, g := range s.generations {
		if i%2 == 1 {
			joined[len(joined)-1].open += g.open
			continue
		}
		joined = append(joined, g)
	}
	s.generations = joined
}

// settledGeneration returns the newest generation before which every reservation has its end in the spool, and the position behind all of those
// ends. It reports false when nothing has changed since the generation n, or when this producer is closed.
func (s *Spool) settledGeneration(n Generation) (generation, position, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.generations, func(g generation) bool { return g.open > 0 })
	if i < 0 {
		i = len(s.generations) - 1
	}
	s.generations = slices.Delete(s.generations, 0, i)
	g := s.generations[0]
	return g, s.w.position(), !s.closed && !s.fenced && g.n > max(n, firstGeneration)
}

// worthGeneration reports whether a new generation would save more than it costs. A reader is saved what the topics have grown by; the marks of all workspaces are
// an eighth of what was appended since, at most, or come once in a while.
func (s *Spool) worthGeneration(ends offsets) bool {
	const (
		markBytes   = 24 // of one topic
		marksPart   = 8
		idlePeriods = 20
	)
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.generations[len(s.generations)-1]
	if ends.records(last.from) < s.cfg.LowWaterRecords || s.closed || s.fenced {
		return false
	}
	return s.sinceBegan >= int64(len(s.sequences))*markBytes*marksPart || time.Since(last.began) >= idlePeriods*s.cfg.LowWaterEvery
}
