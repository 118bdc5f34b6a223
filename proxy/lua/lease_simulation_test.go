package lua_test

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/ratelimit"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// world is a simulation: proxies that run their real code in virtual time, against the real scripts in a real Redis whose clock is
// virtual too. Everything that happens follows from the seed.
type world struct {
	t       *testing.T
	r       *rand.Rand
	rdb     *redis.Client
	scripts map[string]*redis.Script
	now     time.Time
	queue   events
	order   int
	yield   func(time.Duration) bool // of the coroutine that runs
	proxies []*simProxy
	policy  *call.Workspace
	// trip is the longest way to Redis and back; lost is the share of answers that are lost.
	trip time.Duration
	lost float64
	// admitted is the recorder: what was let through, in order.
	admitted []passed
	calls    int
	decided  map[string]int
	lentMost int64
}

type passed struct {
	at   time.Time
	cost int64
}

type event struct {
	at    time.Time
	order int
	run   func()
}

// events is a queue by time, then by order of making.
type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

func newWorld(t *testing.T, rdb *redis.Client, seed uint64, l *rateguardv1.Limit) *world {
	w := &world{
		t: t, r: rand.New(rand.NewPCG(seed, 7)), rdb: rdb, scripts: map[string]*redis.Script{}, now: time.Unix(1_790_000_000, 0),
		trip: 2 * time.Millisecond, decided: map[string]int{},
	}
	if err := rdb.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	w.set(l)
	return w
}

// set publishes a policy with that limit.
func (w *world) set(l *rateguardv1.Limit) {
	version := uint64(1)
	if w.policy != nil {
		version = w.policy.Version + 1
	}
	w.policy = &call.Workspace{ID: "ws", Version: version, Document: &rateguardv1.WorkspacePolicy{Limits: []*rateguardv1.Limit{l}}}
}

// at runs f at the instant.
func (w *world) at(t time.Time, f func()) {
	w.order++
	heap.Push(&w.queue, event{t, w.order, f})
}

// spawn runs f as a coroutine, which may sleep.
func (w *world) spawn(f func()) {
	next, _ := iter.Pull(func(yield func(time.Duration) bool) {
		w.yield = yield
		f()
	})
	var step func()
	step = func() {
		if d, ok := next(); ok {
			w.at(w.now.Add(d), step)
		}
	}
	w.at(w.now, step)
}

// sleep lets the coroutine wait.
func (w *world) sleep(d time.Duration) {
	yield := w.yield
	yield(d)
	w.yield = yield
}

// run goes on until the instant.
func (w *world) run(until time.Time) {
	for len(w.queue) > 0 && !w.queue[0].at.After(until) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.run()
	}
	w.now = until
}

// Eval runs a script in virtual time: half of the trip before, half behind.
func (w *world) Eval(ctx context.Context, s *lua.Script, keys []string, args func(lua.Times) []any) (lua.Reply, error) {
	w.calls++
	out := time.Duration(w.r.Int64N(int64(w.trip)/2 + 1))
	given := args(lua.Times{}) // made when it is sent
	w.sleep(out)
	script := w.scripts[s.SHA()]
	if script == nil {
		script = redis.NewScript(strings.Replace(s.Source(), "redis.call('TIME')", "redis.call('MGET', 'clock:s', 'clock:us')", 1))
		w.scripts[s.SHA()] = script
	}
	us := w.now.UnixMicro()
	pipe := w.rdb.Pipeline()
	pipe.MSet(ctx, "clock:s", us/1_000_000, "clock:us", us%1_000_000)
	cmd := script.EvalSha(ctx, pipe, keys, given...)
	holders := pipe.HVals(ctx, keyspace.Slotted(keyspace.Bucket("ws", "l", ""), 0))
	_, err := pipe.Exec(ctx)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		cmd = script.Eval(ctx, w.rdb, keys, given...)
	}
	values, err := cmd.Slice()
	if err != nil {
		w.t.Fatal(err)
	}
	w.lentMost = max(w.lentMost, w.lent(holders.Val()))
	w.sleep(time.Duration(w.r.Int64N(int64(w.trip)/2 + 1)))
	if w.r.Float64() < w.lost {
		return lua.Reply{}, &lua.UnavailableError{Reason: lua.ReasonTimeout, MayHaveRun: true, Err: errors.New("the answer is lost")}
	}
	return lua.Reply{Values: values, RedisUS: us, Received: w.now, Shard: "sim"}, nil
}

// simProxy is one proxy process.
type simProxy struct {
	w      *world
	name   string
	step   *ratelimit.RateLimit
	leases *ratelimit.Leases
	amends *ratelimit.Amends
	policy *call.Workspace
	dead   bool
	// paused: nothing returns what lies idle.
	paused bool
}

func (w *world) start() *simProxy {
	p := &simProxy{w: w, name: "proxy" + strconv.Itoa(len(w.proxies)), policy: w.policy}
	reg, log := prometheus.NewRegistry(), slog.New(slog.DiscardHandler)
	store := lua.NewAdmissions(w, reg)
	p.leases = ratelimit.NewLeases(ratelimit.LeaseConfig{
		Holder: p.name, Store: store, Log: log, Metrics: reg, Now: func() time.Time { return w.now }, Spawn: w.spawn,
	})
	p.amends = ratelimit.NewAmends(store, log, reg)
	p.step = ratelimit.New(ratelimit.Options{
		Store: store, Policies: p, Amends: p.amends, Leases: p.leases, Proxies: func() int { return len(w.proxies) }, Log: log, Metrics: reg,
	}, call.HandlerFunc(p.forward))
	w.proxies = append(w.proxies, p)
	w.spawn(func() {
		for !p.dead {
			w.sleep(100 * time.Millisecond)
			if !p.dead && !p.paused {
				p.leases.Sweep(w.t.Context())
			}
		}
	})
	return p
}

// Refresh implements ratelimit.Policies.
func (p *simProxy) Refresh(context.Context, string) (*call.Workspace, error) {
	if p.policy == p.w.policy {
		return nil, nil
	}
	p.policy = p.w.policy
	return p.policy, nil
}

// Revoke implements ratelimit.Policies.
func (p *simProxy) Revoke(string) {}

func (p *simProxy) forward(c *call.Call) error {
	k := c.Checks[0]
	p.w.decided[k.GetDecidedBy()]++
	if k.GetDecidedBy() == "local" {
		return nil // counted by another promise: the share while the store is away
	}
	p.w.admitted = append(p.w.admitted, passed{p.w.now, k.GetCost()})
	return nil
}

// finish ends all coroutines.
func (w *world) finish() {
	for _, p := range w.proxies {
		p.dead = true
	}
	for len(w.queue) > 0 {
		w.run(w.queue[0].at)
	}
}

// request makes one request; it runs in a coroutine of its own.
func (p *simProxy) request() {
	p.w.spawn(func() {
		if p.dead {
			return
		}
		id := call.NewID(p.w.now)
		c := &call.Call{
			ID: id, Writer: httptest.NewRecorder(), Request: httptest.NewRequest(http.MethodPost, "/", nil).WithContext(p.w.t.Context()),
			Start: p.w.now, Workspace: p.policy, Key: &call.Key{ID: "key"}, RouteID: "openai", Dialect: call.OpenAI,
		}
		err := p.step.Serve(c)
		var e *call.Error
		if err != nil && (!errors.As(err, &e) || e.Code != call.RateLimitExceeded) {
			p.w.t.Errorf("request: %v", err)
		}
	})
}

// load makes rate requests a second on the proxy from now on, for the time.
func (p *simProxy) load(rate float64, d time.Duration) {
	w := p.w
	end := w.now.Add(d)
	w.spawn(func() {
		for w.now.Before(end) && !p.dead {
			p.request()
			w.sleep(time.Duration(w.r.ExpFloat64() / rate * float64(time.Second)))
		}
	})
}

// excess is the most that was admitted in any time above rate·time, by the recorder, in units.
func (w *world) excess(l *rateguardv1.Limit) float64 {
	perUS := float64(l.GetLimit()) / float64(l.GetWindowUs())
	var sum, low, most float64
	for i, a := range w.admitted {
		us := float64(a.at.Sub(w.admitted[0].at).Microseconds())
		// Σ in [tᵢ,tⱼ] − r·(tⱼ−tᵢ) = (Sⱼ − r·tⱼ) − (Sᵢ₋₁ − r·tᵢ)
		if before := sum - perUS*us; i == 0 || before < low {
			low = before
		}
		sum += float64(a.cost)
		most = max(most, sum-perUS*us-low)
	}
	return most
}

// lent is what these holders hold, of those whose time is not over.
func (w *world) lent(held []string) (units int64) {
	for _, v := range held {
		var n, until int64
		if _, err := fmt.Sscan(v, &n, &until); err != nil {
			w.t.Fatal(err)
		}
		if until > w.now.UnixMicro() {
			units += n
		}
	}
	return units
}

// holders are all that Redis has of the limit's bucket.
func (w *world) holders() []string {
	held, err := w.rdb.HVals(w.t.Context(), keyspace.Slotted(keyspace.Bucket("ws", "l", ""), 0)).Result()
	if err != nil {
		w.t.Fatal(err)
	}
	return held
}

func seedOf(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("RATEGUARD_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("RATEGUARD_SEED=%d", seed)
	return seed
}

// leased is the limit of these simulations: of 10,000 at once and 1,000 a second, 5 % may be held.
func leased(l int64, burst int64) *rateguardv1.Limit {
	return limit.WithDefaults(&rateguardv1.Limit{Id: "l", Limit: l, WindowUs: 1_000_000, Burst: burst, Mode: limit.ModeLeased})
}

// Whatever happens, no time sees more than burst + rate·t and what may be held: proxies come, stall and die with what they hold, answers are lost, load
// swings between idle and far too much, all at once.
func TestLeasesNeverAdmitMoreThanTheyMayHold(t *testing.T) {
	t.Parallel()
	seed := seedOf(t)
	rdb := redistest.Start(t).Client()
	rounds := 3
	if n, err := strconv.Atoi(os.Getenv("RATEGUARD_ROUNDS")); err == nil {
		rounds = n
	}
	for round := range rounds {
		l := leased(1000, []int64{1000, 4000, 10000}[round%3])
		w := newWorld(t, rdb, seed+uint64(round), l)
		n := 1 + w.r.IntN(50)
		if round == 0 {
			n = 50
		}
		w.lost = []float64{0, 0.02, 0.2}[w.r.IntN(3)]
		w.trip = []time.Duration{time.Millisecond, 20 * time.Millisecond, 90 * time.Millisecond}[w.r.IntN(3)]
		for range n {
			w.start()
		}
		start := w.now
		for w.now.Sub(start) < 4*time.Second {
			w.misbehave(n)
			w.run(w.now.Add(time.Duration(w.r.Int64N(int64(700 * time.Millisecond)))))
		}
		w.finish()
		allowed := float64(l.GetBurst()) * (1 + float64(l.GetLeasePercent())/100)
		got := w.excess(l)
		t.Logf("%d proxies, burst %d, trip %v, lost %.2f: at once %.0f of %.0f, held %d; %d calls for %v decisions",
			n, l.GetBurst(), w.trip, w.lost, got, allowed, w.lentMost, w.calls, w.decided)
		if got > allowed {
			t.Errorf("round %d: %.1f were admitted above the rate, allowed are %.1f", round, got, allowed)
		}
		if w.lentMost > l.GetBurst()*int64(l.GetLeasePercent())/100 {
			t.Errorf("round %d: %d were held", round, w.lentMost)
		}
	}
}

// misbehave does something to the proxies.
func (w *world) misbehave(most int) {
	alive := w.alive()
	switch p := alive[w.r.IntN(len(alive))]; w.r.IntN(6) {
	case 0: // all want something, then all are idle for as long as a lease lives
		for _, p := range alive {
			p.load(2000, 300*time.Millisecond)
		}
	case 1: // a burst at all of them
		for _, p := range alive {
			for range 200 {
				p.request()
			}
		}
	case 2:
		p.load(5000, time.Second)
	case 3:
		p.dead = true
		if len(alive) <= most {
			w.start()
		}
	case 4:
		w.run(w.now.Add(time.Second - time.Duration(w.r.Int64N(int64(20*time.Millisecond)))))
	case 5:
		for _, p := range alive {
			p.load(50, time.Second)
		}
	}
}

func (w *world) alive() (out []*simProxy) {
	for _, p := range w.proxies {
		if !p.dead {
			out = append(out, p)
		}
	}
	return out
}

// keep makes a request now and then on each proxy, so that what it holds does not lie idle, until the time is over.
func (w *world) keep(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.run(w.now.Add(100 * time.Millisecond)) {
		for _, p := range w.alive() {
			p.request()
		}
	}
}

// The worst that a holder can do: it takes all that it may hold, waits until the bucket is full again, and spends both at once.
func TestHoardingThenBurstingAddsWhatMayBeHeld(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	l := leased(10_000, 4_000)
	most := 0.0
	for _, n := range []int{1, 4, 16} {
		w := newWorld(t, rdb, seedOf(t), l)
		for range n {
			w.start().load(9_000/float64(n), time.Second)
		}
		w.run(w.now.Add(time.Second))
		w.keep(500 * time.Millisecond) // the bucket is full again, and the leases live
		held := w.lent(w.holders())
		for _, p := range w.alive() {
			for range 3 * 4_000 / n {
				p.request()
			}
		}
		w.run(w.now.Add(50 * time.Millisecond))
		w.finish()
		got := w.excess(l)
		t.Logf("%d proxies held %d of 200 when the burst came: %.0f at once", n, held, got)
		if got > 4_200 {
			t.Errorf("%d proxies: %.1f at once, allowed are 4,200", n, got)
		}
		most = max(most, got)
	}
	if most <= 4_020 {
		t.Errorf("at most %.1f at once: nobody hoarded, so this shows nothing", most)
	}
}

// Wherever the traffic goes, it gets the rate: all of it on one of many proxies, also when the others have just held their parts.
func TestOneOfManyProxiesGetsTheRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), leased(1000, 2000))
	for range 10 {
		w.start().load(300, time.Second)
	}
	w.run(w.now.Add(time.Second))
	before, start := len(w.admitted), w.now
	w.proxies[0].load(3000, 5*time.Second)
	w.run(w.now.Add(5 * time.Second))
	w.finish()
	got, want := len(w.admitted)-before, 1000*w.now.Sub(start).Seconds()
	t.Logf("%d of %.0f; %v", got, want, w.decided)
	if float64(got) < 0.95*want {
		t.Errorf("%d requests in %v at 1,000 a second", got, w.now.Sub(start))
	}
}

// A proxy that dies strands what it held, which is no more than its part, and nothing of it is left after the lease.
func TestADeadHolderStrandsOnlyItsLease(t *testing.T) {
	t.Parallel()
	l := leased(10_000, 20_000)
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), l)
	for range 4 {
		w.start().load(2_000, time.Second)
	}
	w.run(w.now.Add(900 * time.Millisecond))
	all := w.lent(w.holders())
	for _, p := range w.proxies[1:] {
		p.dead = true
	}
	if all == 0 || all > 1_000 {
		t.Fatalf("held: %d of 1,000", all)
	}
	w.proxies[0].load(2_000, 2*time.Second)
	w.run(w.now.Add(1200 * time.Millisecond))
	alone := w.lent(w.holders())
	if alone == 0 || alone > 250*4 {
		t.Errorf("the one that lives holds %d", alone)
	}
	// The others' entries are gone, so that it counts as the only holder.
	if held := w.holders(); len(held) != 1 {
		t.Errorf("holders that are left: %v", held)
	}
	w.finish()
}

// Proxies that join get their part, and those that were there give it up as they spend it.
func TestProxiesThatJoinGetTheirPart(t *testing.T) {
	t.Parallel()
	l := leased(100_000, 100_000)
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), l)
	for range 3 {
		w.start().load(5_000, 3*time.Second)
	}
	w.run(w.now.Add(time.Second))
	for range 7 {
		w.start().load(5_000, 2*time.Second)
	}
	w.run(w.now.Add(time.Second))
	calls, decided := w.calls, w.decided["lease"]
	w.run(w.now.Add(900 * time.Millisecond))
	calls, decided = w.calls-calls, w.decided["lease"]-decided
	w.finish()
	t.Logf("%d calls for %d decisions by lease", calls, decided)
	if decided < 10*calls {
		t.Errorf("10 proxies make %d calls for %d decisions", calls, decided)
	}
}

// A limit that is lowered holds for what is held too, as soon as one proxy knows it: the others hear it when they ask next, at the latest when
// their lease is over.
func TestALoweredLimitEndsLeases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), leased(10_000, 20_000))
	for range 4 {
		w.start().load(2_000, 3*time.Second)
	}
	w.run(w.now.Add(time.Second))
	low := leased(100, 100)
	w.set(low)
	w.proxies[0].policy = w.policy
	w.run(w.now.Add(1100 * time.Millisecond))
	before := len(w.admitted)
	w.run(w.now.Add(900 * time.Millisecond))
	w.finish()
	if got := len(w.admitted) - before; got > 100+5 {
		t.Errorf("%d requests in 0.9 s at 100 a second", got)
	}
}

// A process that stood still past its lease's time holds nothing any more: what it had is others' by then.
func TestAPausedHolderSpendsNothingAfterItsTime(t *testing.T) {
	t.Parallel()
	l := leased(10_000, 4_000)
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), l)
	for i := range 3 {
		p := w.start()
		p.load(9_000, time.Second)
		w.run(w.now.Add(time.Second))
		p.paused = true
		if held := w.lent(w.holders()); held < 150 {
			t.Fatalf("proxy %d: only %d are held", i, held)
		}
		w.run(w.now.Add(time.Second))
	}
	w.proxies[2].load(9_000, 300*time.Millisecond)
	w.run(w.now.Add(800 * time.Millisecond))
	for _, p := range w.proxies {
		for range 4_000 {
			p.request()
		}
	}
	w.run(w.now.Add(50 * time.Millisecond))
	w.finish()
	if got := w.excess(l); got > 4_200 {
		t.Errorf("%.1f at once, allowed are 4,200", got)
	}
}
