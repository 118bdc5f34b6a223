package schedules_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// Schedule (q): Kafka is away, and there is no room for what proxies write: other programs fill the disk of one, and another one has come to the limit of its own. Requests are refused, nothing of
// them is sent or stays held, and the ends of all that are open find the room that was kept for them; they outlive a kill.
func TestAFullDiskTakesTheEndsOfWhatIsOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	full := w.proxyOnDisk()
	limited := w.proxy("RATEGUARD_SPOOL_SEGMENT_BYTES=65536", "RATEGUARD_SPOOL_MAX_BYTES=327680") // five ends of 64 KiB
	g := w.gate()
	w.setBudget(14)
	w.broker.Away()
	var open []*pending
	for range 3 {
		open = append(open, w.send(full.URL, gated))
	}
	g.AwaitWaiting(3)
	full.FillDisk()
	more := w.openUntilRefused(g, limited.URL)
	if len(more) == 0 || len(more) > 5 {
		t.Errorf("%d requests are open in 320 KiB", len(more))
	}
	sent := len(w.system.Mock.Served()) + g.Waiting()
	w.wantClosed("the disk is full", full.URL)
	w.wantClosed("the spool is at its limit", limited.URL)
	if now := len(w.system.Mock.Served()) + g.Waiting(); now != sent {
		t.Errorf("%d requests were sent that the log cannot hold", now-sent)
	}
	g.Open()
	for _, o := range append(open, more...) {
		o.want(http.StatusOK)
	}
	w.wantClosed("the disk is still full", full.URL)
	w.serve(limited.URL, 1, call) // its room is free again
	full.EmptyDisk()
	w.serve(full.URL, 1, call)
	full.Kill()
	w.broker.Back()
	full.Start()
	full.AwaitReady()
	w.awaitClosed(full)
	w.fill()
	w.check(books{full: true})
}

// openUntilRefused sends requests that wait at the gate until a proxy has no room for another one, and returns them.
func (w *world) openUntilRefused(g *faults.Gate, base string) (open []*pending) {
	w.t.Helper()
	for {
		before := g.Waiting()
		p, refused := w.send(base, gated), false
		harness.Eventually(w.t, 20*time.Second, func() error {
			select {
			case a := <-p.done:
				p.done <- a
				refused = true
				return nil
			default:
			}
			if g.Waiting() == before {
				return errors.New("the request has neither an answer nor come to the provider")
			}
			return nil
		})
		if refused {
			p.want(http.StatusServiceUnavailable)
			return open
		}
		open = append(open, p)
	}
}

// proxyOnDisk starts a process whose disk can be filled.
func (w *world) proxyOnDisk(settings ...string) *proxy {
	w.t.Helper()
	relay := faults.NewRelay(w.t, w.redis.Addr)
	p := &proxy{faults.StartProxyOnDisk(w.t, w.system, relay.URL(), settings...), relay}
	w.proxies = append(w.proxies, p)
	return p
}
