package schedules_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness/faults"
)

// Schedules (a) and (8): a replica takes over that lacks the last grants; then the old primary follows it, and takes over again while it lags in turn. Nothing is admitted
// on the state that was rolled back.
func TestAReplicaTakesOverThatLacksGrants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.redis, faults.StartRedis(t)
	p, q := w.proxy(), w.proxy()
	w.setBudget(12)
	b.Follow(a)
	known := w.begin(p.URL, call.taking(4*time.Second))
	b.CaughtUp(a)
	b.Deafen()
	w.serve(q.URL, 3, call)
	lacking := w.begin(q.URL, call.taking(4*time.Second))
	b.Promote()
	w.lead(b)
	w.fill()
	known.want(http.StatusOK)
	lacking.want(http.StatusOK)

	// A→B→A.
	a.Follow(b)
	w.setBudget(20)
	a.CaughtUp(b)
	a.Deafen()
	w.serve(p.URL, 3, call)
	again := w.begin(p.URL, call.taking(3*time.Second))
	a.Promote()
	w.lead(a)
	w.fill()
	again.want(http.StatusOK)
	if epochs := w.check(books{full: true}).Epochs(); len(epochs) < 3 {
		t.Errorf("admissions in the epochs %v: the failovers and the load did not meet", epochs)
	}
}

// Schedules (9), (10) and (15): a replica takes over, and the old primary goes on for one process that does not see it, and for a new one. What was granted there is not sent once the process
// has sealed; a settle that only one of them hears of comes to the other by the log. Each of the two is made anew by a round of all processes when somebody there asks, after which nobody may use
// the other one until it is made anew in turn, so that all of them together spend one budget; and once everybody sees the new primary, all goes on.
func TestTheOldPrimaryIsIsolated(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.redis, faults.StartRedis(t)
	p, left := w.proxy(), w.proxy(patient())
	w.setBudget(14)
	b.Follow(a)
	before := w.begin(left.URL, call.taking(8*time.Second))
	b.CaughtUp(a)
	b.Promote()
	w.redis = b
	w.relay.Lead(b.Addr)
	p.relay.Lead(b.Addr)
	// Until somebody asks the new primary there is no round, and what the old one grants is in the log in front of the seals.
	held := left.relay.Catch(faults.HoldAnswer, 1, faults.Reserves(w.tenant.ID))
	late := w.send(left.URL, call)
	held.Await(1)
	w.serve(left.URL, 2, call)
	w.serve(p.URL, 1, call)
	held.Release()
	late.want(http.StatusServiceUnavailable)
	if w.reached(late.key) {
		t.Error("a grant of the isolated primary was sent behind the seal")
	}
	relay := faults.NewRelay(t, a.Addr)
	fresh := &proxy{faults.StartProxy(t, w.system, relay.URL()), relay}
	w.serve(fresh.URL, 1, call)
	w.serve(p.URL, 1, call)
	w.serve(left.URL, 1, call)
	w.serve(w.system.ProxyURL, 1, call)
	before.want(http.StatusOK)

	w.proxies = append(w.proxies, fresh)
	w.lead(b)
	w.serve(fresh.URL, 1, call)
	w.serve(left.URL, 1, call)
	w.fill()
	if epochs := w.check(books{full: true}).Epochs(); len(epochs) < 5 {
		t.Errorf("admissions in the epochs %v: they did not go back and forth", epochs)
	}
}
