package costs

import (
	"slices"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

// Workspace is what the log shows of one workspace.
type Workspace struct {
	// State holds its sums: of the table's row, and of every record behind it that was read.
	State *rateguardv1.SpendState
	// Open are the reservations without an end, by id. Those that were opened before what is read are not among them: Whole.
	Open map[string]Reservation
	// Last is the offset of the workspace's last record.
	Last int64

	// applied is the offset of the table's row; -1: there is none.
	applied int64
	// behind is set while records up to applied are read.
	behind *behind
	// unopened are reservations whose end was read and whose opening was not: one that fills a hole comes behind its end.
	unopened map[string]bool
	// reported is the offset up to which ends were reported, ended are those since; taken are the reservations that were opened since from a lease, and
	// leases what they were taken from.
	reported      int64
	ended         []string
	taken, leases map[string]bool
}

// Reservation is an open reservation.
type Reservation struct {
	// Opened lacks its request context, which is large and of use only for the row of its request.
	Opened *rateguardv1.ReservationOpened
	// Producer is who opened it and may end it.
	Producer string
	// At is the offset of its record.
	At int64
	// TakenNano is what reservations have taken from each hold of a lease, in nano-USD.
	TakenNano int64
}

// Lease reports whether it was reserved for requests to come.
func (r *Reservation) Lease() bool { return r.Opened.GetLease() }

// Amount returns what it holds of a hold of its own now, in nano-USD.
func (r *Reservation) Amount(h *rateguardv1.Hold) int64 { return h.GetAmountNanoUsd() - r.TakenNano }

// behind is the reading of records that the sums hold already. They change the entries, by the same rules.
type behind struct {
	// state is folded from what is read, for the marks; its sums are of no use.
	state *rateguardv1.SpendState
	// closings are all that was read. Which of them counted is known at the row's offset.
	closings []closing
}

type closing struct {
	producer string
	ends     []string
	// accepted: by the marks of what was read, which lack what a producer wrote before it.
	accepted bool
}

func newWorkspace(s *rateguardv1.SpendState, applied, start int64) *Workspace {
	w := &Workspace{
		State: s, Open: make(map[string]Reservation), Last: applied, applied: applied, reported: start - 1,
		unopened: make(map[string]bool), taken: make(map[string]bool), leases: make(map[string]bool),
	}
	if applied >= start {
		w.behind = &behind{state: new(rateguardv1.SpendState)}
	}
	return w
}

// apply takes the event at an offset, nil for one that nobody can read, and returns the producers that are closed here since. Notes
// of the fold go to note.
func (w *Workspace) apply(e *rateguardv1.Event, offset int64, note func(kind, detail string)) []string {
	w.Last = max(w.Last, offset)
	var closed []string
	if e != nil {
		closed = w.take(e, offset, note)
	}
	if w.behind != nil && offset >= w.applied {
		closed = w.arrive()
	}
	return closed
}

func (w *Workspace) take(e *rateguardv1.Event, offset int64, note func(kind, detail string)) []string {
	state := w.State
	if w.behind != nil {
		state = w.behind.state
	}
	did := spend.Fold(state, e)
	if w.behind == nil { // else whoever wrote the row has noted it
		for _, n := range did.Notes {
			note(n.Kind, n.Detail)
		}
	}
	id := endedBy(e)
	if !did.New {
		// The end counted before, so what looks open was opened by a repeat whose first was not read.
		if _, open := w.Open[id]; open {
			w.end(id)
		}
		return nil
	}
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		if spend.TakesOpening(state, e.GetProducerId(), b.ReservationOpened) {
			w.open(e.GetProducerId(), b.ReservationOpened, offset)
		}
	case *rateguardv1.Event_ProducerClosed:
		return w.close(b.ProducerClosed, did.Closed)
	default:
		if id != "" {
			w.end(id)
		}
	}
	return nil
}

// endedBy returns the reservation that an event ends by itself; empty for any other event.
func endedBy(e *rateguardv1.Event) string {
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_CostSettled:
		return b.CostSettled.GetOutcome().GetReservationId()
	case *rateguardv1.Event_ReservationVoided:
		return b.ReservationVoided.GetOutcome().GetReservationId()
	case *rateguardv1.Event_ReservationExpired:
		return b.ReservationExpired.GetOutcome().GetReservationId()
	case *rateguardv1.Event_LeaseEnded:
		return b.LeaseEnded.GetOutcome().GetReservationId()
	}
	return ""
}

func (w *Workspace) open(producer string, o *rateguardv1.ReservationOpened, offset int64) {
	w.takeFrom(o)
	if w.unopened[o.GetReservationId()] {
		delete(w.unopened, o.GetReservationId())
		return
	}
	o.Context = nil
	w.Open[o.GetReservationId()] = Reservation{Opened: o, Producer: producer, At: offset}
}

// takeFrom passes the holds of a reservation from its lease to it.
func (w *Workspace) takeFrom(o *rateguardv1.ReservationOpened) {
	if o.GetLeaseId() == "" || len(o.GetHolds()) == 0 {
		return
	}
	w.taken[o.GetReservationId()] = true
	if lease, open := w.Open[o.GetLeaseId()]; open {
		lease.TakenNano += o.GetHolds()[0].GetAmountNanoUsd()
		w.Open[o.GetLeaseId()] = lease
		w.leases[o.GetLeaseId()] = true
	}
}

// since returns which reservations were opened from leases since the last report, and which leases they were taken from, of those that are open; and forgets that.
func (w *Workspace) since() (taken, leases []string) {
	open := func(ids map[string]bool) (out []string) {
		for id := range ids {
			if _, there := w.Open[id]; there {
				out = append(out, id)
			}
		}
		clear(ids)
		slices.Sort(out)
		return out
	}
	return open(w.taken), open(w.leases)
}

// begin takes the mark of a producer all of whose reservations up to it are ended.
func (w *Workspace) begin(producer string, mark uint64) {
	for id, r := range w.Open {
		if r.Producer == producer {
			delete(w.Open, id)
		}
	}
	if w.behind != nil {
		spend.Raise(w.behind.state, producer, mark)
	}
}

func (w *Workspace) end(id string) {
	if _, open := w.Open[id]; !open {
		w.unopened[id] = true
	}
	delete(w.Open, id)
	w.ended = append(w.ended, id)
}

func (w *Workspace) close(c *rateguardv1.ProducerClosed, accepted bool) []string {
	if w.behind != nil {
		ids := make([]string, 0, len(c.GetEnds()))
		for _, o := range c.GetEnds() {
			ids = append(ids, o.GetReservationId())
		}
		w.behind.closings = append(w.behind.closings, closing{c.GetProducerId(), ids, accepted})
		return nil
	}
	if !accepted {
		return nil
	}
	for _, o := range c.GetEnds() {
		w.end(o.GetReservationId())
	}
	return []string{c.GetProducerId()}
}

// arrive is called once the reading has come to the row's offset: from here on the state's own marks decide. It also knows which closings
// counted, and what they ended; what was read cannot tell that of a producer that began before it.
func (w *Workspace) arrive() []string {
	var closed []string
	for _, c := range w.behind.closings {
		if spend.Producer(w.State, c.producer) == nil && c.accepted {
			closed = append(closed, c.producer) // so long ago that the state has forgotten it
		}
		for _, id := range c.ends {
			known := spend.EndedByClosing(w.State, c.producer, id)
			if known == spend.ClosingEnded || known == spend.ClosingUnknown && c.accepted {
				w.end(id)
			}
		}
	}
	// A closing before what was read: an opening that is shipped once more behind it looks new here, and is none. One from a lease that the closing ended is not counted.
	for id, r := range w.Open {
		from := r.Opened.GetLeaseId()
		if spend.EndedByClosing(w.State, r.Producer, id) == spend.ClosingEnded || from != "" && spend.EndedByClosing(w.State, r.Producer, from) != spend.ClosingNot {
			delete(w.Open, id)
		}
	}
	w.behind = nil
	return closed
}
