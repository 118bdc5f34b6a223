package keeper_test

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/spool"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// lease is what a process has reserved in advance.
type lease struct {
	p      *process
	ws, id string
	hold   *rateguardv1.Hold
	grant  lua.Decision
	left   int64
	in     spool.Generation
}

// leaseGrant asks Redis for a lease of that much.
func (p *process) leaseGrant(ws string, amount int64) *lease {
	p.w.tb.Helper()
	var d lua.Decision
	var id string
	for range 3 {
		request := call.NewID(time.Now().Add(time.Duration(requests.Add(1)) * time.Millisecond))
		id = request + "/lease"
		least, _ := p.gate.Least(ws)
		q := &lua.Request{
			Workspace: ws, Reservation: request + "/1", Key: "key", PolicyVersion: 1, Producer: p.ProducerID(), Epoch: least,
			Holds: []lua.Hold{{Balance: keyspace.Balance(budgetID, 1, ""), Limit: 20 * limit, Hard: true}},
			Lease: lua.LeaseAsk{ID: id, Want: amount, Least: amount, Percent: 50},
		}
		var err error
		if d, err = p.admissions.Admit(p.w.tb.Context(), q); err == nil {
			break
		}
		if !errors.Is(err, lua.ErrNoEpoch) {
			p.w.tb.Fatal(err)
		}
		must(p.w.tb, p.installs.Await(p.w.tb.Context(), ws))
	}
	if d.LeaseNano != amount {
		p.w.tb.Fatalf("no lease: %+v", d)
	}
	return &lease{p: p, ws: ws, id: id, grant: d, left: amount, hold: &rateguardv1.Hold{
		BudgetId: budgetID, BudgetGeneration: 1, AmountNanoUsd: amount, LimitNanoUsd: 20 * limit,
		PostedNanoUsd: d.Held[0].PostedNano, ReservedNanoUsd: d.Held[0].ReservedNano + amount,
	}}
}

// leaseOf opens a lease in the log.
func (p *process) leaseOf(ws string, amount int64) *lease {
	p.w.tb.Helper()
	l := p.leaseGrant(ws, amount)
	must(p.w.tb, p.gate.Open(ws, l.grant.Epoch, func() error {
		var err error
		l.in, err = p.AppendOpen(record(p.w.tb, ws, &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
			ReservationId: l.id, Subject: l.subject(), Holds: []*rateguardv1.Hold{l.hold}, Epoch: l.grant.Epoch, Op: l.grant.LeaseOp, Lease: true,
		}}}))
		return err
	}))
	return l
}

func (l *lease) subject() *rateguardv1.Subject {
	return &rateguardv1.Subject{RequestId: l.id[:len(l.id)-len("/lease")], OpenedAtUnixUs: time.Now().UnixMicro()}
}

// take is a call that is decided by the lease; it is not opened yet.
func (l *lease) take(amount int64) *reservation {
	l.p.w.tb.Helper()
	if l.left -= amount; l.left < 0 {
		l.p.w.tb.Fatal("the lease has not as much")
	}
	id := call.NewID(time.Now().Add(time.Duration(requests.Add(1))*time.Millisecond)) + "/1"
	hold := proto.CloneOf(l.hold)
	hold.AmountNanoUsd = amount
	return &reservation{
		p: l.p, ws: l.ws, id: id, amount: amount, lease: l.id, hold: hold, grant: lua.Decision{Epoch: l.grant.Epoch, NowUS: l.grant.NowUS},
		req: &lua.Request{Workspace: l.ws, Reservation: id, Producer: l.p.ProducerID(), Holds: []lua.Hold{{Balance: keyspace.Balance(budgetID, 1, "")}}},
	}
}

// spend is a call that is decided by the lease and opened.
func (l *lease) spend(amount int64) *reservation {
	l.p.w.tb.Helper()
	r := l.take(amount)
	must(l.p.w.tb, r.open())
	return r
}

// giveBack ends the lease.
func (l *lease) giveBack() {
	l.p.w.tb.Helper()
	rest := proto.CloneOf(l.hold)
	rest.AmountNanoUsd = l.left
	must(l.p.w.tb, l.p.AppendEnd(l.in, record(l.p.w.tb, l.ws, &rateguardv1.Event{Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{
		Outcome: &rateguardv1.Outcome{
			ReservationId: l.id, Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, CostNanoUsd: new(int64), Lease: true,
			Subject: l.subject(), Holds: []*rateguardv1.Hold{rest},
		},
	}}})))
}

// Redis follows the log: what is taken from a lease stands by itself once it was read, ends by itself, and the rest is free once it is given back. A Redis that
// is wiped in between gets all of it back; from a lease of the epoch before, nothing is opened any more.
func TestLeasesAreTakenFromAndGivenBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p := w.start(options{})
	l := p.leaseOf("ws_1", 300)
	w.await("ws_1", state{epoch: "1", entries: "1", reserved: 300})
	a, b := l.spend(100), l.spend(50)
	w.await("ws_1", state{epoch: "1", entries: "3", reserved: 300})
	a.settle(40) // Redis has heard of it by now
	w.await("ws_1", state{epoch: "1", entries: "3", posted: 40, reserved: 200})
	a.end(40)
	w.await("ws_1", state{epoch: "1", entries: "2", posted: 40, confirmed: 40, reserved: 200})
	w.wipe()
	p.reserveWhen("ws_1", 1).end(0)
	w.await("ws_1", state{entries: "2", posted: 40, confirmed: 40, reserved: 200})
	if err := l.take(10).open(); !errors.Is(err, epoch.ErrOld) {
		t.Errorf("taken from a lease of the old epoch: %v", err)
	}
	l.left += 10
	l.giveBack()
	w.await("ws_1", state{entries: "1", posted: 40, confirmed: 40, reserved: 50})
	b.end(50)
	w.await("ws_1", state{entries: "0", posted: 90, confirmed: 90})
}

// A process is killed and its folder kept: the log has all that was sent, so that what is left of its leases is free, opened or not.
func TestLeasesAreReleasedByWhoHasTheFolder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	w.start(options{patient: true})
	p := w.start(options{noKeeper: true})
	l := p.leaseOf("ws_1", 300)
	a, b := l.spend(100), l.spend(50)
	a.end(40)
	p.leaseGrant("ws_1", 500)
	p.flush()
	p.kill()
	next := w.start(options{dir: p.dir, noKeeper: true})
	next.awaitClosed(p.ProducerID())
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 90, confirmed: 90})
	wantLedger(t, w, map[string]int64{a.id: 40, b.id: 50, l.id: 0})
}

// The disk is lost: nobody knows what was taken of the leases since, so that all that is left of them is charged; of one that no log shows, all of it.
func TestLeasesAreChargedWhereTheDiskIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	w.start(options{})
	p := w.start(options{noKeeper: true})
	l := p.leaseOf("ws_1", 300)
	a := l.spend(100)
	a.end(40)
	p.flush()
	p.stopShipping()
	l.spend(50).end(10)
	unshipped := p.leaseOf("ws_1", 500)
	unshipped.spend(100)
	p.kill()
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 740, confirmed: 740})
	wantLedger(t, w, map[string]int64{a.id: 40, l.id: 200, unshipped.id: 500})
}

// Schedule (z): the holder of a lease pauses past its window, is taken for gone and charged for all of it. Then it goes on, and what it tells replaces what was charged.
func TestTheHolderOfALeaseComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	alive := w.start(options{})
	zombie := w.start(options{noKeeper: true})
	l := zombie.leaseOf("ws_1", 300)
	known := l.spend(100)
	zombie.flush()
	zombie.stopShipping()
	unknown := l.spend(50)
	zombie.stopBeating()
	alive.awaitClosed(zombie.ProducerID())
	w.await("ws_1", state{entries: "0", posted: 300, confirmed: 300})
	known.end(30)
	unknown.end(10)
	late := l.spend(70) // it has not heard that it is closed
	late.end(60)
	zombie.kill()
	w.start(options{dir: zombie.dir, noKeeper: true})
	w.await("ws_1", state{entries: "0", posted: 180, confirmed: 180})
	wantLedger(t, w, map[string]int64{known.id: 30, unknown.id: 10, late.id: 60, l.id: 80})
}

// And where it gives the rest back itself, nothing is charged for that.
func TestTheHolderOfALeaseComesBackAndGivesItBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	alive := w.start(options{})
	zombie := w.start(options{noKeeper: true})
	l := zombie.leaseOf("ws_1", 300)
	zombie.flush()
	zombie.stopBeating()
	alive.awaitClosed(zombie.ProducerID())
	w.await("ws_1", state{entries: "0", posted: 300, confirmed: 300})
	late := l.spend(70)
	late.end(60)
	l.giveBack()
	zombie.flush()
	w.await("ws_1", state{entries: "0", posted: 60, confirmed: 60})
	wantLedger(t, w, map[string]int64{late.id: 60, l.id: 0})
}

// And where its disk is lost behind that, with the ends of what it took, these stay charged and nothing is held for them.
func TestTheHolderOfALeaseComesBackAndItsDiskIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	alive := w.start(options{})
	zombie := w.start(options{noKeeper: true})
	l := zombie.leaseOf("ws_1", 300)
	zombie.flush()
	zombie.stopBeating()
	alive.awaitClosed(zombie.ProducerID())
	w.await("ws_1", state{entries: "0", posted: 300, confirmed: 300})
	told, lost := l.spend(70), l.spend(50)
	told.end(60)
	l.giveBack()
	zombie.flush()
	zombie.stopShipping()
	lost.end(10)
	zombie.kill()
	w.await("ws_1", state{entries: "0", posted: 110, confirmed: 110})
	wantLedger(t, w, map[string]int64{told.id: 60, l.id: 50})
	w.wipe()
	alive.reserveWhen("ws_1", 1).end(0)
	w.await("ws_1", state{entries: "0", posted: 110, confirmed: 110})
}

// A request that the holder had not ended when it died costs its bound, which the next process on its folder says.
func TestTheHolderOfALeaseComesBackAndDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	alive := w.start(options{})
	zombie := w.start(options{noKeeper: true})
	l := zombie.leaseOf("ws_1", 300)
	zombie.flush()
	zombie.stopBeating()
	alive.awaitClosed(zombie.ProducerID())
	w.await("ws_1", state{entries: "0", posted: 300, confirmed: 300})
	late := l.spend(70)
	zombie.kill()
	next := w.start(options{dir: zombie.dir, noKeeper: true})
	next.awaitForgotten()
	next.flush()
	wantLedger(t, w, map[string]int64{late.id: 70, l.id: 230})
	w.await("ws_1", state{entries: "0", posted: 300, confirmed: 300})
}
