package explore_test

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

// leaseNano is what a lease holds: enough for two requests.
const leaseNano = 25_000

// How a producer comes to its lease.
const (
	unleased = iota
	alone    // by a call that asks for nothing else, as where the last one is used up
	along    // by the call for its first request
)

// lease is what a producer has reserved for requests to come. It goes the way of a request: its opening is appended, then requests take from it, and its end is
// appended.
type lease struct {
	at uint8
	// calling: the call that asks for it alone is on its way.
	calling bool
	// least goes along with that; epoch and op came back.
	least, epoch, op uint8
	// over: by what happened it did not fit when it was granted.
	over bool
}

func leaseID(p int) string { return [...]string{"la", "lb"}[p] + "/lease" }

// takes reports whether a request is decided by the lease of its producer.
func (w *world) takes(r int) bool {
	how := w.leases[r/perProducer]
	return how == alone || how == along && r%perProducer > 0
}

// asksAlong reports whether a request asks for the lease too.
func (w *world) asksAlong(r int) bool { return w.leases[r/perProducer] == along && r%perProducer == 0 }

func (w *world) leaseAsk(p int) lua.LeaseAsk {
	return lua.LeaseAsk{ID: leaseID(p), Want: leaseNano, Least: leaseNano, Percent: 50}
}

// asksAlone is the call that asks for nothing but a lease.
func (w *world) asksAlone(p int, least uint8) *lua.Request {
	hold := w.hold(p * perProducer)
	hold.Amount = 0
	return &lua.Request{
		Workspace: workspace, Reservation: "ask-" + name(p), Key: "key", PolicyVersion: 1, Holds: []lua.Hold{hold},
		Producer: name(p), Epoch: uint64(least), Lease: w.leaseAsk(p),
	}
}

// lend emits what happens to the lease of a producer, but for what goes along with a request.
func (w *world) lend(s *state, p int, out emit) {
	l, prod := &s.l[p], &s.p[p]
	if l.calling && l.at == asked && prod.alive() {
		w.arriveLease(s, p, out)
	}
	if prod.phase != serving {
		return
	}
	t := *s
	switch l.at {
	case idle:
		if w.leases[p] == alone && !prod.fenced {
			t.l[p].at, t.l[p].calling, t.l[p].least = asked, true, w.gate(prod.least).least()
			out(move{"ask-lease", p}, t)
		}
	case asked:
		if w.leases[p] == alone && s.left.late > 0 {
			t.l[p].at = unwanted
			t.left.late--
			out(move{"give-up-lease", p}, t)
		}
	case granted:
		w.openLease(s, p, out)
	case unwanted, cancelling:
		w.cancelLease(s, p, out)
	case open:
		t.p[p].spool = w.add(prod.spool, w.leaseEnded(&t, p))
		t.l[p].at = ended
		out(move{"end-lease", p}, t)
	}
}

// cancelLease emits the cancellation of a lease: of one that could not be opened by its own name, of one that nobody waits for with the call that asked for it.
func (w *world) cancelLease(s *state, p int, out emit) {
	of := target{r: nothing, lease: p}
	if s.l[p].at == unwanted {
		if of.r = asking; w.leases[p] == along {
			return // its request's cancellation names it
		}
	}
	for i := range s.servers() {
		t := *s
		if w.adjust(t.servers()[i], lua.Cancel, of, s.p[p].least) {
			t.l[p].at = gone
			if i > 0 {
				t.l[p].calling = false // its deadline has passed before it could reach another server
			}
		}
		if t != *s {
			out(move{[]string{"cancel-lease", "cancel-lease-on-old"}[i], p}, t)
		}
	}
}

// arriveLease emits that the call that asks for a lease alone reaches a server.
func (w *world) arriveLease(s *state, p int, out emit) {
	for i := range s.servers() {
		t := *s
		w.admitLease(&t, p, t.servers()[i])
		out(move{[]string{"grant-lease", "grant-lease-on-old"}[i], p}, t)
	}
}

// admitLease runs the call that asks for a lease alone.
func (w *world) admitLease(t *state, p int, on *server) {
	l := &t.l[p]
	a := w.call(fact{kind: "admit-lease", a: int32(p), b: int32(l.least)}, on, func() act {
		return admission(w.admissions.Admit(w.ctx(), w.asksAlone(p, l.least)))
	})
	l.calling = false
	if l.at == asked && t.p[p].phase == serving {
		w.lent(t, p, a)
		l.over = l.at == granted && w.counts(t, nothing, p) > w.limit
	}
}

// lent takes what an answer says of a lease.
func (w *world) lent(t *state, p int, a act) {
	l := &t.l[p]
	if l.at = gone; a.a == admitted && a.d > 0 {
		l.at, l.epoch, l.op = granted, uint8(a.b), uint8(a.d)
	}
}

// openLease emits the opening of a lease, if the gate and the spool let it through.
func (w *world) openLease(s *state, p int, out emit) {
	t := *s
	l, prod := &t.l[p], &t.p[p]
	least := prod.least
	if w.rules.oldLeases {
		least = 1
	}
	err := w.gate(least).Open(workspace, uint64(l.epoch), func() error {
		if prod.fenced {
			return errFenced
		}
		prod.spool = w.add(prod.spool, w.leaseOpened(&t, p))
		return nil
	})
	if err != nil {
		l.at = cancelling
		out(move{"refuse-lease", p}, t)
		return
	}
	l.at = open
	out(move{"open-lease", p}, t)
}

// take emits that a request takes from the lease.
func (w *world) take(s *state, r int, out emit) {
	p := r / perProducer
	l := &s.l[p]
	if usable := l.epoch >= s.p[p].least || w.rules.oldTaken; l.at == open && usable && !s.p[p].fenced {
		t := *s
		t.r[r].at, t.r[r].epoch = taken, l.epoch
		out(move{"take", r}, t)
	}
}

// openTaken emits the opening of a request that has taken from a lease, if the gate, the lease and the spool let it through.
func (w *world) openTaken(s *state, r int, out emit) {
	t := *s
	p, at, l := &t.p[r/perProducer], &t.r[r], &t.l[r/perProducer]
	least := p.least
	if w.rules.oldTaken {
		least = 1
	}
	err := w.gate(least).Open(workspace, uint64(at.epoch), func() error {
		switch {
		case l.at == ended && !w.rules.endsUnderWay:
			return epoch.ErrOld
		case p.fenced:
			return errFenced
		}
		p.spool = w.add(p.spool, w.opened(&t, r))
		return nil
	})
	if err != nil {
		at.at = gone
		out(move{"refuse", r}, t)
		return
	}
	at.at = open
	at.over = l.over || w.counts(&t, nothing, nothing) > w.limit
	out(move{"open", r}, t)
}

// rest is what the openings of requests have left of a lease.
func (w *world) rest(s *state, p int) int64 {
	rest := int64(leaseNano)
	for r := p * perProducer; r < (p+1)*perProducer; r++ {
		if w.takes(r) && (s.r[r].at == open || s.r[r].at == ended) {
			rest -= w.bound(r)
		}
	}
	return rest
}

func (w *world) leaseHolds(amount int64) []*rateguardv1.Hold {
	return []*rateguardv1.Hold{{BudgetId: "budget", BudgetGeneration: 1, AmountNanoUsd: amount, LimitNanoUsd: w.limit}}
}

func leaseSubject(p int) *rateguardv1.Subject {
	return &rateguardv1.Subject{RequestId: strings.TrimSuffix(leaseID(p), "/lease"), OpenedAtUnixUs: nowUS}
}

func (w *world) leaseOpened(s *state, p int) int32 {
	l, spool := &s.l[p], s.p[p].spool
	return w.once(fact{kind: "lease-opened", a: int32(p), b: spool, c: int32(l.epoch), d: int32(l.op)}, func() int32 {
		return w.noted(opensLease<<p, w.record(workspace, &rateguardv1.Event{
			Id: "opened-" + leaseID(p), ProducerId: name(p), Sequence: w.numbered(spool) + 1, WorkspaceId: workspace,
			Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
				ReservationId: leaseID(p), Subject: leaseSubject(p), Holds: w.leaseHolds(leaseNano), Epoch: uint64(l.epoch), Op: uint64(l.op), Lease: true,
			}},
		}))
	})
}

func (w *world) leaseEnded(s *state, p int) int32 {
	rest, spool := w.rest(s, p), s.p[p].spool
	return w.once(fact{kind: "lease-ended", a: int32(p), b: spool, c: int32(rest)}, func() int32 {
		return w.noted(endsLease<<p, w.record(workspace, &rateguardv1.Event{
			Id: "ended-" + leaseID(p), ProducerId: name(p), Sequence: w.numbered(spool) + 1, WorkspaceId: workspace,
			Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{Outcome: &rateguardv1.Outcome{
				ReservationId: leaseID(p), Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, CostNanoUsd: new(int64), Subject: leaseSubject(p),
				Lease: true, Holds: w.leaseHolds(rest),
			}}},
		}))
	})
}

// What a record does, as a bit: those of the opening of a request are by its number, those about leases by the producer's.
const (
	endsRequest = 1 << 8
	opensLease  = 1 << 16
	endsLease   = 1 << 24
)

// noted notes what a record does.
func (w *world) noted(does uint32, rec int32) int32 {
	w.does[rec] = does
	return rec
}

// computed marks what shows has computed.
const computed = 1 << 31

// shows is what the records of a log do.
func (w *world) shows(log int32) uint32 {
	for int(log) >= len(w.shown) {
		w.shown = append(w.shown, 0)
	}
	if w.shown[log] == 0 {
		all := uint32(computed)
		for _, rec := range w.of(log) {
			all |= w.does[rec]
		}
		w.shown[log] = all
	}
	return w.shown[log]
}

// surfaced is a record as it comes into the log. Mutations let what a lease's holder opened behind the charge of its lease count by itself, as of no lease: one
// leaves the charge as it was, one takes the amount off at once, as a correction.
func (w *world) surfaced(s *state, p int, rec int32) []int32 {
	if !w.rules.noUncharge && !w.rules.unchargesAtOnce {
		return []int32{rec}
	}
	e := w.event(rec)
	o, end := e.GetReservationOpened(), e.GetCostSettled().GetOutcome()
	if o.GetLeaseId() == "" && end.GetLeaseId() == "" {
		return []int32{rec}
	}
	fold := w.view(s.costs).Workspace(workspace).State
	late := spend.EndsCharged(fold, e)
	if o != nil {
		late = spend.EndedByClosing(fold, name(p), o.GetLeaseId()) == spend.ClosingEnded && spend.EndedByClosing(fold, name(p), o.GetReservationId()) == spend.ClosingNot
	}
	if !late {
		return []int32{rec}
	}
	if o != nil {
		o.LeaseId = ""
	} else {
		end.LeaseId = ""
	}
	out := []int32{w.noted(w.does[rec], w.record(workspace, e))}
	if o != nil && w.rules.unchargesAtOnce {
		out = append(out, w.uncharge(fold, p, o))
	}
	return out
}

// uncharge is the record that takes what a reservation took from its lease off what is charged for that.
func (w *world) uncharge(fold *rateguardv1.SpendState, p int, o *rateguardv1.ReservationOpened) int32 {
	sum := sha256.Sum256([]byte(leaseID(p)))
	ends := spend.Producer(fold, name(p)).GetClosedEnds()
	i := slices.IndexFunc(ends, func(e *rateguardv1.ClosedEnd) bool { return e.GetIdHash() == binary.BigEndian.Uint64(sum[:8]) })
	charged := ends[i].GetCostNanoUsd()
	left := charged - o.GetHolds()[0].GetAmountNanoUsd()
	return w.record(workspace, &rateguardv1.Event{
		Id: "uncharged-" + o.GetReservationId(), ProducerId: "control", WorkspaceId: workspace,
		Body: &rateguardv1.Event_CostCorrected{CostCorrected: &rateguardv1.CostCorrected{
			PreviousCostNanoUsd: &charged, PreviousEstimated: true,
			Outcome: &rateguardv1.Outcome{
				ReservationId: leaseID(p), Revision: 2, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, CostNanoUsd: &left, Estimated: true, Subject: leaseSubject(p),
				Lease: true, Holds: w.leaseHolds(left),
			},
		}},
	})
}

// hidden names in a step what a mutation has taken out of its records.
func (w *world) hidden(v *costs.View, step *costs.Step) {
	if !w.rules.noUncharge && !w.rules.unchargesAtOnce {
		return
	}
	for r := range requests {
		if o, open := v.Workspace(workspace).Open[id(r)]; open && w.takes(r) && o.At > step.From && o.Opened.GetLeaseId() == "" {
			step.Taken = append(step.Taken, id(r))
		}
	}
}

// told takes out of a step what a mutation does not tell.
func (w *world) told(step *lua.Step) *lua.Step {
	all := step.Open
	step.Open = nil
	for _, e := range all {
		if w.rules.noTaken && !e.Lease || w.rules.noShrink && e.Lease {
			continue
		}
		step.Open = append(step.Open, e)
	}
	return step
}

// freeing frees what a closing charges for the rest of leases, where a mutation says so.
func (w *world) freeing(e *rateguardv1.Event) {
	if !w.rules.freesRest {
		return
	}
	for _, o := range e.GetProducerClosed().GetEnds() {
		if o.GetLease() {
			o.CostNanoUsd = proto.Int64(0)
		}
	}
}

// charges are what may be charged at the end for a lease itself: what is left of it where nobody can know who took from it.
func (w *world) charges(s *state, p int) []int64 {
	l, prod, shown := &s.l[p], &s.p[p], w.shows(s.costs)
	rest := int64(leaseNano)
	for r := p * perProducer; r < (p+1)*perProducer; r++ {
		if w.takes(r) && shown>>r&1 == 1 {
			rest -= w.bound(r)
		}
	}
	unknown := prod.phase == lost || prod.rebooted
	switch {
	case shown&(endsLease<<p) != 0 || l.at == idle:
		return []int64{0}
	case shown&(opensLease<<p) != 0 && unknown && (prod.rebooted || !prod.kept):
		return []int64{rest}
	case shown&(opensLease<<p) != 0 && (prod.zombie || prod.kept): // whoever closes it first may have its folder, or not
		return []int64{0, rest}
	case shown&(opensLease<<p) == 0 && (l.at == open || l.at == ended) && !prod.declared:
		return []int64{leaseNano}
	case shown&(opensLease<<p) == 0 && (unknown || prod.zombie):
		return []int64{0, leaseNano} // what was granted may have been taken from
	}
	return []int64{0}
}
