// Package closing decides what ends a producer that is gone: from what the log and Redis show of it to the records that have to be appended. It does no
// I/O, so that every order of events can be tried on it.
package closing

import (
	"maps"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// State is what the log shows of one producer. It follows the rules of the consumers: repeats are
// dropped by sequence, the first ProducerClosed with the right mark counts.
type State struct {
	producer string
	// generation is the one that reading begins with; 0: with the producer.
	generation uint64
	// begun are the partitions of the costs topic whose GenerationStarted was read, and bases what it says of workspaces: what the producer
	// wrote up to these marks is ended, and what comes of it later is a repeat.
	begun map[int32]bool
	bases map[string]*rateguardv1.WorkspaceMarks
	// early: a closing stands before the GenerationStarted of its partition, and by which marks it was taken is not known.
	early bool
	// read counts the records of the generation.
	read       int
	workspaces map[string]*workspace
	// trimmed holds the partitions of the requests topic whose retention has taken rows that may be the producer's,
	// with the time of the oldest record that is left (µs).
	trimmed map[int32]int64
	// held is what Redis shows of the producer and the log does not, by workspace and reservation. What is neither opened nor ended when
	// the log is read was never shipped.
	held map[string]map[string]lua.Entry
	// complete: the log has all that the producer ever opened, so that nothing was sent for what is left of its leases.
	complete bool
}

// Place is where a record stands: its partition, and when it was appended to its spool (µs). Both records of an end say the same time.
type Place struct {
	Partition int32
	AtUS      int64
}

type workspace struct {
	costs, requests marks
	// trimmed: rows of the producer may be gone from the topic of requests.
	trimmed bool
	// shown is the smallest sequence of an own end whose row is in the topic; 0: none. Rows are as ordered as ends.
	shown uint64
	// calls are the forwarded requests that still lack an end or a row.
	calls map[string]*call
	// held is State.held of this workspace, and complete State.complete.
	held     map[string]lua.Entry
	complete bool
	// taken is what reservations have taken from each hold of a lease, by its id, in nano-USD.
	taken map[string]int64
}

// call is one forwarded request: its reservations and its row.
type call struct {
	attempts map[string]*attempt
	row      *rateguardv1.RequestRecorded
	// refused: the row came after the producer's Closed on the requests topic; consumers dropped it.
	refused *rateguardv1.RequestRecorded
	// ended is the sequence of the producer's own end on the costs topic; 0: it wrote none.
	ended uint64
}

type attempt struct {
	opened *rateguardv1.ReservationOpened
	end    *rateguardv1.Outcome
	// held is what Redis shows of it; unshipped says that nothing else does.
	held      *lua.Entry
	unshipped bool
}

// New returns the state of a producer of which nothing is read yet. Held is what Redis shows of it, by workspace and reservation. Complete says that the log will show
// all that it ever opened.
func New(status *rateguardv1.ProducerStatus, held map[string]map[string]lua.Entry, complete bool) *State {
	own := make(map[string]map[string]lua.Entry, len(held)) // reading takes entries out
	for ws, entries := range held {
		own[ws] = maps.Clone(entries)
	}
	return &State{
		complete: complete,
		producer: status.GetProducerId(), generation: status.GetGeneration(), held: own, workspaces: make(map[string]*workspace),
		trimmed: make(map[int32]int64), begun: make(map[int32]bool), bases: make(map[string]*rateguardv1.WorkspaceMarks),
	}
}

func (s *State) workspace(key string, at Place) *workspace {
	w := s.workspaces[key]
	if w == nil {
		_, trimmed := s.trimmed[at.Partition] // a workspace has one partition number in both topics
		w = &workspace{calls: make(map[string]*call), trimmed: trimmed, held: s.held[key], complete: s.complete, taken: make(map[string]int64)}
		base := s.bases[key]
		w.costs.begin(base.GetCosts())
		w.requests.begin(base.GetRequests())
		s.workspaces[key] = w
	}
	return w
}

func (w *workspace) call(request string) *call {
	c := w.calls[request]
	if c == nil {
		c = &call{attempts: make(map[string]*attempt)}
		w.calls[request] = c
	}
	return c
}

func (w *workspace) marks(topic string) *marks {
	if topic == topics.Requests.Name {
		return &w.requests
	}
	return &w.costs
}

// Fields of Event that concern looks at.
const (
	fieldID             protowire.Number = 1
	fieldProducerID     protowire.Number = 3
	fieldProducerClosed protowire.Number = 28
)

// leftoverID is the id of an event that ends something of a closed producer in another's name.
func leftoverID(producer, of string) string { return "leftover/" + producer + "/" + of }

// Concerns reports whether an encoded event is about the producer: written by it, closing somebody, or ending
// what stood behind its closing. Most of the log is none of these, and is not decoded.
func (s *State) Concerns(value []byte) bool {
	for len(value) > 0 {
		num, typ, n := protowire.ConsumeTag(value)
		if n < 0 {
			return false
		}
		value = value[n:]
		if num == fieldProducerClosed {
			return true
		}
		if (num == fieldProducerID || num == fieldID) && typ == protowire.BytesType {
			id, n := protowire.ConsumeBytes(value)
			if n >= 0 && (num == fieldProducerID && string(id) == s.producer || num == fieldID && s.isLeftover(string(id))) {
				return true
			}
		}
		if n = protowire.ConsumeFieldValue(num, typ, value); n < 0 {
			return false
		}
		value = value[n:]
	}
	return false
}

func (s *State) isLeftover(id string) bool { return strings.HasPrefix(id, leftoverID(s.producer, "")) }

// Apply takes one event of a topic, in the order of its partition.
func (s *State) Apply(topic, key string, at Place, e *rateguardv1.Event) {
	if g := e.GetGenerationStarted(); g != nil {
		s.begin(at, g)
		return
	}
	if hash.IsPartitionKey(key) {
		return
	}
	before := topic == topics.Costs.Name && !s.isBegun(at.Partition)
	if c := e.GetProducerClosed(); c != nil {
		if c.GetProducerId() == s.producer {
			s.early = s.early || before
			s.applyClosed(topic, key, at, c)
		}
		return
	}
	if before {
		s.endHeld(key, e)
		return
	}
	if !s.isLeftover(e.GetId()) && (e.GetProducerId() != s.producer || e.GetSequence() == 0) {
		return
	}
	s.read++
	w, refused := s.workspace(key, at), false
	if !s.isLeftover(e.GetId()) { // those are numbered by another; a repeat of one changes nothing
		m := w.marks(topic)
		if !m.take(e.GetSequence()) {
			return
		}
		refused = m.closed
	}
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		w.open(b.ReservationOpened)
	case *rateguardv1.Event_CostSettled:
		s.ownEnd(w, at, e, b.CostSettled.GetOutcome())
	case *rateguardv1.Event_ReservationVoided:
		s.ownEnd(w, at, e, b.ReservationVoided.GetOutcome())
	case *rateguardv1.Event_ReservationExpired:
		s.ownEnd(w, at, e, b.ReservationExpired.GetOutcome())
	case *rateguardv1.Event_LeaseEnded:
		w.end(b.LeaseEnded.GetOutcome())
	case *rateguardv1.Event_RequestRecorded:
		w.record(b.RequestRecorded, refused)
	default: // not part of a request's life
	}
}

// isBegun reports whether what is read of a partition of the costs topic belongs to the generation or a later one.
func (s *State) isBegun(partition int32) bool { return s.generation == 0 || s.begun[partition] }

// begin takes the marks at which the generation begins in a partition.
func (s *State) begin(at Place, g *rateguardv1.GenerationStarted) {
	if g.GetProducerId() != s.producer || g.GetGeneration() != s.generation {
		return
	}
	s.begun[at.Partition] = true
	for _, m := range g.GetMarks() {
		s.bases[m.GetWorkspaceId()] = m
	}
}

// endHeld forgets what Redis still shows of a reservation that ended before the generation.
func (s *State) endHeld(workspace string, e *rateguardv1.Event) {
	var o *rateguardv1.Outcome
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_CostSettled:
		o = b.CostSettled.GetOutcome()
	case *rateguardv1.Event_ReservationVoided:
		o = b.ReservationVoided.GetOutcome()
	case *rateguardv1.Event_ReservationExpired:
		o = b.ReservationExpired.GetOutcome()
	case *rateguardv1.Event_LeaseEnded:
		o = b.LeaseEnded.GetOutcome()
	default: // ends nothing
	}
	delete(s.held[workspace], o.GetReservationId())
}

func (s *State) applyClosed(topic, key string, at Place, c *rateguardv1.ProducerClosed) {
	w := s.workspace(key, at)
	if !w.marks(topic).accept(c.GetMark()) {
		return
	}
	for _, o := range c.GetEnds() {
		w.end(o)
	}
	for _, row := range c.GetRows() {
		w.record(row, false)
	}
}

// ownEnd takes an end that an event carries. Its row stood beside it in the spool: where retention took rows of that
// time, the row is taken for seen, or all that the producer ever served would be written again.
func (s *State) ownEnd(w *workspace, at Place, e *rateguardv1.Event, o *rateguardv1.Outcome) {
	id := o.GetSubject().GetRequestId()
	if w.trimmed && e.GetProducerId() == s.producer {
		if at.AtUS < s.trimmed[at.Partition] {
			delete(w.calls, id)
			return
		}
		c := w.call(id)
		c.ended = e.GetSequence()
		w.show(c)
	}
	w.end(o)
}

// show notes an end whose row is in the topic.
func (w *workspace) show(c *call) {
	if w.trimmed && c.ended > 0 && c.row != nil && (w.shown == 0 || c.ended < w.shown) {
		w.shown = c.ended
	}
}

func (w *workspace) open(o *rateguardv1.ReservationOpened) {
	if id := o.GetLeaseId(); id != "" && len(o.GetHolds()) > 0 {
		w.taken[id] += o.GetHolds()[0].GetAmountNanoUsd()
	}
	c := w.call(o.GetSubject().GetRequestId())
	a := c.attempts[o.GetReservationId()]
	if a == nil {
		a = new(attempt)
		c.attempts[o.GetReservationId()] = a
	}
	a.opened, a.unshipped = o, false // it was shipped while the closing went on: its amounts are in the sums
	if e, held := w.held[o.GetReservationId()]; held {
		a.held = &e
		delete(w.held, o.GetReservationId())
	}
}

// ended forgets what Redis holds of a reservation that the log has ended.
func (w *workspace) ended(reservation string) { delete(w.held, reservation) }

// end notes the first end of a reservation; later ones are corrections of it.
func (w *workspace) end(o *rateguardv1.Outcome) {
	id := o.GetSubject().GetRequestId()
	c := w.call(id)
	a := c.attempts[o.GetReservationId()]
	if a == nil {
		a = new(attempt)
		c.attempts[o.GetReservationId()] = a
	}
	if a.end == nil {
		a.end = o
	}
	w.ended(o.GetReservationId())
	if o.GetLease() {
		delete(w.taken, o.GetReservationId())
		if o.GetCostNanoUsd() == 0 {
			delete(w.calls, id) // it was no request and cost nothing: it has no row
			return
		}
	}
	w.prune(id, c)
}

func (w *workspace) record(row *rateguardv1.RequestRecorded, refused bool) {
	if len(row.GetReservationIds()) == 0 {
		return // never forwarded: nothing to end
	}
	c := w.call(row.GetRequestId())
	switch {
	case c.row != nil:
	case refused:
		c.refused = row
	default:
		c.row = row
		w.show(c)
	}
	w.prune(row.GetRequestId(), c)
}

// prune forgets a request whose life is complete, which keeps the state as small as what is open.
func (w *workspace) prune(id string, c *call) {
	if c.row == nil || len(c.attempts) < len(c.row.GetReservationIds()) {
		return
	}
	for _, a := range c.attempts {
		if a.opened == nil && !a.unshipped || a.end == nil {
			return
		}
	}
	delete(w.calls, id)
}
