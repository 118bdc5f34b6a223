package closing

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// Record is what has to be appended. Its event has an id where that has a meaning.
type Record struct {
	Topic     topics.Topic
	Workspace string
	Event     *rateguardv1.Event
	// Ends is how many reservations it ends.
	Ends int
}

// Unopened returns, by workspace, the reservations that Redis shows and the log neither opened nor ended.
func (s *State) Unopened() map[string][]string {
	out := make(map[string][]string)
	for ws, entries := range s.held {
		if len(entries) > 0 {
			out[ws] = sorted(entries)
		}
	}
	return out
}

// TakeHeld makes calls of what the log shows nothing of.
func (s *State) TakeHeld() {
	for _, ws := range sorted(s.held) {
		w := s.workspace(ws, Place{Partition: -1})
		for _, id := range sorted(s.held[ws]) {
			e := s.held[ws][id]
			request, _, _ := strings.Cut(id, "/")
			w.call(request).attempts[id] = &attempt{held: &e, unshipped: true}
		}
		clear(s.held[ws])
	}
}

// Missing makes the ProducerClosed records that are still missing: first all of the costs topic, then
// all of the requests topic, since rows are made from ends that count. Where retention has left nothing that shows the
// mark, no ProducerClosed would be taken: of a dead producer the missing rows are leftovers then. An error means that one was asked for before and does not
// stand in the log: another would fare no better.
func (s *State) Missing(dead bool) ([]Record, error) {
	var records []Record
	for _, topic := range []topics.Topic{topics.Costs, topics.Requests} {
		for _, id := range sorted(s.workspaces) {
			w := s.workspaces[id]
			m := w.marks(topic.Name)
			if m.closed || dead && w.trimmed && m == &w.requests && m.mark() == 0 {
				continue
			}
			if !m.ask() {
				return nil, fmt.Errorf("closing producer %s in workspace %s: the broker did not take it into %s", s.producer, id, topic.Name)
			}
			c := &rateguardv1.ProducerClosed{ProducerId: s.producer, Mark: m.mark()}
			if topic.Name == topics.Costs.Name {
				c.Ends = w.ends()
			} else {
				c.Rows = w.rows()
				lighten(c, topic)
			}
			records = append(records, Record{topic, id, &rateguardv1.Event{Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: c}}, len(c.GetEnds())})
		}
		if len(records) > 0 {
			return records, nil
		}
	}
	return nil, nil
}

// lighten leaves out what clients said about their requests where a closing would be too large for the broker even if
// nothing of it can be compressed. What is left of a row is small and much alike.
func lighten(c *rateguardv1.ProducerClosed, topic topics.Topic) {
	if proto.Size(c) <= int(topic.MaxMessageBytes)/4*3 {
		return
	}
	for _, row := range c.GetRows() {
		row.Context = nil
	}
}

// Leftovers ends what stands in the log behind an accepted ProducerClosed, as records of their appender: an old
// disk that comes back after its producer was closed brings openings that nobody else can end, and
// rows that the consumers dropped. Their event ids name the producer, so that whoever closes it again after a
// crash finds them.
func (s *State) Leftovers() []Record {
	var records []Record
	for _, id := range sorted(s.workspaces) {
		w := s.workspaces[id]
		for _, o := range w.ends() {
			o.OpenedBy = s.producer
			e := &rateguardv1.Event{Id: leftoverID(s.producer, o.GetReservationId())}
			switch {
			case o.GetKind() == rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED:
				e.Body = &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: o}}
			case o.GetKind() == rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED: // nothing but a lease ends so here
				e.Body = &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{Outcome: o}}
			default:
				e.Body = &rateguardv1.Event_ReservationExpired{ReservationExpired: &rateguardv1.ReservationExpired{Outcome: o}}
			}
			records = append(records, Record{topics.Costs, id, e, 1})
			w.end(o)
		}
		for _, row := range w.rows() {
			records = append(records, Record{topics.Requests, id, &rateguardv1.Event{
				Id: leftoverID(s.producer, row.GetRequestId()), Body: &rateguardv1.Event_RequestRecorded{RequestRecorded: row},
			}, 0})
			w.record(row, false)
		}
	}
	return records
}

// Generation is the one that reading begins with; 0: with the producer.
func (s *State) Generation() uint64 { return s.generation }

// Begun returns in how many partitions of the costs topic the generation has begun, and whether a closing stands before that in one of them.
func (s *State) Begun() (partitions int, early bool) { return len(s.begun), s.early }

// Read counts the records of the generation.
func (s *State) Read() int { return s.read }

// Trim notes that retention took rows of a partition of the requests topic which may be the producer's, and the time (µs) of the oldest record that is left.
func (s *State) Trim(partition int32, oldestUS int64) { s.trimmed[partition] = oldestUS }

// Trimmed reports whether there is a partition of which retention took rows.
func (s *State) Trimmed() bool { return len(s.trimmed) > 0 }

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
