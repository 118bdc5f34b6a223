package explore_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// redisServer is a redis-server that is told what it holds, what time it is and who it is.
type redisServer struct {
	t   *testing.T
	rdb *redis.Client
}

// run runs a call on a server of that identity, and returns its answer and all that it holds then.
func (r *redisServer) run(on server, c *call) ([]any, keys) {
	r.t.Helper()
	source := strings.ReplaceAll(c.script.Source(), "redis.call('TIME')", fmt.Sprintf("{ '%d', '%d' }", nowUS/1e6, nowUS%1e6))
	source = strings.ReplaceAll(source, "redis.pcall('INFO', 'replication')", "'master_replid:"+on.identity()+"'")
	args := make([]any, len(c.args))
	for i := range args {
		args[i] = c.args[i]
	}
	got, err := r.rdb.Eval(r.t.Context(), source, c.keys, args...).Slice()
	if err != nil {
		r.t.Fatal(err)
	}
	return got, r.dump()
}

// fill makes it hold that, and nothing else.
func (r *redisServer) fill(k keys) {
	r.t.Helper()
	pipe := r.rdb.Pipeline()
	pipe.FlushAll(r.t.Context())
	for key, h := range k {
		if v, ok := h[""]; ok {
			pipe.Set(r.t.Context(), key, v, 0)
			continue
		}
		pipe.HSet(r.t.Context(), key, h)
	}
	if _, err := pipe.Exec(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *redisServer) dump() keys {
	r.t.Helper()
	ctx, out := r.t.Context(), keys{}
	names := r.rdb.Keys(ctx, "*").Val()
	pipe := r.rdb.Pipeline()
	for _, key := range names {
		if key == keyspace.State(workspace) {
			pipe.HGetAll(ctx, key)
		} else {
			pipe.Get(ctx, key)
		}
	}
	got, err := pipe.Exec(ctx)
	if err != nil {
		r.t.Fatal(err)
	}
	for i, key := range names {
		switch c := got[i].(type) {
		case *redis.MapStringStringCmd:
			out[key] = c.Val()
		case *redis.StringCmd:
			out[key] = map[string]string{"": c.Val()}
		}
	}
	return out
}

// ordered puts the pairs behind a status and a time in order: a hash has none.
func ordered(values []any) []any {
	if len(values) < 4 || len(values)%2 != 0 {
		return values
	}
	pairs := map[string]string{}
	for i := 2; i < len(values); i += 2 {
		name, ok := values[i].(string)
		text, also := values[i+1].(string)
		if !ok || !also {
			return values
		}
		pairs[name] = text
	}
	out := slices.Clone(values[:2])
	for _, name := range slices.Sorted(maps.Keys(pairs)) {
		out = append(out, name, pairs[name])
	}
	return out
}

func startReal(t *testing.T) *redisServer {
	t.Helper()
	return &redisServer{t, redistest.Start(t).Client()}
}

// TestExploredCallsOnRealRedis runs each call that explorations made, in each state that they made it in, on a real server too.
func TestExploredCallsOnRealRedis(t *testing.T) {
	t.Parallel()
	r := startReal(t)
	for _, c := range []config{
		both("a crash", faults{crash: 1, late: 1}), both("a failover", faults{failover: 1}), carried(leased("a lease, taken for dead", 1, faults{zombie: 1})),
	} {
		w := newWorld(c)
		if o := deep(w, most); o.violation != "" {
			t.Fatal(o)
		}
		for at, want := range w.done {
			r.fill(w.states[at.on.keys])
			values, held := r.run(at.on, &w.calls[at.call])
			if diff := cmp.Diff(ordered(want.values), ordered(values)) + cmp.Diff(w.states[want.keys], held); diff != "" {
				t.Fatalf("%v %v on %q (-here +redis):\n%s", w.calls[at.call].keys, w.calls[at.call].args, w.states[at.on.keys].text(), diff)
			}
		}
		t.Logf("%s: %d calls in %d states of a store", c.name, len(w.done), len(w.states))
	}
}

// tee runs each call here and on a real server. It implements lua.Evaluator.
type tee struct {
	*engine
	real *redisServer
	at   server
	runs int
}

func (b *tee) Eval(ctx context.Context, script *lua.Script, names []string, args func(lua.Times) []any) (lua.Reply, error) {
	before := b.states[b.at.keys].text()
	b.on = nil
	_, _ = b.engine.Eval(ctx, script, names, args) // it is noted
	c := &b.calls[b.sent]
	values := b.run(&b.at, b.sent)
	got, held := b.real.run(b.at, c)
	if diff := cmp.Diff(ordered(values), ordered(got)) + cmp.Diff(b.states[b.at.keys], held); diff != "" {
		b.real.t.Fatalf("%v %v on %q (-here +redis):\n%s", c.keys, c.args, before, diff)
	}
	b.runs++
	return lua.Reply{Values: values, RedisUS: nowUS}, nil
}

// TestScriptsInAnyOrderOnRealRedis runs calls that no exploration makes: of several budgets and periods, with whatever arguments come.
func TestScriptsInAnyOrderOnRealRedis(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(7, 7))
	b := &tee{engine: newEngine(nil), real: startReal(t), at: server{replid: 1}}
	balances := lua.NewBalances(b)
	begin := func(replid uint8) { // with the life of a hash that began before
		b.at = server{b.state(keys{keyspace.State(workspace): {"life": "5"}}), replid}
		b.real.fill(b.states[b.at.keys])
	}
	begin(1)
	field := func(n int) string { return keyspace.Balance("b", uint64(n), "") }
	id := func() string { return "r" + strconv.Itoa(r.IntN(12)) + "/1" }
	leaseID := func() string { return "l" + strconv.Itoa(r.IntN(6)) + "/lease" }
	producer := func() string { return "p" + strconv.Itoa(r.IntN(3)) }
	sums := func() map[string]int64 {
		out := map[string]int64{}
		for n := range r.IntN(3) {
			out[field(n)+"0"] = r.Int64N(2000)
		}
		return out
	}
	for range calls {
		admissions := lua.NewAdmissions(b, prometheus.NewRegistry()) // without what it knew of the store
		req := &lua.Request{Workspace: workspace, Reservation: id(), Key: "key", PolicyVersion: r.Uint64N(3), Producer: producer(), Epoch: r.Uint64N(4), Cost: r.Int64N(500)}
		for n := range r.IntN(3) {
			h := lua.Hold{Balance: field(n), Limit: 4000, Amount: r.Int64N(1500), Hard: r.IntN(4) > 0}
			if r.IntN(4) == 0 {
				h.Starts = []int64{nowUS - r.Int64N(1000), nowUS + r.Int64N(1000) - 500, nowUS + 1000}
			}
			req.Holds = append(req.Holds, h)
		}
		if r.IntN(3) == 0 {
			req.Lease = lua.LeaseAsk{ID: leaseID(), Want: r.Int64N(500), Least: r.Int64N(300), Percent: r.Int32N(20)}
			for n := range req.Holds {
				req.Holds[n].Amount *= r.Int64N(2) // 0 where only a lease is wanted
			}
		}
		entry := func() lua.Entry {
			e := lua.Entry{ID: id(), Producer: producer(), Amounts: []lua.Amount{{Field: field(r.IntN(2)) + "0", Nano: r.Int64N(900)}}}
			if e.Lease = r.IntN(2) == 0; e.Lease {
				e.ID = leaseID()
			}
			return e
		}
		cut := lua.Cut{Workspace: workspace, Epoch: r.Uint64N(5), To: r.Int64N(40), Posted: sums()}
		switch r.IntN(9) {
		case 0, 1, 2:
			_, _ = admissions.Admit(t.Context(), req) // any answer will do, if both give it
		case 3:
			_ = admissions.Adjust(t.Context(), lua.Settle, req, 0)
		case 4:
			_ = admissions.Adjust(t.Context(), lua.Cancel, req, 0)
		case 5:
			in := &lua.Installation{Cut: cut, PolicyVersion: r.Uint64N(3), Fenced: []string{producer()}}
			for range r.IntN(3) {
				in.Open = append(in.Open, entry())
			}
			_, _ = balances.Install(t.Context(), in)
		case 6:
			at := b.states[b.at.keys][keyspace.State(workspace)]
			stands, _ := strconv.ParseInt(at["at"], 10, 64)
			cut.Epoch, _ = strconv.ParseUint(at["epoch"], 10, 64)
			cut.To = stands + r.Int64N(4)
			step := &lua.Step{
				Cut: cut, From: stands - r.Int64N(2), Changed: r.IntN(2) == 0, Ended: []string{id(), id(), leaseID()}, Forgotten: []string{field(2) + "0"},
			}
			for range r.IntN(3) {
				step.Open = append(step.Open, entry())
			}
			_, _, _, _ = balances.Reconcile(t.Context(), step)
		case 7:
			_, _ = balances.Retire(t.Context(), lua.Retirement{Workspace: workspace, Producer: producer(), Least: r.Uint64N(4), Release: []string{id(), leaseID()}})
		case 8:
			_, _ = balances.Places(t.Context(), []string{workspace})
			if r.IntN(12) == 0 {
				begin(uint8(1 + r.IntN(2)))
			}
		}
	}
	t.Logf("%d calls", b.runs)
}
