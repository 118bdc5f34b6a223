package explore_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/roster"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// move is what happened: its name, and whom it is about.
type move struct {
	what string
	who  int
}

func (m move) String() string { return fmt.Sprintf("%s %d", m.what, m.who) }

// onOld reports whether a call came to the old primary.
func (m move) onOld() bool { return strings.Contains(m.what, "-on-old") }

// emit takes a move and the state behind it.
type emit func(m move, t state)

func (w *world) ctx() context.Context { return context.Background() }

// servers are those that a call may reach.
func (s *state) servers() []*server {
	if s.old.replid != 0 {
		return []*server{&s.primary, &s.old}
	}
	return []*server{&s.primary}
}

// gate is the real one, of a process whose least epoch is known.
type gate struct{ *epoch.Gate }

func (w *world) gate(least uint8) gate {
	g := gate{epoch.NewGate()}
	if least > 0 {
		g.Start(1, map[int32]uint64{0: uint64(least)})
	}
	return g
}

// open starts the gate with the rounds that are known.
func (g gate) open(r *roster.Roster) uint8 {
	g.Start(1, r.Rounds())
	return g.least()
}

func (g gate) least() uint8 {
	n, _ := g.Least(workspace)
	return uint8(n)
}

// serve emits what processes do.
func (w *world) serve(s *state, out emit) {
	for p := range producers {
		at := &s.p[p]
		switch {
		case at.phase == unborn && w.late:
			t := *s
			w.announce(&t, p)
			t.p[p].spool = w.add(t.p[p].spool, w.started(p))
			out(move{"announce", p}, t)
			continue
		case at.phase == announced:
			// All of its own is shipped before it reads the rounds.
			if int32(at.shipped) == w.size(at.spool) || w.rules.noStarted {
				t := *s
				t.p[p].phase, t.p[p].least = serving, w.gate(0).open(w.roster(s.producers))
				t.p[p].sealed = 0
				out(move{"serve", p}, t)
			}
		}
		w.ship(s, p, out)
		if at.phase == dead && !at.rebooted && int32(at.shipped) == w.size(at.spool) {
			w.sealFor(s, p, out)
		}
		if at.phase != serving {
			continue
		}
		if !at.fenced && w.topic(s.producers).retired[p] {
			t := *s
			t.p[p].fenced = true
			out(move{"hear-fence", p}, t)
		}
		w.seal(s, p, out)
	}
	for p := range producers {
		if w.leases[p] != unleased {
			w.lend(s, p, out)
		}
	}
	for r := range requests {
		if r%perProducer < w.active[r/perProducer] {
			w.request(s, r, out)
		}
	}
}

// ship emits the shipping of a spool: by the process itself, or the next one on its folder.
func (w *world) ship(s *state, p int, out emit) {
	at := &s.p[p]
	if at.phase == unborn || at.phase == lost {
		return
	}
	recs := w.of(at.spool)
	if int(at.shipped) < len(recs) {
		t := *s
		for _, rec := range w.surfaced(s, p, recs[at.shipped]) {
			t.costs = w.add(t.costs, rec)
		}
		t.p[p].shipped++
		out(move{"ship", p}, t)
	}
	if s.left.dup > 0 && at.shipped > 0 {
		t := *s
		t.costs = w.add(s.costs, recs[at.shipped-1])
		t.left.dup--
		out(move{"ship-again", p}, t)
	}
}

// seal emits the answer to the newest round.
func (w *world) seal(s *state, p int, out emit) {
	n := w.topic(s.producers).round
	if n <= uint64(s.p[p].sealed) {
		return
	}
	t := *s
	g := w.gate(s.p[p].least)
	_, err := g.Seal(0, n, func() error {
		t.p[p].spool = w.add(t.p[p].spool, w.sealed(p, n))
		return nil
	})
	must(err)
	t.p[p].sealed = uint8(n)
	if !w.rules.openGate {
		t.p[p].least = g.least()
	}
	out(move{"seal", p}, t)
}

// sealFor emits the answer to the newest round in the name of a process that is dead: by the next one on its folder, once all of that is shipped.
func (w *world) sealFor(s *state, p int, out emit) {
	if n := w.topic(s.producers).round; n > uint64(s.p[p].sealed) {
		t := *s
		t.costs, t.p[p].sealed = w.add(s.costs, w.sealed(p, n)), uint8(n)
		out(move{"seal-for", p}, t)
	}
}

func (w *world) sealed(p int, n uint64) int32 {
	return w.once(fact{kind: "seal", a: int32(p), b: int32(n)}, func() int32 {
		return w.record(partitionKey(), &rateguardv1.Event{
			Id: fmt.Sprintf("seal-%s-%d", name(p), n), ProducerId: name(p), Body: &rateguardv1.Event_Seal{Seal: &rateguardv1.Seal{N: n, ProducerId: name(p)}},
		})
	})
}

// request emits what happens to one request.
func (w *world) request(s *state, r int, out emit) {
	p := &s.p[r/perProducer]
	at := &s.r[r]
	if at.calling && at.at == asked && p.alive() {
		w.arrive(s, r, out)
	}
	if p.phase == serving {
		w.live(s, r, out)
	}
}

// arrive emits that the call for a grant reaches a server.
func (w *world) arrive(s *state, r int, out emit) {
	for i := range s.servers() {
		t := *s
		w.admit(&t, r, t.servers()[i])
		out(move{[]string{"grant", "grant-on-old"}[i], r}, t)
	}
}

// stray emits the arrival of calls that nobody waits for. Each may as well be lost. That is no move: what can happen without a call on its way can happen with it, so that
// the end of everything comes without them too. One thing waits until one is gone, the second call that a reconciler repeats; without the first that is the same.
func (w *world) stray(s *state, out emit) {
	w.strayCalls(s, out)
	for r := range requests {
		at := &s.r[r]
		if at.calling && (at.at != asked || !s.p[r/perProducer].alive()) {
			w.arrive(s, r, out)
		}
		if !at.settling {
			continue
		}
		for i := range s.servers() {
			t := *s
			w.adjust(t.servers()[i], lua.Settle, target{r, nothing}, 0)
			t.r[r].settling = false
			out(move{[]string{"settle", "settle-on-old"}[i], r}, t)
		}
	}
	for p := range producers {
		if l := &s.l[p]; l.calling && (l.at != asked || !s.p[p].alive()) {
			w.arriveLease(s, p, out)
		}
	}
}

// live emits what a process does about one of its requests.
func (w *world) live(s *state, r int, out emit) {
	p, at := &s.p[r/perProducer], &s.r[r]
	t := *s
	switch at.at {
	case idle:
		if p.fenced || r%perProducer > 0 && s.r[r-1].at == idle { // requests of a process are alike, so they come in order
			return
		}
		if w.takes(r) {
			w.take(s, r, out)
			return
		}
		t.r[r].at, t.r[r].calling, t.r[r].least = asked, true, w.gate(p.least).least()
		if w.asksAlong(r) {
			t.l[r/perProducer].at = asked
		}
		out(move{"ask", r}, t)
	case asked, granted:
		if s.left.late > 0 {
			t.r[r].at = cancelling
			if l := &t.l[r/perProducer]; w.asksAlong(r) && l.at == asked {
				l.at = unwanted
			}
			t.left.late--
			out(move{"give-up", r}, t)
		}
		if at.at == granted {
			w.openRequest(s, r, out)
		}
	case taken:
		w.openTaken(s, r, out)
	case cancelling:
		of, l := target{r, nothing}, &s.l[r/perProducer]
		if w.asksAlong(r) && l.at == unwanted {
			of.lease = r / perProducer
		}
		for i := range s.servers() {
			t := *s
			if w.adjust(t.servers()[i], lua.Cancel, of, p.least) {
				if t.r[r].at = gone; of.lease != nothing {
					t.l[of.lease].at = gone
				}
				if i > 0 {
					t.r[r].calling = false // its deadline has passed before it could reach another server
				}
			}
			if t != *s {
				out(move{[]string{"cancel", "cancel-on-old"}[i], r}, t)
			}
		}
	case open:
		t.p[r/perProducer].spool = w.add(p.spool, w.end(&t, r))
		t.r[r].at, t.r[r].settling = ended, !w.takes(r) // what was taken from a lease is free once the log has shown its end
		out(move{"end", r}, t)
	}
}

var errFenced = errors.New("this process is closed")

// openRequest emits the opening, if the gate and the spool let it through.
func (w *world) openRequest(s *state, r int, out emit) {
	t := *s
	p, at := &t.p[r/perProducer], &t.r[r]
	err := w.gate(p.least).Open(workspace, uint64(at.epoch), func() error {
		if p.fenced {
			return errFenced
		}
		p.spool = w.add(p.spool, w.opened(&t, r))
		return nil
	})
	if err != nil {
		at.at = cancelling
		out(move{"refuse", r}, t)
		return
	}
	at.at = open
	out(move{"open", r}, t)
}

// What came of a call for a grant.
const (
	denied = iota
	admitted
)

// admit runs the call for a grant.
func (w *world) admit(t *state, r int, on *server) {
	at, p := &t.r[r], &t.p[r/perProducer]
	a := w.call(fact{kind: "admit", a: int32(r), b: int32(at.least)}, on, func() act {
		return admission(w.admissions.Admit(w.ctx(), w.asks(r, at.least)))
	})
	at.calling = false
	switch {
	case at.at != asked || p.phase != serving:
	case a.a == admitted:
		at.at, at.epoch, at.op = granted, uint8(a.b), uint8(a.c)
		with := nothing
		if w.asksAlong(r) {
			if w.lent(t, r/perProducer, a); t.l[r/perProducer].at == granted {
				with = r / perProducer
			}
		}
		at.over = w.counts(t, r, with) > w.limit
		t.l[r/perProducer].over = at.over && with != nothing
	default:
		if at.at = gone; w.asksAlong(r) {
			t.l[r/perProducer].at = gone
		}
	}
}

// admission is what comes of an answer.
func admission(d lua.Decision, err error) act {
	if err != nil || !d.Admitted {
		return act{a: denied} // also where it was cancelled, or nothing can be reserved
	}
	a := act{a: admitted, b: int32(d.Epoch), c: int32(d.Op)}
	if d.LeaseNano > 0 {
		a.d = int32(d.LeaseOp)
	}
	return a
}

// target is what is settled or cancelled: a request, or the lease of a producer, or both.
type target struct{ r, lease int }

const (
	nothing = -1
	// asking stands for the call that asked for nothing but the lease.
	asking = -2
)

func (w *world) adjusted(of target) *lua.Request {
	if of.r == asking {
		return w.asksAlone(of.lease, 0)
	}
	if of.r == nothing {
		q := w.asksAlone(of.lease, 0)
		q.Reservation, q.Lease = leaseID(of.lease), lua.LeaseAsk{}
		return q
	}
	q := w.asks(of.r, 0)
	if of.lease == nothing {
		q.Lease = lua.LeaseAsk{}
	}
	return q
}

// adjust reports whether it need not be repeated.
func (w *world) adjust(on *server, how lua.Adjustment, of target, least uint8) bool {
	a := w.call(fact{kind: string(how), a: int32(of.r), b: int32(least), c: int32(of.lease)}, on, func() act {
		w.admissions.Obey(w.gate(least).Least)
		err := w.admissions.Adjust(w.ctx(), how, w.adjusted(of), 0)
		if errors.Is(err, lua.ErrNoEpoch) && !w.rules.takesAnyAnswer {
			return act{a: -1}
		}
		if err != nil && !errors.Is(err, lua.ErrNoEpoch) {
			panic(err)
		}
		return act{}
	})
	return a.a == 0
}

// numbered counts the records of a spool that carry a sequence.
func (w *world) numbered(spool int32) uint64 {
	n := uint64(0)
	for _, rec := range w.of(spool) {
		if w.records[rec].key == workspace {
			n++
		}
	}
	return n
}

func (w *world) subject(r int) *rateguardv1.Subject {
	return &rateguardv1.Subject{RequestId: requestName(r), Attempt: 1, OpenedAtUnixUs: nowUS}
}

func (w *world) holds(r int) []*rateguardv1.Hold {
	return []*rateguardv1.Hold{{BudgetId: "budget", BudgetGeneration: 1, AmountNanoUsd: w.bound(r), LimitNanoUsd: w.limit}}
}

func (w *world) opened(s *state, r int) int32 {
	return w.once(fact{kind: "opened", a: int32(r), b: s.p[r/perProducer].spool, c: int32(s.r[r].epoch), d: int32(s.r[r].op)}, func() int32 {
		b, from := w.bound(r), ""
		if w.takes(r) {
			from = leaseID(r / perProducer)
		}
		return w.noted(1<<r, w.record(workspace, &rateguardv1.Event{
			Id: "opened-" + requestName(r), ProducerId: name(r / perProducer), Sequence: w.numbered(s.p[r/perProducer].spool) + 1, WorkspaceId: workspace,
			Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
				ReservationId: id(r), Subject: w.subject(r), Holds: w.holds(r), BoundNanoUsd: &b, UnknownCostNanoUsd: &b, Epoch: uint64(s.r[r].epoch), Op: uint64(s.r[r].op), LeaseId: from,
			}},
		}))
	})
}

func (w *world) end(s *state, r int) int32 {
	return w.once(fact{kind: "end", a: int32(r), b: s.p[r/perProducer].spool, c: int32(s.r[r].epoch), d: int32(s.r[r].op)}, func() int32 {
		b, c, from := w.bound(r), cost(r), ""
		if w.takes(r) {
			from = leaseID(r / perProducer)
		}
		return w.noted(endsRequest<<r, w.record(workspace, &rateguardv1.Event{
			Id: "ended-" + requestName(r), ProducerId: name(r / perProducer), Sequence: w.numbered(s.p[r/perProducer].spool) + 1, WorkspaceId: workspace,
			Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: &rateguardv1.Outcome{
				ReservationId: id(r), Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, CostNanoUsd: &c, Subject: w.subject(r), Holds: w.holds(r), BoundNanoUsd: &b, LeaseId: from,
			}}},
		}))
	})
}

// event reads a record back.
func (w *world) event(rec int32) *rateguardv1.Event {
	e, err := envelope.Decode(w.records[rec].value)
	must(err)
	return e
}
