package schedules_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// Schedule (z): a proxy is stopped with a lease that it has not given back, and with requests open that took from it. After a minute the others close it: those cost their bounds, and what is
// left of the lease is charged, as nobody knows who took from it. Nobody else can spend that. Then it wakes up: it takes nothing more from the lease, tells what its requests
// cost, and gives the rest back.
func TestAHolderOfALeaseIsStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.leasePercent = 50
	p := w.proxy()
	w.setBudget(600) // an attempt to stop it takes 25, and about half of them come to nothing
	slow := w.stopWithALease(p)
	w.awaitGone(p.Producers()...)
	charged := w.system.ReadAdmissions(t, w.tenant.ID).Charged()
	if charged == 0 {
		t.Error("nothing is charged for what the holder may have lent")
	}
	w.fill(w.system.ProxyURL)
	p.Continue()
	for _, s := range slow {
		s.want(http.StatusOK)
	}
	select {
	case <-p.Exited():
	case <-time.After(time.Minute):
		t.Error("a proxy that is closed goes on")
	}
	p.Start()
	p.AwaitReady()
	w.awaitClosed(p)
	w.fill()
	w.check(books{corrected: len(slow) + charged, full: true})
}

// stopWithALease stops a proxy at an instant at which the log shows a lease of it that has not ended, and no request open but the slow ones that it returns. Where the lease has
// ended meanwhile, or something is not in the log yet, it tries again.
func (w *world) stopWithALease(p *proxy) (slow []*pending) {
	w.t.Helper()
	w.awaitShipped()
	admitted := w.system.ReadAdmissions(w.t, w.tenant.ID).Requests()
	harness.Eventually(w.t, time.Minute, func() error {
		for range 3 {
			var quick []*pending
			for range 8 {
				quick = append(quick, w.send(p.URL, call))
				admitted++
			}
			for _, q := range quick {
				q.want(http.StatusOK)
			}
		}
		slow = append(slow, w.begin(p.URL, call.taking(40*time.Second)))
		admitted++
		p.Stop()
		a := w.system.ReadAdmissions(w.t, w.tenant.ID)
		requests, leases := a.Open()
		untold := slices.DeleteFunc(w.openHere(), a.Opened)
		if requests == len(slow) && leases > 0 && a.Requests() == admitted && len(untold) == 0 {
			return nil
		}
		p.Continue()
		return fmt.Errorf("%d of %d requests are in the log, %d requests and %d leases are open, want %d and one; the log does not know %v", a.Requests(), admitted, requests, leases, len(slow), untold)
	})
	return slow
}
