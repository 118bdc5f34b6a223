package emit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/emit"
	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// allowance is how many rows a flood gets in a second.
const allowance = 20

// log keeps events as a spool does; refuse, when it is set, says what an append returns.
type log struct {
	mu     sync.Mutex // guards what follows
	events []*rateguardv1.Event
	refuse func() error
}

func (l *log) AppendOpen(r ...spool.Record) (spool.Generation, error) { return 1, l.Append(r...) }

func (l *log) AppendEnd(_ spool.Generation, r ...spool.Record) error { return l.Append(r...) }
func (l *log) Append(records ...spool.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.refuse != nil {
		err = l.refuse()
	}
	if err != nil && !errors.Is(err, spool.ErrUnsynced) {
		return err
	}
	for _, r := range records {
		e, decodeErr := envelope.Decode(r.Value)
		if decodeErr != nil {
			return decodeErr
		}
		if r.Topic.Name != topics.Requests.Name || r.Key != e.GetWorkspaceId() {
			return fmt.Errorf("event of %q in %s under %q", e.GetWorkspaceId(), r.Topic.Name, r.Key)
		}
		l.events = append(l.events, e)
	}
	return err
}

func (l *log) refusing(refuse func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuse = refuse
}

// all returns the number of rows and the aggregates.
func (l *log) all() (rows int, counts []*rateguardv1.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		if e.GetRequestRecorded() != nil {
			rows++
		} else {
			counts = append(counts, e)
		}
	}
	return rows, counts
}

// pass lets time of the bubble's clock pass.
func pass(d time.Duration) { <-time.After(d) }

func sum(counts []*rateguardv1.Event) (n int) {
	for _, e := range counts {
		n += int(e.GetDenialsAggregated().GetCount())
	}
	return n
}

func newEmitter(l emit.Log) *emit.Emitter {
	return emit.New(l, epoch.NewGate(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// run starts the emitter's Run; what it returns ends it and waits.
func run(tb testing.TB, e *emit.Emitter) (stop func()) {
	ctx, cancel := context.WithCancel(tb.Context())
	var group sync.WaitGroup
	group.Go(func() { e.Run(ctx) })
	return func() {
		cancel()
		group.Wait()
	}
}

// denial is a request that is refused.
type denial struct {
	workspace, key, limit string
	err                   error
}

var limited = denial{workspace: "ws", key: "key", limit: "lim", err: call.Fail(call.RateLimitExceeded, nil)}

// deny takes a request through the emitter's step to its refusal.
func deny(e *emit.Emitter, d denial) {
	now := time.Now()
	c := &call.Call{
		Request: &http.Request{}, ID: call.NewID(now), Start: now, Key: &call.Key{ID: d.key}, Workspace: &call.Workspace{ID: d.workspace},
		Checks: []*rateguardv1.Check{{Id: "passed"}, {Id: d.limit, Denied: true}, {Id: "refused too", Denied: true}},
	}
	if d.limit == "" {
		c.Checks = nil
	}
	_ = e.Step(call.HandlerFunc(func(*call.Call) error { return d.err })).Serve(c)
}

func TestFewDenialsGetARowEachAndTheOthersOfTheSecondAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(log)
		e := newEmitter(l)
		stop := run(t, e)
		synctest.Wait()
		began := time.Now()
		pass(300 * time.Millisecond)
		for range allowance + 7 {
			deny(e, limited)
		}
		if rows, counts := l.all(); rows != allowance || len(counts) != 0 {
			t.Errorf("in the window: got %d rows and %v, want %d and no count", rows, counts, allowance)
		}
		pass(time.Second)
		synctest.Wait()
		rows, counts := l.all()
		if rows != allowance || len(counts) != 1 {
			t.Fatalf("after the window: got %d rows and %d counts, want %d and 1", rows, len(counts), allowance)
		}
		d := counts[0].GetDenialsAggregated()
		if d.GetCount() != 7 || d.GetKeyId() != "key" || d.GetLimitId() != "lim" || d.GetErrorCode() != "rate_limit_exceeded" || d.GetStatus() != 429 {
			t.Errorf("got %v", d)
		}
		if d.GetWindowStartUnixUs() != began.UnixMicro() || counts[0].GetOccurredAtUnixUs() != began.UnixMicro() || d.GetWindowUs() != 1_000_000 {
			t.Errorf("window is %v, want a second from %v", counts[0], began)
		}
		for range allowance { // a new second, new rows
			deny(e, limited)
		}
		stop()
		if rows, counts = l.all(); rows != 2*allowance || len(counts) != 1 {
			t.Errorf("in the next window: got %d rows and %d counts, want %d and 1", rows, len(counts), 2*allowance)
		}
	})
}

func TestCountsLeaveOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(log)
		e := newEmitter(l)
		stop := run(t, e)
		synctest.Wait()
		for range 50 { // five seconds
			for range 10 {
				deny(e, limited)
			}
			pass(100 * time.Millisecond)
		}
		stop()
		rows, counts := l.all()
		if rows != 5*allowance || len(counts) != 5 {
			t.Fatalf("got %d rows and %d counts, want %d and 5", rows, len(counts), 5*allowance)
		}
		ids := map[string]bool{}
		for i, c := range counts {
			ids[c.GetId()] = true
			if n := c.GetDenialsAggregated().GetCount(); n != 100-allowance {
				t.Errorf("second %d has %d, want %d", i, n, 100-allowance)
			}
		}
		if len(ids) != 5 {
			t.Errorf("ids are not unique: %v", ids)
		}
	})
}

func TestFloodsAreCountedApart(t *testing.T) {
	fail := func(code call.Code, status int) error { return &call.Error{Code: code, Status: status} }
	floods := []denial{
		limited,
		{"ws", "key", "lim2", limited.err},
		{"ws", "key2", "lim", limited.err},
		{"ws2", "key", "lim", limited.err},
		{"ws", "key", "lim", fail(call.BudgetContention, 0)},
		{"ws", "key", "lim", fail(call.BudgetExceeded, 0)},
		{"ws2", "key", "lim", fail(call.BudgetExceeded, 400)},
		{"ws", "key", "", fail(call.StoreUnavailable, 0)},
	}
	l := new(log)
	e := newEmitter(l)
	synctest.Test(t, func(t *testing.T) {
		stop := run(t, e)
		synctest.Wait()
		for i, d := range floods {
			for range allowance + 1 + i {
				deny(e, d)
			}
		}
		stop()
	})
	rows, counts := l.all()
	if rows != allowance*len(floods) {
		t.Errorf("got %d rows, want %d", rows, allowance*len(floods))
	}
	got := make([]string, 0, len(counts))
	for _, e := range counts {
		d := e.GetDenialsAggregated()
		got = append(got, fmt.Sprintf("%d %s %s %q %s %d", d.GetCount(), e.GetWorkspaceId(), d.GetKeyId(), d.GetLimitId(), d.GetErrorCode(), d.GetStatus()))
	}
	slices.Sort(got)
	want := []string{
		`1 ws key "lim" rate_limit_exceeded 429`,
		`2 ws key "lim2" rate_limit_exceeded 429`,
		`3 ws key2 "lim" rate_limit_exceeded 429`,
		`4 ws2 key "lim" rate_limit_exceeded 429`,
		`5 ws key "lim" budget_contention 429`,
		`6 ws key "lim" budget_exceeded 402`,
		`7 ws2 key "lim" budget_exceeded 400`,
		`8 ws key "" store_unavailable 503`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestEveryDenialGetsARow(t *testing.T) {
	tests := map[string]struct {
		denial  denial
		stopped bool
	}{
		"of another kind": {denial: denial{"ws", "key", "", call.Fail(call.ModelNotAllowed, nil)}},
		"of no kind":      {denial: denial{"ws", "key", "", errors.New("a bug")}},
		"after the end":   {denial: limited, stopped: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := new(log)
				e := newEmitter(l)
				stop := run(t, e)
				synctest.Wait()
				if test.stopped {
					stop()
				}
				for range 100 {
					deny(e, test.denial)
				}
				stop()
				if rows, counts := l.all(); rows != 100 || len(counts) != 0 {
					t.Errorf("got %d rows and %v, want 100 rows", rows, counts)
				}
			})
		})
	}
}

// A full log refuses rows and counts alike: all of it comes later, as one count over the windows that it took.
func TestCountsWaitForALogThatIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(log)
		e := newEmitter(l)
		stop := run(t, e)
		synctest.Wait()
		began := time.Now()
		l.refusing(func() error { return spool.ErrFull })
		for range 3 {
			for range 30 {
				deny(e, limited)
			}
			pass(time.Second)
		}
		l.refusing(nil)
		pass(time.Second)
		synctest.Wait()
		rows, counts := l.all()
		if rows != 0 || len(counts) != 1 {
			t.Fatalf("got %d rows and %d counts, want one count", rows, len(counts))
		}
		d := counts[0].GetDenialsAggregated()
		if d.GetCount() != 90 || d.GetWindowStartUnixUs() != began.UnixMicro() || d.GetWindowUs() != 3_000_000 {
			t.Errorf("got %v, want 90 in 3 s from %v", d, began)
		}
		stop()
	})
}

func TestALogThatStaysFullDoesNotHoldTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(log)
		e := newEmitter(l)
		stop := run(t, e)
		synctest.Wait()
		l.refusing(func() error { return spool.ErrFull })
		deny(e, limited)
		began := time.Now()
		stop()
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("ending took %v", took)
		}
	})
}

// More floods at once than are kept: what does not fit gets rows, and there is room again when floods have ended.
func TestMoreFloodsThanAreKeptLoseNothing(t *testing.T) {
	const kept, few, floods, each = 4096, 4000, 200, allowance + 5
	synctest.Test(t, func(t *testing.T) {
		l := new(log)
		e := newEmitter(l)
		stop := run(t, e)
		synctest.Wait()
		flood := func(key string, n int) {
			d := limited
			d.key = key
			for range n {
				deny(e, d)
			}
		}
		for i := range few {
			flood(fmt.Sprintf("few_%d", i), 1)
		}
		for i := range floods {
			flood(fmt.Sprintf("flood_%d", i), each)
		}
		pass(2500 * time.Millisecond)
		synctest.Wait()
		rows, counts := l.all()
		if len(counts) != kept-few || rows+sum(counts) != few+floods*each {
			t.Errorf("got %d counts, want %d; %d rows + %d counted, want %d", len(counts), kept-few, rows, sum(counts), few+floods*each)
		}
		flood("new", each)
		stop()
		if _, after := l.all(); len(after) != len(counts)+1 {
			t.Errorf("got %d counts of a new flood, want 1", len(after)-len(counts))
		}
	})
}

// Whatever the interleaving and whatever the log refuses, each denial is in the log once.
func TestRowsAndCountsAreAllDenials(t *testing.T) {
	refusals := map[string]func() error{
		"healthy log": nil,
		"log that refuses now and then": func() error {
			if rand.IntN(3) == 0 {
				return spool.ErrFull
			}
			return nil
		},
		"log that fails to sync": func() error {
			if rand.IntN(3) == 0 {
				return spool.ErrUnsynced
			}
			return nil
		},
	}
	for name, refuse := range refusals {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(5) {
				synctest.Test(t, func(t *testing.T) { interleave(t, seed, refuse) })
			}
		})
	}
}

func interleave(t *testing.T, seed uint64, refuse func() error) {
	const goroutines, each = 16, 200
	l := &log{refuse: refuse}
	e := newEmitter(l)
	stop := run(t, e)
	synctest.Wait()
	var group sync.WaitGroup
	for g := range uint64(goroutines) {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(seed, g))
			for range each {
				d := limited
				d.key = fmt.Sprintf("key_%d", rng.IntN(3))
				deny(e, d)
				if rng.IntN(10) == 0 {
					pass(time.Duration(rng.IntN(300)) * time.Millisecond)
				}
			}
		})
	}
	group.Wait()
	stop()
	rows, counts := l.all()
	if got := rows + sum(counts); got != goroutines*each {
		t.Errorf("seed %d: got %d rows + %d counted = %d, want %d", seed, rows, sum(counts), got, goroutines*each)
	}
	if len(counts) == 0 {
		t.Errorf("seed %d: nothing was counted, so nothing was tested", seed)
	}
}

// What a denied request costs with a row of its own and in a flood; the spool writes to a real disk.
func BenchmarkDenied(b *testing.B) {
	for _, flood := range []bool{false, true} {
		name := "row"
		if flood {
			name = "flood"
		}
		b.Run(name, func(b *testing.B) {
			sp, err := spool.Open(b.Context(), spool.Config{Dir: b.TempDir(), Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			e := newEmitter(sp)
			stop := func() {}
			if flood {
				stop = run(b, e)
			}
			b.ReportAllocs()
			for b.Loop() {
				deny(e, limited)
			}
			b.StopTimer()
			stop()
			if err := sp.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}
