// Package chaos_test lets everything fail under load, again and again and by a seed, and then holds what is left to the three promises: no admission
// above its limit, everything served in the books once, and every store of one mind.
package chaos_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

func itoa(n int) string { return strconv.Itoa(n) }

// plan is how long a run is and how long what is down stays so; `make chaos` sets the long one.
type plan struct {
	seed    uint64
	length  time.Duration
	outage  time.Duration
	between time.Duration
	rate    int
}

func planned(t *testing.T) plan {
	t.Helper()
	p := plan{seed: rand.Uint64(), length: 25 * time.Second, outage: 3 * time.Second, between: 2 * time.Second, rate: 40}
	if s := os.Getenv("RATEGUARD_CHAOS_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("RATEGUARD_CHAOS_TIME: %v", err)
		}
		p.length, p.outage, p.between, p.rate = d, 30*time.Second, 5*time.Second, 60
	}
	if s := os.Getenv("RATEGUARD_CHAOS_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("RATEGUARD_CHAOS_SEED: %v", err)
		}
		p.seed = n
	}
	return p
}

// world is the system under chaos: all roles in one process, three proxies and another processor beside it.
type world struct {
	t          *testing.T
	plan       plan
	rng        *rand.Rand
	system     *harness.System
	redis      *replicated
	broker     *faults.Broker
	proxies    []*faults.Proxy
	processors *faults.Role
	// books is the tenant whose requests are all counted.
	books *harness.Tenant
	// probe is a tenant whose hard budget is never spent, closed how long it could not be used after each loss of Redis.
	probe  *harness.Tenant
	closed []time.Duration
}

func TestNothingIsLostAndNoBudgetExceeded(t *testing.T) {
	p := planned(t)
	t.Logf("RATEGUARD_CHAOS_SEED=%d", p.seed)
	w := newWorld(t, p)
	books, tight, ahead := w.system.Tenant(t), w.system.Tenant(t), w.system.Tenant(t)
	w.books, w.probe = books, w.system.Tenant(t)
	w.budget(w.probe, "large", adminclient.PutBudget{USD: "1000", Period: "total"})
	// One workspace whose budget never binds, so that its books are full; one whose budgets bind all the time.
	w.budget(books, "large", adminclient.PutBudget{USD: "1000", Period: "total"})
	w.budget(tight, "raised", adminclient.PutBudget{USD: "0.05", Period: "total"})
	w.budget(tight, "mine", adminclient.PutBudget{USD: "0.3", Period: "total", Scope: "key"})
	// And one whose budget is reserved in advance until it comes close to its limit. None of the budgets has periods: the balance of a new hour would say
	// nothing of what was spent in the last one.
	w.budget(ahead, "raised", leased(1))
	for _, tenant := range []*harness.Tenant{books, tight, ahead, w.probe} {
		w.awaitBudget(tenant)
	}
	targets := make([]harness.Endpoints, len(w.proxies))
	for i, proxy := range w.proxies {
		targets[i] = harness.Endpoints{ProxyURL: proxy.URL}
	}
	impatience := rand.New(rand.NewPCG(p.seed, 1))
	load := harness.StartRestlessTraffic(t, targets, books.Key, p.rate, func() time.Duration {
		if impatience.IntN(10) > 0 {
			return 0
		}
		return time.Duration(1 + impatience.IntN(int(150*time.Millisecond)))
	})
	stops := []func(){w.press(tight), w.press(ahead)}
	w.rage(tight, ahead)
	for _, stop := range stops {
		stop()
	}
	sent := load.Stop()
	w.settle()
	c := harness.NewCount(t, w.system, books, sent)
	if c.Whole < len(sent)/10 {
		t.Errorf("%d of %d requests were answered whole", c.Whole, len(sent))
	}
	for _, tenant := range []*harness.Tenant{books, tight, ahead} {
		a := w.system.ReadAdmissions(t, tenant.ID)
		t.Logf("%d admissions in the epochs %v, %d of them by leases", a.Check(), a.Epochs(), a.Leased())
		if tenant == ahead && a.Leased() == 0 {
			t.Error("no lease was used")
		}
	}
	w.system.AwaitBalance(t, books, "large")
	w.system.AwaitBalance(t, tight, "raised")
	w.system.AwaitBalance(t, ahead, "raised")
	slices.Sort(w.closed)
	if n := len(w.closed); n > 0 {
		t.Logf("FIGURE closed after a loss of Redis: %d times, median %s, p99 %s, longest %s", n, w.closed[n/2], w.closed[n*99/100], w.closed[n-1])
	}
}

// leased is a budget of so many halves of a dollar, 250 calls each.
func leased(halves int) adminclient.PutBudget {
	return adminclient.PutBudget{USD: fmt.Sprintf("%d.%d", halves/2, 5*(halves%2)), Period: "total", Mode: "leased", LeasePercent: 50}
}

func newWorld(t *testing.T, p plan) *world {
	t.Helper()
	w := &world{t: t, plan: p, rng: rand.New(rand.NewPCG(p.seed, 0)), redis: startRedis(t), broker: faults.StartBroker(t)}
	w.system = harness.NewOn(t, harness.Stores{Redis: w.redis.front.URL(), Kafka: w.broker.Address})
	for range 3 {
		w.proxies = append(w.proxies, faults.StartProxy(t, w.system, w.redis.front.URL()))
	}
	w.startProcessors()
	return w
}

func (w *world) startProcessors() {
	w.t.Helper()
	w.processors = faults.StartProcessors(w.t, w.system)
}

func (w *world) budget(tenant *harness.Tenant, name string, b adminclient.PutBudget) {
	w.t.Helper()
	harness.Eventually(w.t, time.Minute, func() error {
		_, err := w.system.Admin.PutBudget(w.t.Context(), tenant.ID, name, b)
		return err
	})
}

var calls atomic.Int64 //nolint:gochecknoglobals // numbers requests of the whole program

// call asks a proxy for something that costs 0.002 USD; 0: there was no answer.
func (w *world) call(i int, tenant *harness.Tenant) (status int) {
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, w.proxies[i].URL+"/http/x", nil)
	if err != nil {
		return 0
	}
	r.Header.Set("Authorization", "Bearer "+tenant.Key)
	if tenant == w.books {
		r.Header.Set("Idempotency-Key", fmt.Sprintf("call-%d", calls.Add(1))) // by which the count knows it
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// awaitBudget waits until every proxy serves the tenant under its budgets: what is served before they are in force is not held to them.
func (w *world) awaitBudget(tenant *harness.Tenant) {
	w.t.Helper()
	for i := range w.proxies {
		harness.Eventually(w.t, time.Minute, func() error {
			if status := w.call(i, tenant); status != http.StatusOK && status != http.StatusPaymentRequired {
				return fmt.Errorf("proxy %d answers %d", i, status)
			}
			return nil
		})
	}
}

// press keeps a tenant's budgets full from all sides until the returned function is called.
func (w *world) press(tenant *harness.Tenant) (stop func()) {
	var ended atomic.Bool
	var all sync.WaitGroup
	for i := range 2 * len(w.proxies) {
		all.Go(func() {
			for !ended.Load() && w.t.Context().Err() == nil {
				if status := w.call(i%len(w.proxies), tenant); status == 0 || status == http.StatusServiceUnavailable || status == http.StatusPaymentRequired {
					pause(w.t, 50*time.Millisecond)
				}
			}
		})
	}
	return func() {
		ended.Store(true)
		all.Wait()
	}
}

// pause lets load run for a while; the length of a load is not a condition that one could wait for.
func pause(t *testing.T, d time.Duration) {
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// rage lets one thing fail after the other until the time is over.
func (w *world) rage(tight, ahead *harness.Tenant) {
	events := []struct {
		name string
		do   func()
	}{
		{"a proxy is killed", w.killProxy},
		{"processors are killed", w.killProcessors},
		{"Redis is wiped", func() { w.closedTime(w.redis.primary.Wipe) }},
		{"a replica takes over that lags behind", w.failover},
		{"Kafka is away", func() { w.stop([]int{w.broker.Pid()}) }},
		{"PostgreSQL is away", func() { w.stop(postgres()) }},
	}
	started := time.Now()
	for n := 1; time.Since(started) < w.plan.length; n++ {
		// Each kind once before any comes again, in an order of the seed.
		if (n-1)%len(events) == 0 {
			w.rng.Shuffle(len(events), func(i, j int) { events[i], events[j] = events[j], events[i] })
		}
		e := events[(n-1)%len(events)]
		w.t.Logf("%s: %s", time.Since(started).Round(time.Millisecond), e.name)
		e.do()
		w.budget(tight, "raised", adminclient.PutBudget{USD: fmt.Sprintf("0.%03d", 50+20*n), Period: "total"})
		w.budget(ahead, "raised", leased(n+1))
		pause(w.t, w.plan.between)
	}
}

func (w *world) killProxy() {
	i := w.rng.IntN(len(w.proxies))
	w.proxies[i].Kill()
	w.proxies[i].Start()
}

func (w *world) killProcessors() {
	w.processors.Kill()
	w.startProcessors()
}

func (w *world) failover() {
	w.redis.replica.Deafen()
	pause(w.t, 500*time.Millisecond) // what is granted now is what the replica lacks
	w.closedTime(w.redis.failover)
	w.redis.replica.Follow(w.redis.primary)
}

// stop stops processes for the length of an outage: they hang, as behind a broken network.
func (w *world) stop(pids []int) {
	signalAll(pids, syscall.SIGSTOP)
	pause(w.t, w.plan.outage)
	signalAll(pids, syscall.SIGCONT)
}

// closedTime loses Redis and measures until a proxy can use a hard budget again.
func (w *world) closedTime(lose func()) {
	lose()
	began := time.Now()
	harness.Eventually(w.t, 2*time.Minute, func() error {
		if status := w.call(0, w.probe); status != http.StatusOK {
			return fmt.Errorf("a hard budget answers %d", status)
		}
		return nil
	})
	w.closed = append(w.closed, time.Since(began))
}

// settle ends what the world began beside the system, so that all of it can be counted in one place.
func (w *world) settle() {
	for _, p := range w.proxies {
		p.Terminate()
	}
	for _, p := range w.proxies {
		<-p.Exited()
		p.Start() // what is left of the killed ones on its folder is closed
	}
	w.processors.Kill()
}
