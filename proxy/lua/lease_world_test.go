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

	"github.com/rateguard/rateguard/proxy/budget"
	"github.com/rateguard/rateguard/proxy/call"
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
	holders := pipe.HVals(ctx, keyspace.Holders(keyspace.Bucket("ws", "l", "")))
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
	p.amends = ratelimit.NewAmends(store, func(string) {}, log, reg)
	p.step = ratelimit.New(ratelimit.Options{
		Budgets: budget.New(budget.Options{Metrics: prometheus.NewRegistry()}),
		Store:   store, Policies: p, Amends: p.amends, Leases: p.leases, Proxies: func() int { return len(w.proxies) }, Log: log, Metrics: reg,
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
func (p *simProxy) Refresh(context.Context, string, uint64) (*call.Workspace, error) {
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

// serve makes one request and returns its refusal by the limit, if any.
func (p *simProxy) serve() *call.Error {
	c := &call.Call{
		ID: call.NewID(p.w.now), Writer: httptest.NewRecorder(), Request: httptest.NewRequest(http.MethodPost, "/", nil).WithContext(p.w.t.Context()),
		Start: p.w.now, Workspace: p.policy, Key: &call.Key{ID: "key"}, RouteID: "openai", Dialect: call.OpenAI,
	}
	err := p.step.Serve(c)
	var e *call.Error
	if err != nil && (!errors.As(err, &e) || e.Code != call.RateLimitExceeded) {
		p.w.t.Errorf("request: %v", err)
	}
	return e
}

// request makes one request; it runs in a coroutine of its own.
func (p *simProxy) request() {
	p.w.spawn(func() {
		if !p.dead {
			p.serve()
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
	held, err := w.rdb.HVals(w.t.Context(), keyspace.Holders(keyspace.Bucket("ws", "l", ""))).Result()
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
