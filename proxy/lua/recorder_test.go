package lua_test

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// faultTime is how long a fault or a load lasts: the short one in the usual run, RATEGUARD_FAULT_SECONDS where published
// figures are made, at most the longest.
func faultTime(tb testing.TB, short, longest time.Duration) time.Duration {
	tb.Helper()
	text := os.Getenv("RATEGUARD_FAULT_SECONDS")
	if text == "" {
		return short
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		tb.Fatalf("RATEGUARD_FAULT_SECONDS is %q, want a number of seconds", text)
	}
	return min(time.Duration(n)*time.Second, longest)
}

// outcome is one call of a crowd. It is all that the checks know: they never look at how the scripts count.
type outcome struct {
	workspace, reservation string
	sent                   time.Time
	took                   time.Duration
	// us is when it was decided, by Redis' clock; valid without an error.
	us       int64
	amount   int64
	waitUS   int64
	admitted bool
	err      error
	// version is that of the policy by which it was asked.
	version uint64
}

// policy is what a crowd asks by: one limit, or none.
type policy struct {
	limit   *lua.Limit
	version uint64
}

// crowd is callers that ask as fast as they may, and a recorder of what they got.
type crowd struct {
	tb testing.TB
	// workspaces are asked in turn, each with the one limit and bucket.
	workspaces []string
	policy     atomic.Pointer[policy]
	// total is a second limit of each call, nil: none.
	total *lua.Limit
	// amount is what the n-th call takes.
	amount func(n int64) int64
	// pace is the least time between two calls of one caller; 0: none.
	pace time.Duration

	calls   atomic.Int64
	stop    context.CancelFunc
	callers sync.WaitGroup
	// mu guards all below.
	mu  sync.Mutex
	all []outcome
}

func newCrowd(tb testing.TB, l *lua.Limit) *crowd {
	c := &crowd{tb: tb, workspaces: []string{"ws"}, amount: func(int64) int64 { return 1 }}
	c.policy.Store(&policy{l, 1})
	return c
}

// start lets so many callers of each proxy ask until end.
func (c *crowd) start(callers int, proxies ...*lua.Admissions) {
	ctx, stop := context.WithCancel(context.WithoutCancel(c.tb.Context()))
	c.stop = stop
	c.tb.Cleanup(func() { c.end() })
	for _, a := range proxies {
		for range callers {
			c.callers.Go(func() { c.ask(ctx, a) })
		}
	}
}

// ask is the life of one caller.
func (c *crowd) ask(ctx context.Context, a *lua.Admissions) {
	var pace <-chan time.Time
	if c.pace > 0 {
		tick := time.NewTicker(c.pace)
		defer tick.Stop()
		pace = tick.C
	}
	var mine []outcome
	for ctx.Err() == nil {
		mine = append(mine, c.once(a))
		if pace != nil {
			select {
			case <-ctx.Done():
			case <-pace:
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, mine...)
}

// once makes the next call.
func (c *crowd) once(a *lua.Admissions) outcome {
	n := c.calls.Add(1)
	o := outcome{workspace: c.workspaces[n%int64(len(c.workspaces))], reservation: strconv.FormatInt(n, 10), amount: c.amount(n)}
	p := c.policy.Load()
	o.version = p.version
	r := c.by(p, o)
	o.sent = time.Now()
	d, err := a.Admit(context.WithoutCancel(c.tb.Context()), r)
	o.took, o.err = time.Since(o.sent), err
	if err == nil {
		o.us, o.admitted, o.waitUS = d.NowUS, d.Admitted, d.Wait().Microseconds()
	}
	return o
}

// request is the call of an outcome by the policy of now.
func (c *crowd) request(o outcome) *lua.Request { return c.by(c.policy.Load(), o) }

func (c *crowd) by(p *policy, o outcome) *lua.Request {
	r := &lua.Request{Workspace: o.workspace, Reservation: o.reservation, Key: "k", PolicyVersion: p.version}
	if p.limit != nil {
		r.Takes = []lua.Take{{Limit: p.limit, Bucket: keyspace.Bucket(o.workspace, "l", ""), Amount: o.amount}}
	}
	if c.total != nil {
		r.Takes = append(r.Takes, lua.Take{Limit: c.total, Bucket: keyspace.Bucket(o.workspace, "total", ""), Amount: o.amount})
	}
	return r
}

// end stops the callers and returns all that they got, in Redis' order; errors have no place in it.
func (c *crowd) end() []outcome {
	c.stop()
	c.callers.Wait()
	slices.SortFunc(c.all, func(a, b outcome) int { return cmp.Compare(a.us, b.us) })
	return c.all
}

// quiet fails the test for each error of a kind.
func quiet(tb testing.TB, all []outcome) {
	tb.Helper()
	seen := map[string]int{}
	for _, o := range all {
		if o.err != nil {
			seen[o.err.Error()]++
		}
	}
	for text, n := range seen {
		tb.Errorf("%d times: %s", n, text)
	}
}

// admissionsOf are the admissions of a workspace, in Redis' order.
func admissionsOf(all []outcome, workspace string) []admitted {
	var out []admitted
	for _, o := range all {
		if o.err == nil && o.admitted && o.workspace == workspace {
			out = append(out, admitted{o.us, o.amount})
		}
	}
	return out
}

func total(list []admitted) (sum int64) {
	for _, a := range list {
		sum += a.amount
	}
	return sum
}

// bound is what a limit allows: of all pairs i ≤ j, Σ amounts in [tᵢ,tⱼ] ≤ burst + rate·(tⱼ − tᵢ). Times are µs.
type bound struct{ burst, rate, window int64 }

// excess returns by how many units the worst pair is above the bound, 0 where none is. In units of 1/window everything
// is an integer; the largest sum that ends at j begins where the one before it is worth nothing, so each pair counts.
func (b bound) excess(list []admitted) int64 {
	var worst, run int64
	for i, a := range list {
		if i > 0 {
			run = max(0, run-b.rate*(a.us-list[i-1].us))
		}
		run += a.amount * b.window
		worst = max(worst, run-b.burst*b.window)
	}
	return (worst + b.window - 1) / b.window
}

// slidingExcess is the same for a window of which no span shorter than it may hold more than the limit.
func slidingExcess(list []admitted, most, window int64) int64 {
	var worst, sum int64
	first := 0
	for _, a := range list {
		for ; a.us-list[first].us >= window; first++ {
			sum -= list[first].amount
		}
		sum += a.amount
		worst = max(worst, sum-most)
	}
	return worst
}

// fixedExcess is the same for windows between two multiples of their length.
func fixedExcess(list []admitted, most, window int64) int64 {
	sums := map[int64]int64{}
	var worst int64
	for _, a := range list {
		sums[a.us/window] += a.amount
		worst = max(worst, sums[a.us/window]-most)
	}
	return worst
}

// The checker has to see what it is there for: it is compared with every pair, one by one.
func TestTheCheckerSeesEveryPair(t *testing.T) {
	t.Parallel()
	b := bound{rate: 2, window: 1000}
	slow := func(list []admitted) (worst int64) {
		for i := range list {
			var sum int64
			for _, a := range list[i:] {
				sum += a.amount
				worst = max(worst, sum*b.window-b.burst*b.window-b.rate*(a.us-list[i].us))
			}
		}
		return (worst + b.window - 1) / b.window
	}
	seen := map[bool]int{}
	for seed := range int64(500) {
		b.burst = seed % 40
		var list []admitted
		at := int64(0)
		for i := range int64(20) {
			at += (seed*31 + i*i*17) % 900
			list = append(list, admitted{at, (seed + i*7) % 4})
		}
		got, want := b.excess(list), slow(list)
		if got != want {
			t.Fatalf("%v: %d above, want %d", list, got, want)
		}
		seen[want > 0]++
	}
	if seen[true] < 50 || seen[false] < 50 {
		t.Errorf("with an excess %d, without %d: it shows little", seen[true], seen[false])
	}
	if got := slidingExcess([]admitted{{0, 3}, {99, 3}, {100, 3}, {198, 1}}, 5, 100); got != 2 {
		t.Errorf("sliding: %d above, want 2", got)
	}
	if got := fixedExcess([]admitted{{99, 5}, {100, 3}, {199, 3}}, 5, 100); got != 1 {
		t.Errorf("fixed: %d above, want 1", got)
	}
}

// used is what the last bucket of a workspace shows as used: a call that takes nothing.
func (c *crowd) used(a *lua.Admissions, workspace string) int64 {
	c.tb.Helper()
	var used int64
	redistest.Until(c.tb, "an answer", func() bool {
		n := c.calls.Add(1)
		d, err := a.Admit(c.tb.Context(), c.request(outcome{workspace: workspace, reservation: strconv.FormatInt(n, 10)}))
		if err != nil {
			return false
		}
		used = d.Seen[len(d.Seen)-1].Used
		return true
	})
	return used
}

// marked returns when a reservation has consumed, by Redis' clock in µs; 0: it has not.
func marked(tb testing.TB, rdb *redis.Client, o outcome) int64 {
	tb.Helper()
	v, err := rdb.Get(tb.Context(), keyspace.Mark(o.workspace, o.reservation)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		tb.Fatal(err)
	}
	at, ok := strings.CutPrefix(v, "a")
	if !ok {
		return 0
	}
	us, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		tb.Fatalf("mark %q of %s", v, o.reservation)
	}
	return us
}

// endless is a limit that gives nothing back while a test runs.
func endless(tb testing.TB, n int64) *lua.Limit {
	tb.Helper()
	return prepared(tb, &rateguardv1.Limit{Algorithm: limit.FixedWindow, Limit: n, WindowUs: limit.MaxWindow.Microseconds()})
}

// proxies are so many, each with connections of its own.
func proxies(tb testing.TB, url string, n int) []*lua.Admissions {
	tb.Helper()
	out := make([]*lua.Admissions, n)
	for i := range out {
		out[i] = admissions(tb, url)
	}
	return out
}
