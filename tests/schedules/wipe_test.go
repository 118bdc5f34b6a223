package schedules_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// Schedules (b) and (7), and two losses in a row (c): Kafka is away, proxies open what only their disks know, and Redis loses everything. Budgets stay closed until each of them has said
// what it has opened: one that hangs, and then one that was killed, by the next process on its folder.
func TestAWipeWaitsForEverybodysSeal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, q := w.proxy(), w.proxy()
	w.setBudget(12)
	open := w.begin(p.URL, call.taking(3*time.Second))
	w.broker.Stop()
	w.serve(q.URL, 2, call)
	unshipped := w.begin(q.URL, call.taking(3*time.Second))
	q.Stop()
	w.redis.Wipe()
	w.wantClosed("Kafka is away", w.system.ProxyURL, p.URL)
	w.broker.Continue()
	w.wantClosed("a proxy hangs that has not sealed", w.system.ProxyURL, p.URL)
	q.Continue()
	w.serve(p.URL, 1, call)
	open.want(http.StatusOK)
	unshipped.want(http.StatusOK)

	w.broker.Away()
	w.serve(q.URL, 2, call)
	cut := w.begin(q.URL, call.taking(time.Minute))
	q.Kill()
	w.redis.Wipe()
	w.broker.Back()
	w.wantClosed("a proxy is dead and has not sealed", w.system.ProxyURL, p.URL)
	cut.wantCut()
	q.Start()
	q.AwaitReady()
	w.fill()
	if epochs := w.check(books{unknown: 1, full: true}).Epochs(); len(epochs) < 3 {
		t.Errorf("admissions in the epochs %v: the losses and the load did not meet", epochs)
	}
}

// Schedules (d), (14) and (16), and (v): what belongs to the old epoch is under way when Redis loses everything, and arrives in the new one: a reserve, the answer to one, a settle, and a
// reserve by a policy that was made tighter meanwhile.
func TestCallsOfTheOldEpochArriveInTheNewOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy(patient())
	w.setBudget(12)
	w.serve(p.URL, 1, call)
	wipe := func() {
		w.redis.Wipe()
		w.serve(w.system.ProxyURL, 1, call) // in the new epoch, for which p has sealed
	}

	reserve := p.relay.Catch(faults.HoldCommand, 1, faults.Reserves(w.tenant.ID))
	asked := w.send(p.URL, call)
	reserve.Await(1)
	wipe()
	reserve.Release()
	asked.want(http.StatusOK)

	granted := p.relay.Catch(faults.HoldAnswer, 1, faults.Reserves(w.tenant.ID))
	late := w.send(p.URL, call)
	granted.Await(1)
	wipe()
	granted.Release()
	late.want(http.StatusServiceUnavailable)
	if w.reached(late.key) {
		t.Error("a grant of the old epoch was sent behind the seal")
	}

	settle := p.relay.Catch(faults.HoldCommand, 1, faults.Settles(w.tenant.ID))
	ending := w.send(p.URL, call)
	settle.Await(1)
	wipe()
	settle.Release()
	ending.want(http.StatusOK)

	// Six were served. The budget is lowered to room for the one of the next wipe, and for no other.
	old := p.relay.Catch(faults.HoldCommand, 1, faults.Reserves(w.tenant.ID))
	loose := w.send(p.URL, call)
	old.Await(1)
	w.putBudget(budget, 6*harness.HTTPCostNano)
	w.await(http.StatusPaymentRequired, w.system.ProxyURL)
	w.setBudget(7, w.system.ProxyURL)
	wipe()
	old.Release()
	loose.want(http.StatusPaymentRequired)
	w.fill()
	w.check(books{full: true})
}
