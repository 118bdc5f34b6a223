package costs

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics/hash"
)

// View is what the log shows of one partition. Producers, rounds and seals are those of records that were read, the latest round
// before them too. Only reading changes it.
type View struct {
	// Started is the offset of a producer's ProducerStarted, of those that began behind the start of what is read.
	Started map[string]int64
	// Sealed is the latest seal of a producer.
	Sealed map[string]Seal
	// Closed are the workspaces by producer in which a ProducerClosed of it was accepted: read, or among the
	// closings that a state remembers (7 days).
	Closed map[string]map[string]bool
	// Round is the round with the largest number; of two with the same number, the first in the log.
	Round Round
	// Next is the offset of the record that is read next.
	Next int64
	// Undecodable counts records that nobody can read, Misplaced those whose key belongs to another partition. Processors send both to
	// the dead letters, so neither is in any sum.
	Undecodable, Misplaced int

	partition, partitions int32
	start                 int64
	log                   *slog.Logger
	// generations are those that producers are read from.
	generations map[string]uint64
	workspaces  map[string]*Workspace
	// changed are the workspaces with records that no step has reported yet.
	changed map[string]bool
	round   *rateguardv1.Event
}

// Seal is a producer's answer to a round.
type Seal struct {
	N uint64
	// At is the offset of the first record with this number.
	At int64
}

// Round is a Round of the partition. Its zero value stands for none.
type Round struct {
	N uint64
	// By is the producer that wrote it.
	By string
	// At is the offset of its record; -1 when it stands before what is read, and so before every Started of the view. Of a producer that is
	// closed a repeat may be taken for it: then At is too late and never too early.
	At int64
}

// NewView returns the view of a partition, of which nothing is read yet, from its start.
func NewView(partition, partitions int32, log *slog.Logger) *View {
	return &View{
		Started: make(map[string]int64), Sealed: make(map[string]Seal), Closed: make(map[string]map[string]bool),
		partition: partition, partitions: partitions, log: log,
		workspaces: make(map[string]*Workspace), changed: make(map[string]bool),
	}
}

func newView(o Options, b *base) (*View, error) {
	v := NewView(o.Partition, b.partitions, o.Log)
	v.Next, v.start, v.generations = b.start, b.start, b.generations
	for key, r := range b.rows {
		if hash.IsPartitionKey(key) {
			if len(r.state) == 0 {
				continue
			}
			e, err := envelope.Decode(r.state)
			if err != nil {
				return nil, fmt.Errorf("reading the round of costs/%d: %w", o.Partition, err)
			}
			v.takeRound(e, -1)
			continue
		}
		s, err := spend.Decode(r.state)
		if err != nil {
			return nil, fmt.Errorf("reading workspace %s: %w", key, err)
		}
		v.workspaces[key] = newWorkspace(s, r.applied, b.start)
		for _, p := range s.GetProducers() {
			if p.GetClosedAtUnixUs() != 0 {
				v.close(p.GetProducerId(), key)
			}
		}
	}
	return v, nil
}

// Workspace returns what the log shows of a workspace; nil when it shows nothing.
func (v *View) Workspace(id string) *Workspace { return v.workspaces[id] }

// Workspaces returns the ids of all workspaces that the log or the table shows, sorted.
func (v *View) Workspaces() []string { return slices.Sorted(maps.Keys(v.workspaces)) }

// Touch makes the next batch report a step of a workspace even where it did not change, so that whoever follows it comes as far as the log.
func (v *View) Touch(id string) {
	if v.workspaces[id] == nil {
		v.workspaces[id] = newWorkspace(new(rateguardv1.SpendState), -1, v.start)
	}
	v.changed[id] = true
}

// Apply takes the next record. After an error nothing of it is in the view.
func (v *View) Apply(rec *kgo.Record) error {
	key := string(rec.Key)
	switch {
	case rec.Attrs.IsControl():
	case hash.Partition(rec.Key, v.partitions) != v.partition:
		v.Misplaced++
	default:
		e, err := envelope.Decode(rec.Value)
		if errors.Is(err, envelope.ErrNewerSchema) {
			// Processors of that release count it; this process would leave it out of its sums.
			return fmt.Errorf("reading offset %d: %w", rec.Offset, err)
		}
		if err != nil {
			v.Undecodable++
		}
		v.take(key, e, rec.Offset)
	}
	v.Next = rec.Offset + 1
	return nil
}

// take applies the event at an offset; nil for one that nobody can read, which moves the offsets only.
func (v *View) take(key string, e *rateguardv1.Event, offset int64) {
	if hash.IsPartitionKey(key) {
		if e != nil {
			v.takePartition(e, offset)
		}
		return
	}
	w := v.workspaces[key]
	if w == nil {
		w = newWorkspace(new(rateguardv1.SpendState), -1, v.start)
		v.workspaces[key] = w
	}
	v.changed[key] = true
	closed := w.apply(e, offset, func(kind, detail string) {
		v.log.Warn("fold note", slog.String("kind", kind), slog.String("detail", detail), slog.String("workspace", key))
	})
	for _, producer := range closed {
		v.close(producer, key)
	}
}

func (v *View) takePartition(e *rateguardv1.Event, offset int64) {
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_ProducerStarted:
		if _, seen := v.Started[b.ProducerStarted.GetProducerId()]; !seen {
			v.Started[b.ProducerStarted.GetProducerId()] = offset
		}
	case *rateguardv1.Event_GenerationStarted:
		v.beginGeneration(b.GenerationStarted)
	case *rateguardv1.Event_Seal:
		if s := b.Seal; s.GetN() > v.Sealed[s.GetProducerId()].N {
			v.Sealed[s.GetProducerId()] = Seal{N: s.GetN(), At: offset}
		}
	case *rateguardv1.Event_Round:
		v.takeRound(e, offset)
	default: // of no partition
	}
}

// beginGeneration takes the marks at which the generation begins that a producer is read from. All that it opened before is ended, so that what still looks open
// is a repeat of an opening whose end was not read, or is ended further on.
func (v *View) beginGeneration(g *rateguardv1.GenerationStarted) {
	if n, known := v.generations[g.GetProducerId()]; !known || n != g.GetGeneration() {
		return
	}
	for _, m := range g.GetMarks() {
		if w := v.workspaces[m.GetWorkspaceId()]; w != nil {
			w.begin(g.GetProducerId(), m.GetCosts())
		}
	}
}

func (v *View) takeRound(e *rateguardv1.Event, offset int64) {
	if latest := spend.LaterRound(v.round, e); latest != v.round {
		v.round = latest
		v.Round = Round{N: e.GetRound().GetN(), By: e.GetProducerId(), At: offset}
		return
	}
	// The table knew the round, and here is its record.
	if v.Round.At < 0 && e.GetRound().GetN() == v.Round.N && e.GetProducerId() == v.Round.By {
		v.Round.At = offset
	}
}

func (v *View) close(producer, workspace string) {
	if v.Closed[producer] == nil {
		v.Closed[producer] = make(map[string]bool)
	}
	v.Closed[producer][workspace] = true
}

// Steps returns a step for every workspace that changed. One whose sums are ahead of what is read waits until both agree.
func (v *View) Steps() []Step {
	var steps []Step
	for _, id := range slices.Sorted(maps.Keys(v.changed)) {
		w := v.workspaces[id]
		if w.behind != nil {
			continue
		}
		delete(v.changed, id)
		if w.reported >= v.Next-1 {
			continue // touched, and there already
		}
		taken, leases := w.since()
		steps = append(steps, Step{Workspace: id, From: w.reported, To: v.Next - 1, Ended: w.ended, Taken: taken, Leases: leases})
		w.reported, w.ended = v.Next-1, nil
	}
	return steps
}
