package schedules_test

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// openRequests is how many are open at once. RATEGUARD_OPEN_REQUESTS makes it 15,000, for which this process needs as many descriptors, and the others no more than that.
func openRequests(t *testing.T) int {
	t.Helper()
	text, there := os.LookupEnv("RATEGUARD_OPEN_REQUESTS")
	if !there {
		return 3000
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("RATEGUARD_OPEN_REQUESTS: %v", err)
	}
	return n
}

// Schedule (r): thousands of requests of one workspace are open at three proxies when Redis loses everything. All of them are there again before anything is granted: what the limit leaves is, and
// nothing beyond. Then all of them end.
func TestThousandsAreOpenWhenRedisIsLost(t *testing.T) {
	const rest = 10
	w := newWorld(t)
	for range 3 {
		w.proxy()
	}
	g := w.gate()
	n := openRequests(t)
	w.setBudget(float64(n + rest))
	w.serve(w.proxies[0].URL, 2, call)
	began := time.Now()
	open := w.openMany(g, n)
	t.Logf("FIGURE %d requests are open after %s", n, time.Since(began).Round(time.Millisecond))
	w.awaitOpened(n)
	w.redis.Wipe()
	began = time.Now()
	w.serve(w.proxies[1].URL, 1, call)
	closed := time.Since(began)
	if here := len(w.openHere()); here != n || g.Waiting() != n {
		t.Errorf("%d requests wait, and Redis has %d open ones again, want %d", g.Waiting(), here, n)
	}
	key := keyspace.State(w.tenant.ID)
	bytes, err := w.redis.Client.MemoryUsage(t.Context(), key, 0).Result()
	if err != nil {
		t.Fatal(err)
	}
	fields := w.redis.Client.HLen(t.Context(), key).Val()
	t.Logf("FIGURE budgets are closed for %s; then the state has %d fields in %d bytes", closed.Round(time.Millisecond), fields, bytes)
	for i, p := range w.proxies {
		t.Logf("FIGURE proxy %d has %s resident", i, p.resident(t))
	}
	before := len(w.system.Mock.Served())
	w.fillUntil(http.StatusTooManyRequests)
	if more := len(w.system.Mock.Served()) - before; more != rest-3 {
		t.Errorf("%d more requests were served, the limit leaves %d", more, rest-3)
	}
	began = time.Now()
	g.Open()
	for _, o := range open {
		o.want(http.StatusOK)
	}
	t.Logf("FIGURE all have ended after %s", time.Since(began).Round(time.Millisecond))
	w.fill()
	w.check(books{full: true})
	if left := len(w.openHere()); left != 0 {
		t.Errorf("Redis has %d open reservations", left)
	}
}

// openMany sends requests to the proxies in turns, as fast as they come to the gate, and waits until so many are there. One that is refused is sent again.
func (w *world) openMany(g *faults.Gate, n int) (open []*pending) {
	w.t.Helper()
	const atOnce = 200
	for sent := 0; ; {
		waiting := g.Waiting()
		if waiting == n {
			return open
		}
		if len(open)-waiting < atOnce && len(open) < n {
			for range min(atOnce, n-len(open)) {
				open = append(open, w.send(w.proxies[sent%len(w.proxies)].URL, gated))
				sent++
			}
			continue
		}
		kept := open[:0]
		for _, o := range open {
			select {
			case a := <-o.done:
				if a.status != http.StatusServiceUnavailable && a.status != http.StatusTooManyRequests {
					w.t.Fatalf("request %s: %d %s %v, and not open", a.key, a.status, a.code, a.err)
				}
			default:
				kept = append(kept, o)
			}
		}
		open = kept
	}
}

// gate keeps the requests for gated waiting at the provider. It is made before the budget is set.
func (w *world) gate() *faults.Gate {
	w.t.Helper()
	g := faults.StartGate(w.t, strings.TrimPrefix(w.system.MockURL, "http://"))
	w.tenant.Route("gated", adminclient.PutRoute{Provider: "http", BaseURL: g.URL, Cost: &adminclient.Cost{Mode: "per_request", USD: harness.HTTPCostUSD}})
	return g
}

// openHere are the reservations and leases that are open in Redis.
func (w *world) openHere() (ids []string) {
	w.t.Helper()
	state, err := w.redis.Client.HGetAll(w.t.Context(), keyspace.State(w.tenant.ID)).Result()
	if err != nil {
		w.t.Fatal(err)
	}
	for field, text := range state {
		if id, entry := strings.CutPrefix(field, "e"); entry && field != "epoch" && strings.HasPrefix(text, "o ") {
			ids = append(ids, id)
		}
	}
	return ids
}

// resident is what a process takes of the memory.
func (p *proxy) resident(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}
