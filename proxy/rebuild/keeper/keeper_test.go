package keeper_test

import (
	"errors"
	"testing"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/lua"
)

// The life of a budget: its first use makes it, what ended is confirmed by the log, and a Redis that is wiped gets it back, with what is open.
func TestBudgetsAreMadeConfirmedAndMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p := w.start(options{})
	a := p.reserve("ws_1", 600)
	w.await("ws_1", state{epoch: "1", entries: "1", reserved: 600})
	if _, err := p.admit("ws_1", 500); !errors.Is(err, errDenied) {
		t.Errorf("above the limit: %v", err)
	}
	a.end(250)
	a.settle(250)
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 250, confirmed: 250})
	b := p.reserve("ws_1", 300) // settled in the log, not in Redis
	b.end(100)
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 350, confirmed: 350})
	open := p.reserve("ws_1", 400)
	w.wipe()
	if _, err := p.admit("ws_1", 300); !errors.Is(err, errDenied) {
		t.Errorf("after a wipe: %v", err)
	}
	w.await("ws_1", state{entries: "1", posted: 350, reserved: 400, confirmed: 350})
	p.reserve("ws_1", 250)
	open.end(0)
	open.settle(0)
	w.await("ws_1", state{entries: "1", posted: 350, reserved: 250, confirmed: 350})
}

// Schedule (b): what one process has opened and not shipped when Redis is lost is counted before another may go on.
func TestAWipeWaitsForEverybodysSeal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p := w.start(options{})
	silent := w.start(options{noSeals: true, noKeeper: true})
	<-silent.Announced()
	open := silent.reserve("ws_1", 600)
	silent.flush()
	w.wipe()
	if _, err := p.admit("ws_1", 1); !errors.Is(err, epoch.ErrNotInstalled) {
		t.Fatalf("opened although a producer has not sealed: %v", err)
	}
	// It ends, and the next process on its folder seals in its name.
	silent.kill()
	next := w.start(options{dir: silent.dir, noKeeper: true})
	p.reserve("ws_1", 400)
	if _, err := next.admit("ws_1", 1); !errors.Is(err, errDenied) {
		t.Errorf("above the limit: %v", err)
	}
	_ = open
}

// Schedule (d), (16): a grant of the old epoch is not opened once the process has sealed, and one that is open is in what is installed.
func TestAGrantOfTheOldEpochIsNotOpened(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p, q := w.start(options{}), w.start(options{})
	kept := p.reserve("ws_1", 300)
	late, err := p.admit("ws_1", 700)
	must(t, err)
	w.wipe()
	if _, err := q.admit("ws_1", 701); !errors.Is(err, errDenied) {
		t.Errorf("more than is left: %v", err)
	}
	if err := late.open(); !errors.Is(err, epoch.ErrOld) {
		t.Errorf("opening under the old epoch: %v", err)
	}
	if _, err := q.admit("ws_1", 700); err != nil {
		t.Errorf("what is left: %v", err)
	}
	kept.end(300)
	w.await("ws_1", state{entries: "1", posted: 300, reserved: 700, confirmed: 300})
	if err := p.admissions.Adjust(t.Context(), lua.Cancel, late.req, late.grant.NowUS); err != nil {
		t.Error(err)
	}
	w.await("ws_1", state{entries: "1", posted: 300, reserved: 700, confirmed: 300})
}

// Schedules (c) and (7): two losses in a row, and between them a process reserves what it has not shipped. The second round waits for it as the first one did, and all of it
// counts.
func TestTwoLossesInARow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p, q := w.start(options{}), w.start(options{noKeeper: true})
	first := q.reserve("ws_1", 100)
	w.wipe()
	second := q.reserveWhen("ws_1", 200)
	q.flush()
	q.stopShipping()
	unshipped := q.reserve("ws_1", 300)
	w.wipe()
	if _, err := p.admit("ws_1", 1); !errors.Is(err, epoch.ErrNotInstalled) {
		t.Fatalf("opened although a producer has not sealed: %v", err)
	}
	q.kill()
	w.start(options{dir: q.dir, noKeeper: true})
	p.reserveWhen("ws_1", 400)
	w.await("ws_1", state{entries: "1", posted: 600, reserved: 400, confirmed: 600})
	wantLedger(t, w, map[string]int64{first.id: 100, second.id: 200, unshipped.id: 300})
}

// Schedule (14): the policy is made tighter while a process is cut off, and Redis loses everything with the version that it had seen. What is installed has the version of
// the policies' topic, so that the old one is refused as before.
func TestAnOldPolicyIsRefusedAfterAWipe(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p := w.start(options{})
	p.reserve("ws_1", 100).end(100)
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 100, confirmed: 100})
	w.mu.Lock()
	w.budgets["ws_1"] = 2
	w.mu.Unlock()
	w.wipe()
	if _, err := p.admit("ws_1", 1); !errors.Is(err, lua.ErrOldPolicy) {
		t.Errorf("by the old policy: %v", err)
	}
	w.await("ws_1", state{entries: "0", posted: 100, confirmed: 100})
}
