package keeper_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/topics/hash"
)

// torn is a world in which the log has lost the opening of a reservation of ws_1 that its sums still hold. It returns who has it open, and the
// folder of the keeper that is gone: who follows there seals for it.
func torn(t *testing.T) (w *world, open *reservation, dir string) {
	t.Helper()
	w = newWorld(t, "ws_1")
	first := w.start(options{})
	p := w.start(options{noKeeper: true})
	<-p.Announced()
	open = p.reserve("ws_1", 300)
	p.flush()
	w.await("ws_1", state{epoch: "1", entries: "1", reserved: 300})
	first.kill()
	n := hash.Partition([]byte("ws_1"), partitions)
	w.fold(n)
	w.trim(n)
	w.wipe()
	return w, open, first.dir
}

// neighbour adds a workspace to the partition of ws_1.
func (w *world) neighbour(i int) string {
	for ; ; i += 1000 {
		if ws := fmt.Sprint("beside_", i); hash.Partition([]byte(ws), partitions) == hash.Partition([]byte("ws_1"), partitions) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.budgets[ws] = 1
			return ws
		}
	}
}

// Budgets that the log does not show whole stay closed. Whoever asks for them again and again makes no round start again and again, which would close those of
// the workspaces beside them.
func TestBudgetsThatTheLogDoesNotShowWholeStartOneRound(t *testing.T) {
	t.Parallel()
	w, _, dir := torn(t)
	p := w.start(options{dir: dir})
	if _, err := p.admit("ws_1", 1); !errors.Is(err, epoch.ErrNotInstalled) {
		t.Fatalf("granted although a reservation is missing: %v", err)
	}
	n := hash.Partition([]byte("ws_1"), partitions)
	redistest.Until(t, "a round", func() bool { return w.rounds(n) > 0 })
	wants := lua.NewWants(w.rdb[0])
	for i := range 20 {
		// Who is wanted together is looked at together; what was never there is made without a round.
		ws := w.neighbour(i)
		must(t, wants.Want(t.Context(), []string{"ws_1", ws}))
		redistest.Until(t, "the budgets beside them", func() bool { return w.state(ws).epoch != "" })
	}
	if got := w.rounds(n); got != 1 {
		t.Errorf("%d rounds were started", got)
	}
	if got := w.state("ws_1"); got != (state{}) {
		t.Errorf("budgets that lack a reservation are installed: %+v", got)
	}
}

// They are tried again after a while, and open once the log shows all that is open.
func TestBudgetsOpenWhenTheLogShowsThemWhole(t *testing.T) {
	t.Parallel()
	w, open, dir := torn(t)
	p := w.start(options{dir: dir, tornFor: 50 * time.Millisecond})
	if _, err := p.admit("ws_1", 1); !errors.Is(err, epoch.ErrNotInstalled) {
		t.Fatalf("granted although a reservation is missing: %v", err)
	}
	open.end(120)
	r := p.reserveWhen("ws_1", 880)
	if _, err := p.admit("ws_1", 1); !errors.Is(err, errDenied) {
		t.Errorf("above the limit: %v", err)
	}
	r.end(0)
	w.await("ws_1", state{entries: "0", posted: 120, confirmed: 120})
}

// What Redis was last shown of a workspace stands before what is left of the log: the ends between are in the sums and in no step. A round brings them in.
func TestBudgetsBeforeWhatIsLeftOfTheLogAreMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	first := w.start(options{})
	p := w.start(options{noKeeper: true})
	<-p.Announced()
	warm := p.reserve("ws_1", 1)
	warm.end(1)
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 1, confirmed: 1})
	first.kill()
	settled, unsettled := p.reserve("ws_1", 100), p.reserve("ws_1", 50)
	settled.end(30)
	settled.settle(30)
	unsettled.end(20)
	p.flush()
	n := hash.Partition([]byte("ws_1"), partitions)
	w.fold(n)
	w.trim(n)
	next := w.start(options{dir: first.dir})
	open := p.reserveWhen("ws_1", 400)
	w.await("ws_1", state{epoch: "2", entries: "1", posted: 51, reserved: 400, confirmed: 51})
	if got := w.rounds(n); got != 1 {
		t.Errorf("%d rounds were started", got)
	}
	if _, err := next.admit("ws_1", 550); !errors.Is(err, errDenied) {
		t.Errorf("above the limit: %v", err)
	}
	open.end(0)
	w.await("ws_1", state{epoch: "2", entries: "0", posted: 51, confirmed: 51})
}

// Redis says nothing of budgets when a keeper begins, and the log has nothing more of the workspace after that: what has ended comes in all the same once Redis answers.
func TestWhatEndedWhileRedisSaidNothingComesIn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	first, q := w.start(options{}), w.start(options{noKeeper: true})
	r := q.reserve("ws_1", 600)
	w.await("ws_1", state{epoch: "1", entries: "1", reserved: 600})
	first.stopKeeping()
	must(t, w.rdb[0].Do(t.Context(), "acl", "setuser", "default", "-hmget").Err()) // an office is held without it
	r.end(100)
	q.flush()
	w.start(options{})
	redistest.Until(t, "a keeper that has asked for the place where it begins, and for that of its first step", func() bool {
		log, err := w.rdb[0].ACLLog(t.Context(), 100).Result()
		must(t, err)
		var denied int64
		for _, e := range log {
			if e.Object == "hmget" {
				denied += e.Count
			}
		}
		return denied >= 2
	})
	must(t, w.rdb[0].Do(t.Context(), "acl", "setuser", "default", "+hmget").Err())
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 100, confirmed: 100})
}
