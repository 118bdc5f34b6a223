package schedules_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// budget is the hard one that every request is held to.
const budget = "all"

// world is a system with one workspace, whose stores can fail. Its own proxy is one more process that never does.
type world struct {
	t      *testing.T
	redis  *faults.Redis
	broker *faults.Broker
	// relay is the way of the system itself to Redis; each proxy has one of its own.
	relay   *faults.Relay
	system  *harness.System
	tenant  *harness.Tenant
	proxies []*proxy
	// limit is that of the budget, in nano-USD, period the length of its periods, and timezone where they begin.
	limit            int64
	period, timezone string
	// leasePercent makes the budget a leased one; 0: it is strict.
	leasePercent int
	// ahead is by how much Redis' clock differs from the machine's.
	ahead time.Duration
	// control is the system with the admin API by which budgets are set and balances are read.
	control *harness.System

	// mu guards what follows.
	mu   sync.Mutex
	sent map[string]harness.Sent
	// closed counts the answers that said that budgets cannot be used now.
	closed int
}

// proxy is a process with its own way to Redis.
type proxy struct {
	*faults.Proxy
	relay *faults.Relay
}

func newWorld(t *testing.T) *world { t.Helper(); return newWorldAt(t, 0) }

// newWorldAt is newWorld with a clock of Redis that differs from the machine's from the beginning.
func newWorldAt(t *testing.T, ahead time.Duration) *world {
	t.Helper()
	w := &world{t: t, period: "total", ahead: ahead, redis: faults.StartRedis(t), broker: faults.StartBroker(t), sent: map[string]harness.Sent{}}
	w.relay = faults.NewRelay(t, w.redis.Addr)
	w.relay.Clock(ahead)
	w.system = harness.NewOn(t, harness.Stores{Redis: w.relay.URL(), Kafka: w.broker.Address})
	w.control = w.system
	t.Cleanup(w.broker.Continue) // the system ends before it
	w.tenant = w.system.Tenant(t)
	return w
}

// of returns the same world for another workspace, with books of its own.
func (w *world) of(tenant *harness.Tenant) *world {
	return &world{
		t: w.t, period: w.period, redis: w.redis, broker: w.broker, relay: w.relay, system: w.system, control: w.control, tenant: tenant, proxies: w.proxies,
		sent: map[string]harness.Sent{},
	}
}

// proxy starts a process. Those that are to be held to the budget from the beginning are started before it is set.
func (w *world) proxy(settings ...string) *proxy {
	w.t.Helper()
	relay := faults.NewRelay(w.t, w.redis.Addr)
	relay.Clock(w.ahead)
	p := &proxy{faults.StartProxy(w.t, w.system, relay.URL(), settings...), relay}
	w.proxies = append(w.proxies, p)
	return p
}

// patient are settings of a proxy whose decisions may take very long: what is held back for it arrives all the same, and is not refused for its age alone.
func patient() string { return "RATEGUARD_REDIS_TIMEOUT=3m" }

// lead leads everybody to another server.
func (w *world) lead(to *faults.Redis) {
	w.redis = to
	w.relay.Lead(to.Addr)
	for _, p := range w.proxies {
		p.relay.Lead(to.Addr)
	}
}

// bases are the URLs of all proxies, the system's own first.
func (w *world) bases() []string {
	all := []string{w.system.ProxyURL}
	for _, p := range w.proxies {
		all = append(all, p.URL)
	}
	return all
}

// setBudget sets the limit, in requests of the route "http", and waits until it is in force at the proxies named, all of them where none is. Nothing that costs
// anything is sent meanwhile: the provider fails, and what it fails is free.
func (w *world) setBudget(requests float64, at ...string) {
	w.t.Helper()
	first := w.limit == 0
	w.limit = int64(requests * harness.HTTPCostNano)
	if first {
		w.newBudget(budget, w.limit, at...)
		return
	}
	w.putBudget(budget, w.limit)
	w.awaitRoom(at...)
}

// newBudget is setBudget for one that is not there: until it refuses somewhere it is not in force there.
func (w *world) newBudget(name string, nano int64, at ...string) {
	w.t.Helper()
	if at == nil {
		at = w.bases()
	}
	w.putBudget(name, 1)
	w.await(http.StatusPaymentRequired, at...)
	w.putBudget(name, nano)
	w.awaitRoom(at...)
}

func (w *world) putBudget(name string, nano int64) {
	w.t.Helper()
	w.put(name, nano, w.period)
}

func (w *world) put(name string, nano int64, period string) {
	w.t.Helper()
	b := adminclient.PutBudget{USD: fmt.Sprintf("%d.%09d", nano/1e9, nano%1e9), Period: period, Timezone: w.timezone}
	if w.leasePercent > 0 {
		b.Mode, b.LeasePercent = "leased", w.leasePercent
	}
	if _, err := w.control.Admin.PutBudget(w.t.Context(), w.tenant.ID, name, b); err != nil {
		w.t.Fatalf("setting budget %s: %v", name, err)
	}
}

// deleteBudget deletes a budget that stands in the way, and waits until it does not at the proxies named, all of them where none is.
func (w *world) deleteBudget(name string, at ...string) {
	w.t.Helper()
	if err := w.system.Admin.DeleteBudget(w.t.Context(), w.tenant.ID, name); err != nil {
		w.t.Fatalf("deleting budget %s: %v", name, err)
	}
	w.awaitRoom(at...)
}

// awaitRoom waits until a request has room at the proxies named, all of them where none is.
func (w *world) awaitRoom(at ...string) {
	w.t.Helper()
	if at == nil {
		at = w.bases()
	}
	w.await(http.StatusInternalServerError, at...)
}

// await asks for what costs nothing in the end until proxies answer with the status: 500 where a request has room, 402 where it has not.
func (w *world) await(status int, at ...string) {
	w.t.Helper()
	for _, base := range at {
		harness.Eventually(w.t, time.Minute, func() error {
			if got := w.ask(base, free); got.status != status {
				return fmt.Errorf("%s answers %d %s, want %d", base, got.status, got.code, status)
			}
			return nil
		})
	}
}

// request is what a client asks for.
type request struct {
	method, path, body string
	fault              string
	// tags are what the client says about itself: the opening and the row have them, the end has not.
	tags string
	// ttft is how long the provider takes.
	ttft time.Duration
}

// tokens is how many the chats ask for.
const tokens = 2000

var (
	// call costs what it reserves.
	call = request{method: http.MethodGet, path: "/http/x"}
	// gated is a call that waits at the gate.
	gated = request{method: http.MethodGet, path: "/gated/x"}
	// free reserves as much, and costs nothing.
	free = request{method: http.MethodGet, path: "/http/x", fault: "500"}
	// chat costs much less than it reserves.
	chat = request{method: http.MethodPost, path: "/v1/chat/completions", body: fmt.Sprintf(`{"model":"gpt-4o-mini","max_tokens":%d,"messages":[{"role":"user","content":"hi"}]}`, tokens)}
)

// taking returns the request with a provider that takes that long.
func (r request) taking(d time.Duration) request { r.ttft = d; return r }

// answer is what a client got; status 0: nothing.
type answer struct {
	key    string
	status int
	code   string
	err    error
}

// pending is a request that was sent.
type pending struct {
	w    *world
	key  string
	done chan answer
}

// ask sends a request and waits for its answer.
func (w *world) ask(base string, r request) answer {
	w.t.Helper()
	return w.send(base, r).wait()
}

// send sends a request once.
func (w *world) send(base string, r request) *pending {
	w.t.Helper()
	p := &pending{w: w, key: w.nextKey(r), done: make(chan answer, 1)}
	out, err := http.NewRequestWithContext(w.t.Context(), r.method, base+r.path, strings.NewReader(r.body))
	if err != nil {
		w.t.Fatal(err)
	}
	out.GetBody = nil
	out.Header.Set("Authorization", "Bearer "+w.tenant.Key)
	out.Header.Set("Content-Type", "application/json")
	if r.fault != "" {
		out.Header.Set("X-Mock-Fault", r.fault)
	}
	if r.tags != "" {
		out.Header.Set("X-Rateguard-Tags", r.tags)
	}
	if p.key != "" {
		out.Header.Set("Idempotency-Key", p.key)
	}
	if r.ttft > 0 {
		out.Header.Set("X-Mock-Pace", "ttft="+r.ttft.String())
	}
	go func() { p.done <- w.exchange(p.key, r, out) }()
	return p
}

// nextKey returns the key by which the count knows a request; none for what the provider fails, as it bills nothing for it.
func (w *world) nextKey(r request) string {
	if r.fault != "" {
		return ""
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	key := fmt.Sprintf("%s-%d", w.tenant.ID, len(w.sent))
	w.sent[key] = harness.Sent{Kind: r.path}
	return key
}

func (w *world) exchange(key string, r request, out *http.Request) answer {
	// A connection of its own: one that a killed proxy leaves behind must not be taken for another request's failure, and net/http sends a GET again.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(out)
	if err != nil {
		return w.note(key, harness.Sent{Kind: r.path, Err: err}, answer{key: key, err: err})
	}
	defer func() { _ = response.Body.Close() }()
	_, err = io.Copy(io.Discard, response.Body)
	s := harness.Sent{Kind: r.path, ID: response.Header.Get("X-Request-Id"), Whole: err == nil && response.StatusCode == http.StatusOK, Err: err}
	return w.note(key, s, answer{key, response.StatusCode, response.Header.Get("X-Rateguard-Error"), err})
}

func (w *world) note(key string, s harness.Sent, a answer) answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	if key != "" {
		w.sent[key] = s
	}
	if a.status == http.StatusServiceUnavailable {
		w.closed++
	}
	return a
}

// wait waits for the answer.
func (p *pending) wait() answer {
	p.w.t.Helper()
	select {
	case a := <-p.done:
		p.done <- a
		return a
	case <-p.w.t.Context().Done():
		p.w.t.Fatal("no answer until the end of the test")
		return answer{}
	}
}

// want waits for the answer and checks its status.
func (p *pending) want(status int) {
	p.w.t.Helper()
	if a := p.wait(); a.status != status {
		p.w.t.Errorf("request %s: got %d %s %v, want %d", a.key, a.status, a.code, a.err, status)
	}
}

// begin sends a request and waits until the provider has it: it is open, and the log holds its opening or the disk does.
func (w *world) begin(base string, r request) *pending {
	w.t.Helper()
	p := w.send(base, r)
	harness.Eventually(w.t, 20*time.Second, func() error {
		select {
		case a := <-p.done:
			w.t.Fatalf("request %s: %d %s %v, and not open", a.key, a.status, a.code, a.err)
		default:
		}
		if !w.reached(p.key) {
			return errors.New("the provider has not got " + p.key)
		}
		return nil
	})
	return p
}

// reached reports whether the provider got a request.
func (w *world) reached(key string) bool {
	for _, r := range w.system.Mock.Served() {
		if r.IdempotencyKey == key {
			return true
		}
	}
	return false
}

// serve sends requests one after the other until n were served, and returns those. Budgets that cannot be used yet are asked again.
func (w *world) serve(base string, n int, r request) (all []*pending) {
	w.t.Helper()
	for range n {
		harness.Eventually(w.t, time.Minute, func() error {
			p := w.send(base, r)
			if got := p.wait(); got.status != http.StatusOK {
				return errors.Join(fmt.Errorf("%s answers %d %s", base, got.status, got.code), got.err)
			}
			all = append(all, p)
			return nil
		})
	}
	return all
}

// wantCut waits for the end of a request whose proxy was killed.
func (p *pending) wantCut() {
	p.w.t.Helper()
	if a := p.wait(); a.err == nil {
		p.w.t.Errorf("request %s of a killed proxy: %d", a.key, a.status)
	}
}

// wantClosed asks proxies a few times at once; each has to say that the budgets cannot be used.
func (w *world) wantClosed(why string, bases ...string) {
	w.t.Helper()
	var all []*pending
	for _, base := range bases {
		for range 3 {
			all = append(all, w.send(base, call))
		}
	}
	for _, p := range all {
		if a := p.wait(); a.status != http.StatusServiceUnavailable || a.code != "store_unavailable" {
			w.t.Errorf("%s: got %d %s %v, want store_unavailable", why, a.status, a.code, a.err)
		}
	}
}

// fill asks all proxies, or those named, until each refuses because the budget is spent.
func (w *world) fill(bases ...string) {
	w.t.Helper()
	w.fillUntil(http.StatusPaymentRequired, bases...)
}

// fillUntil is fill until each proxy answers with a status: 402 where the budget is spent, 429 where what is open stands in the way.
func (w *world) fillUntil(status int, bases ...string) {
	w.t.Helper()
	if bases == nil {
		bases = w.bases()
	}
	harness.Eventually(w.t, time.Minute, func() (err error) {
		all := make([]*pending, len(bases))
		for i, base := range bases {
			all[i] = w.send(base, call)
		}
		for i, p := range all {
			if a := p.wait(); a.status != status {
				err = errors.Join(fmt.Errorf("%s answers %d %s, want %d once nothing is left", bases[i], a.status, a.code, status), a.err)
			}
		}
		return err
	})
}

// books are what a test expects in the end.
type books struct {
	// unknown is how many costs nobody knows, each its bound; corrected how many were, until who knew better came back.
	unknown, corrected int
	// untold are the requests of which only Redis knew when their proxy was lost.
	untold []*pending
	// kept are those that only Redis knew to have ended.
	kept []*pending
	// unopened is how many grants had no opening when their proxy was killed.
	unopened int
	// full says that the budget was spent to the last nano-USD, in its last period if it has any.
	full bool
	// prompt says that no grant came when its client had given up: then there was nothing to take back.
	prompt bool
}

// check is the end of every schedule: at rest nothing is reserved, every admission of the log was within the limit, and what is posted is in every store what the provider
// has served, to the nano-USD, and the bound where nobody knows.
func (w *world) check(want books) *harness.Admissions {
	w.t.Helper()
	posted := w.control.AwaitBalance(w.t, w.tenant, budget)
	a := w.system.ReadAdmissions(w.t, w.tenant.ID)
	a.Check()
	losses := harness.Losses{Corrections: want.corrected}
	for _, p := range want.untold {
		losses.Untold = append(losses.Untold, p.key)
	}
	for _, p := range want.kept {
		losses.Kept = append(losses.Kept, p.key)
	}
	c := harness.NewCountOf(w.t, w.system, w.tenant, w.sent, losses)
	if posted != c.Posted || posted != c.Billed+c.Bounds {
		w.t.Errorf("the budget has posted %d nano-USD, the ledger has %d, the provider served %d, and %d are the bounds of what nobody knows", posted, c.Posted, c.Billed, c.Bounds)
	}
	if c.Estimated != want.unknown {
		w.t.Errorf("%d costs are not known, want %d", c.Estimated, want.unknown)
	}
	periods := a.Periods(budget)
	starts := slices.Sorted(maps.Keys(periods))
	for i, start := range starts {
		if posted := periods[start]; posted > w.limit || want.full && i == len(starts)-1 && posted != w.limit {
			w.t.Errorf("%d nano-USD are posted in the period that starts at %d, the limit is %d", posted, start, w.limit)
		}
	}
	takenBack := w.closed
	if want.prompt {
		takenBack = 0
	}
	w.audit(want.unopened + len(want.untold) + takenBack)
	return a
}

// audit lets the product itself hold the log against its rules. The numbers of so many grants may be missing: they were taken back, or lost with their proxy.
func (w *world) audit(most int) {
	w.t.Helper()
	doc, err := w.system.Admin.AuditBudgets(w.t.Context(), w.tenant.ID)
	if err != nil {
		w.t.Fatalf("auditing: %v", err)
	}
	var audit adminclient.BudgetAudit
	if err := json.Unmarshal(doc, &audit); err != nil {
		w.t.Fatalf("auditing: %v", err)
	}
	if !audit.OK || !audit.Complete || len(audit.Data) != 1 {
		w.t.Errorf("the audit says %s", doc)
		return
	}
	var missing int64
	for _, e := range audit.Data[0].Epochs {
		missing += e.Missing
	}
	if audit.Data[0].Broken != 0 || missing > int64(most) {
		w.t.Errorf("the audit finds %d breaches and %d numbers of grants without an opening, at most %d can be: %s", audit.Data[0].Broken, missing, most, doc)
	}
}
