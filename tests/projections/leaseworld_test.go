package projections_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

// leaseWorld is a workspace with two hard budgets, proxies that reserve of both, one by one and by leases, and a log that each of them ships its records
// to when it likes. Proxies are closed; some of those were only slow.
type leaseWorld struct {
	rng       *rand.Rand
	workspace string
	limit     int64
	now       time.Time
	proxies   []*leaseProxy
	log       []*rateguardv1.Event
	// state is what the log folds to; with what proxies have not shipped yet it is what Redis shows.
	state  *rateguardv1.SpendState
	op     uint64
	closer uint64
	// charged, late, returned count closings that charged a lease, reservations that came behind them and leases that did, and lost those that came and will not end.
	charged, late, returned, lost int
}

// leaseProxy is one producer.
type leaseProxy struct {
	id       string
	sequence uint64
	closed   bool
	lots     []*lot
	spool    []spooled
}

// lot is a reservation or a lease of a proxy.
type lot struct {
	open   *rateguardv1.ReservationOpened
	amount int64
	// left is what nobody has taken of a lease; shown is the part of amount that the log shows as its own.
	left, shown int64
	from        *lot
	children    int
	// ended is true once its end is in the spool, cost is what that says. opening and end are whether the log shows them.
	ended, opening, end bool
	// late: its opening came behind the closing of its proxy.
	late bool
	cost int64
}

// spooled is a record that is not shipped. Posted and reserved are what Redis shows of it already: leases are known there, what is taken from them is not.
type spooled struct {
	event            *rateguardv1.Event
	posted, reserved int64
	shipped          func()
}

func newLeaseWorld(seed uint64) *leaseWorld {
	return &leaseWorld{
		rng: rand.New(rand.NewPCG(seed, 7)), workspace: fmt.Sprintf("ws_%d", seed), limit: 100_000, now: time.Date(2026, 11, 10, 0, 0, 0, 0, time.UTC),
		state: new(rateguardv1.SpendState),
	}
}

// budgets are the holds of an amount; posted and reserved are what the grant saw.
func (w *leaseWorld) budgets(amount, posted, reserved int64) []*rateguardv1.Hold {
	hold := func(id string, start time.Time) *rateguardv1.Hold {
		h := &rateguardv1.Hold{
			BudgetId: id, BudgetGeneration: 1, AmountNanoUsd: amount, PostedNanoUsd: posted, ReservedNanoUsd: reserved, LimitNanoUsd: w.limit, Hard: true,
		}
		if !start.IsZero() {
			h.PeriodStartUnixUs = start.UnixMicro()
		}
		return h
	}
	return []*rateguardv1.Hold{hold("all", time.Time{}), hold("month", w.month())}
}

func (w *leaseWorld) month() time.Time {
	return time.Date(w.now.Year(), w.now.Month(), 1, 0, 0, 0, 0, time.UTC)
}

func (w *leaseWorld) policy() *rateguardv1.WorkspacePolicy {
	return &rateguardv1.WorkspacePolicy{WorkspaceId: w.workspace, Version: 1, Budgets: []*rateguardv1.Budget{
		{Id: "all", Generation: 1, Scope: "workspace", LimitNanoUsd: w.limit, Period: "total", Timezone: "UTC", Enforcement: "hard", Mode: "leased", LeasePercent: 50},
		{
			Id: "month", Generation: 1, Scope: "workspace", LimitNanoUsd: w.limit, Period: "month", Timezone: "UTC", Enforcement: "hard", Mode: "leased", LeasePercent: 50,
			BoundariesUnixUs: []int64{w.month().UnixMicro(), w.month().AddDate(0, 1, 0).UnixMicro()},
		},
	}}
}

// redis returns what Redis shows of each budget.
func (w *leaseWorld) redis() (posted, reserved int64) {
	sums := spend.Find(w.state, w.budgets(0, 0, 0)[0])
	posted, reserved = sums.GetPostedNanoUsd(), sums.GetReservedNanoUsd()
	for _, p := range w.proxies {
		for _, s := range p.spool {
			if !p.closed {
				posted, reserved = posted+s.posted, reserved+s.reserved
			}
		}
	}
	return posted, reserved
}

func (w *leaseWorld) id() string { return fmt.Sprintf("%x", w.rng.Uint64()) }

// append writes a record into a proxy's spool.
func (w *leaseWorld) append(p *leaseProxy, s spooled) {
	p.sequence++
	w.now = w.now.Add(time.Millisecond)
	s.event.ProducerId, s.event.Sequence, s.event.OccurredAtUnixUs, s.event.WorkspaceId = p.id, p.sequence, w.now.UnixMicro(), w.workspace
	p.spool = append(p.spool, s)
}

// take puts a record into the log.
func (w *leaseWorld) take(e *rateguardv1.Event) {
	spend.Fold(w.state, e)
	w.log = append(w.log, e)
}

// run does some steps at random.
func (w *leaseWorld) run(steps int) {
	for range steps {
		living := 0
		for _, p := range w.proxies {
			if !p.closed {
				living++
			}
		}
		if living < 2 {
			w.proxies = append(w.proxies, &leaseProxy{id: "proxy-" + w.id()})
		}
		p := w.proxies[w.rng.IntN(len(w.proxies))]
		switch n := w.rng.IntN(100); {
		case n < 12:
			w.reserve(p, 1+w.rng.Int64N(300), false)
		case n < 22:
			w.reserve(p, 500+w.rng.Int64N(1500), true)
		case n < 50:
			w.lend(p)
		case n < 72:
			w.settle(p)
		case n < 80:
			w.endLease(p)
		case n < 96:
			w.ship(p, 1+w.rng.IntN(4))
		case n < 97:
			w.lose(p)
		default:
			w.close(p)
		}
	}
}

// reserve asks Redis, which refuses closed proxies and what does not fit.
func (w *leaseWorld) reserve(p *leaseProxy, amount int64, lease bool) {
	posted, reserved := w.redis()
	if p.closed || posted+reserved+amount > w.limit {
		return
	}
	w.op++
	o := &rateguardv1.ReservationOpened{
		Subject: w.subject(), Holds: w.budgets(amount, posted, reserved+amount), Epoch: 1, Op: w.op, Lease: lease,
	}
	o.ReservationId = o.GetSubject().GetRequestId() + "/1"
	if lease {
		o.ReservationId = o.GetSubject().GetRequestId() + "/lease"
	} else {
		o.BoundNanoUsd = &amount
	}
	w.open(p, &lot{open: o, amount: amount, left: amount}, amount)
}

func (w *leaseWorld) subject() *rateguardv1.Subject {
	return &rateguardv1.Subject{RequestId: w.id(), OpenedAtUnixUs: w.now.UnixMicro(), PolicyVersion: 1}
}

func (w *leaseWorld) open(p *leaseProxy, l *lot, reserved int64) {
	p.lots = append(p.lots, l)
	w.append(p, spooled{
		event: &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: l.open}}, reserved: reserved,
		shipped: func() {
			if l.opening, l.shown = true, l.amount; l.from != nil {
				l.from.shown -= l.amount
				if p.closed {
					l.late = true
					w.late++
				}
			}
		},
	})
}

// pick returns one of a proxy's lots; nil where none is as asked.
func (w *leaseWorld) pick(p *leaseProxy, wanted func(*lot) bool) *lot {
	var all []*lot
	for _, l := range p.lots {
		if !l.ended && wanted(l) {
			all = append(all, l)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[w.rng.IntN(len(all))]
}

// lend opens a reservation from a lease. A proxy that does not know yet that it was closed does so as well.
func (w *leaseWorld) lend(p *leaseProxy) {
	lease := w.pick(p, func(l *lot) bool { return l.open.GetLease() && l.left > 0 })
	if lease == nil {
		return
	}
	amount := 1 + w.rng.Int64N(min(lease.left, 400))
	lease.left -= amount
	lease.children++
	h := lease.open.GetHolds()[0]
	o := &rateguardv1.ReservationOpened{
		Subject: w.subject(), BoundNanoUsd: &amount, Holds: w.budgets(amount, h.GetPostedNanoUsd(), h.GetReservedNanoUsd()), Epoch: lease.open.GetEpoch(),
		LeaseId: lease.open.GetReservationId(),
	}
	o.ReservationId = o.GetSubject().GetRequestId() + "/1"
	w.open(p, &lot{open: o, amount: amount, from: lease}, 0)
}

func (w *leaseWorld) outcome(l *lot, kind rateguardv1.OutcomeKind, held, cost int64) *rateguardv1.Outcome {
	o := &rateguardv1.Outcome{
		ReservationId: l.open.GetReservationId(), Revision: 1, Kind: kind, CostNanoUsd: &cost, Subject: l.open.GetSubject(), Holds: w.budgets(held, 0, 0),
		BoundNanoUsd: l.open.BoundNanoUsd, Lease: l.open.GetLease(), LeaseId: l.open.GetLeaseId(), Estimated: kind == rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED,
	}
	return o
}

// settle ends a reservation.
func (w *leaseWorld) settle(p *leaseProxy) {
	l := w.pick(p, func(l *lot) bool { return !l.open.GetLease() })
	if l == nil {
		return
	}
	l.ended, l.cost = true, w.rng.Int64N(l.amount+1)
	if l.late && w.rng.IntN(3) == 0 { // the next process on its folder does it
		o := w.outcome(l, rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, l.amount, l.amount)
		o.OpenedBy = p.id
		l.end, l.cost = true, l.amount
		w.closing(&rateguardv1.Event{Body: &rateguardv1.Event_ReservationExpired{ReservationExpired: &rateguardv1.ReservationExpired{Outcome: o}}})
		return
	}
	s := spooled{
		event:   &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: w.outcome(l, rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, l.amount, l.cost)}}},
		shipped: func() { l.end = true },
	}
	if l.from == nil {
		s.posted, s.reserved = l.cost, -l.amount
	}
	w.append(p, s)
}

// endLease gives back what is left of a lease.
func (w *leaseWorld) endLease(p *leaseProxy) {
	l := w.pick(p, func(l *lot) bool { return l.open.GetLease() })
	if l == nil {
		return
	}
	l.ended = true
	w.append(p, spooled{
		event: &rateguardv1.Event{Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{
			Outcome: w.outcome(l, rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, l.left, 0),
		}}},
		shipped: func() {
			if l.end = true; p.closed {
				w.returned++
			}
		},
	})
}

func (w *leaseWorld) ship(p *leaseProxy, n int) {
	n = min(n, len(p.spool))
	for _, s := range p.spool[:n] {
		w.take(s.event)
		s.shipped()
	}
	p.spool = slices.Delete(p.spool, 0, n)
}

// close ends what log and Redis show of a proxy. What the log shows of it holds what it shows, the rest of Redis holds nothing there.
func (w *leaseWorld) close(p *leaseProxy) {
	if p.closed {
		return
	}
	c := &rateguardv1.ProducerClosed{ProducerId: p.id, Mark: p.sequence - uint64(len(p.spool))}
	known := len(p.spool) == 0 && w.rng.IntN(2) == 0
	for _, l := range p.lots {
		expired, cost := rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, l.amount
		switch lease := l.open.GetLease(); {
		case l.end || l.from != nil && !l.opening:
			continue
		case lease && known:
			c.Ends = append(c.Ends, w.outcome(l, rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, l.shown, 0))
			continue
		case lease && l.opening:
			cost = l.shown
		case l.ended && l.from == nil && !lease:
			cost = l.cost // Redis kept it
		}
		if l.open.GetLease() && cost > 0 {
			w.charged++
		}
		o := w.outcome(l, expired, l.shown, cost)
		if !l.opening {
			o.BoundNanoUsd = nil
		}
		c.Ends = append(c.Ends, o)
	}
	p.closed = true
	w.closing(&rateguardv1.Event{Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: c}})
	if known { // it is gone
		p.lots = nil
	}
}

// closing puts a record of the closer into the log.
func (w *leaseWorld) closing(e *rateguardv1.Event) {
	w.closer++
	w.now = w.now.Add(time.Millisecond)
	e.ProducerId, e.Sequence, e.OccurredAtUnixUs, e.WorkspaceId = "closer", w.closer, w.now.UnixMicro(), w.workspace
	w.take(e)
}

// lose loses the disk of a proxy that was closed.
func (w *leaseWorld) lose(p *leaseProxy) {
	if !p.closed {
		return
	}
	for _, l := range p.lots {
		if l.late && !l.end {
			w.lost++
		}
	}
	p.spool, p.lots = nil, nil
}

// deliver lets every proxy that lives ship all it has.
func (w *leaseWorld) deliver() {
	for _, p := range w.proxies {
		if !p.closed {
			w.ship(p, len(p.spool))
		}
	}
}

// finish lets every proxy end all it has and ship all of it.
func (w *leaseWorld) finish() {
	for _, p := range w.proxies {
		for range len(p.lots) {
			w.settle(p)
			w.endLease(p)
		}
		w.ship(p, len(p.spool))
	}
}
