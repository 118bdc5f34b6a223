package lua_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

func TestAScriptRunsOnceAndKnowsItsDeadline(t *testing.T) {
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
	var times lua.Times
	before := time.Now()
	reply, err := s.Eval(t.Context(), count, []string{"k"}, func(at lua.Times) []any {
		times = at
		return []any{at.DeadlineUS}
	})
	if err != nil {
		t.Fatal(err)
	}
	if reply.Values[0] != "OK" || reply.Values[2] != int64(1) || reply.Shard != r.Addr {
		t.Errorf("got %v from %s, want one run", reply.Values, reply.Shard)
	}
	// One machine, one clock: what is estimated is no later than it.
	if at := times.EstimateUS; at < before.UnixMicro() || at > reply.RedisUS {
		t.Errorf("estimate %d is not between %d and %d", at, before.UnixMicro(), reply.RedisUS)
	}
	if by := before.Add(patient).UnixMicro(); times.DeadlineUS > by+time.Since(before).Microseconds() || times.DeadlineUS <= times.EstimateUS {
		t.Errorf("deadline %d, want at most %d", times.DeadlineUS, by)
	}
}

func TestTheCallersOwnDeadlineIsTheScripts(t *testing.T) {
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
	ctx, cancel := context.WithTimeout(t.Context(), patient/4)
	defer cancel()
	_, err := s.Eval(ctx, count, []string{"k"}, func(at lua.Times) []any {
		if left := time.Duration(at.DeadlineUS-at.EstimateUS) * time.Microsecond; left > patient/4 {
			t.Errorf("%s are left, want at most %s", left, patient/4)
		}
		return deadline(at)
	})
	if err != nil {
		t.Error(err)
	}
}

func TestFlushedScriptsCauseNoErrors(t *testing.T) {
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var flushes, callers sync.WaitGroup
	var flushed atomic.Int64
	admin := r.Client()
	flushes.Go(func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			<-tick.C
			if admin.ScriptFlush(ctx).Err() == nil {
				flushed.Add(1)
			}
		}
	})
	const callersN, callsN = 16, 200
	for range callersN {
		callers.Go(func() {
			for range callsN {
				if _, err := consume(ctx, s, "k"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	stop()
	flushes.Wait()
	if got := r.Do("get", "k"); got != fmt.Sprint(callersN*callsN) {
		t.Errorf("%v runs of %d calls", got, callersN*callsN)
	}
	if flushed.Load() < 5 {
		t.Errorf("only %d flushes", flushed.Load())
	}
}

func TestALostReplyIsNeverRepeated(t *testing.T) {
	r := redistest.Start(t)
	relay := newRelay(t, r.Addr)
	s := openStore(t, lua.StoreConfig{URL: "redis://" + relay.addr, Timeout: 300 * time.Millisecond})
	mustConsume(t, s, "k")
	relay.lose(func(b []byte) bool { return strings.Contains(string(b), "OK") })
	_, err := consume(t.Context(), s, "k")
	if got := reason(t, err); got != lua.ReasonTimeout || !lua.MayHaveRun(err) {
		t.Errorf("got %s, may have run %t; want a timeout that may have", got, lua.MayHaveRun(err))
	}
	relay.lose(func([]byte) bool { return false })
	if got := r.Do("get", "k"); got != "2" {
		t.Errorf("the two calls ran %v times", got)
	}
	// The late answer's connection is not used again.
	if got := mustConsume(t, s, "k").Values[2]; got != int64(3) {
		t.Errorf("the third call counted %v", got)
	}
}

// A client that tries again after a broken connection consumes once more each time.
func TestABrokenConnectionIsNeverRepeated(t *testing.T) {
	r := redistest.Start(t)
	relay := newRelay(t, r.Addr)
	relay.cutting()
	s := openStore(t, lua.StoreConfig{URL: "redis://" + relay.addr, Timeout: patient})
	mustConsume(t, s, "k")
	relay.lose(func(b []byte) bool { return strings.Contains(string(b), "OK") })
	_, err := consume(t.Context(), s, "k")
	if got := reason(t, err); got != lua.ReasonConnection || !lua.MayHaveRun(err) {
		t.Errorf("got %s: %v", got, err)
	}
	if got := r.Do("get", "k"); got != "2" {
		t.Errorf("the two calls ran %v times", got)
	}
}

func TestABugIsNoFailureOfTheStore(t *testing.T) {
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
	for _, source := range []string{"return redis.call('NOSUCH')", "return {'OK'}", "return false", "return {'OK', 'x'}"} {
		for range 10 {
			_, err := s.Eval(t.Context(), lua.NewScript(source), []string{"k"}, deadline)
			if err == nil || errors.Is(err, lua.ErrUnavailable) || !lua.MayHaveRun(err) {
				t.Fatalf("%s: got %v, want a plain error", source, err)
			}
		}
	}
	mustConsume(t, s, "k")
}

// A frozen server costs each decision its deadline and no more, until the breaker opens.
func TestAFrozenServerCostsNoMoreThanTheDeadline(t *testing.T) {
	r := redistest.Start(t)
	seen := &changes{}
	s := openStore(t, lua.StoreConfig{URL: r.URL(), OnChange: seen.note})
	works(t, s, "k")
	var wg sync.WaitGroup
	load := func(d time.Duration) (worst time.Duration, failed int) {
		end := time.Now().Add(d)
		var mu sync.Mutex
		for range 64 {
			wg.Go(func() {
				for time.Now().Before(end) {
					start := time.Now()
					_, err := consume(t.Context(), s, "k")
					took := time.Since(start)
					mu.Lock()
					worst = max(worst, took)
					if err != nil {
						failed++
						if r := reason(t, err); r == lua.ReasonOpen && lua.MayHaveRun(err) {
							t.Error("an open breaker let a call run")
						}
					}
					mu.Unlock()
					runtime.Gosched()
				}
			})
		}
		wg.Wait()
		return worst, failed
	}
	load(50 * time.Millisecond)
	before := runtime.NumGoroutine()
	r.Stop()
	worst, failed := load(2 * time.Second)
	after := runtime.NumGoroutine()
	floor := timerFloor()
	t.Logf("worst decision %s, a timer of the same length %s: %.2f times; goroutines %d, then %d; %d failed",
		worst, floor, float64(worst)/float64(floor), before, after, failed)
	// Ten times what a timer takes: a busy machine may be late, the client's own second is not meant.
	if worst > 10*floor || failed == 0 {
		t.Errorf("worst decision %s, %d failed", worst, failed)
	}
	if after > before+16 {
		t.Errorf("goroutines grew from %d to %d", before, after)
	}
	r.Continue()
	took := works(t, s, "k")
	t.Logf("back after %s", took)
	if took > time.Second {
		t.Errorf("back only after %s", took)
	}
	redistest.Until(t, "both changes", func() bool { return len(seen.all()) >= 2 })
	if got := seen.all(); got[0] != "open timeout" || got[1] != "closed timeout" {
		t.Errorf("changes %q", got)
	}
}

// Behind one connection that hangs, and where no handshake ends, calls wait for nothing longer than their deadline, and
// those that never held a connection ran nothing.
func TestAWaitForAConnectionEndsByTheDeadline(t *testing.T) {
	silent, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	frozen := redistest.Start(t)
	for _, c := range []struct {
		name, url string
		mayRun    int
	}{
		{"pool", frozen.URL() + "?pool_size=1", 1},
		{"handshake", "redis://" + silent.Addr().String() + "?pool_size=8", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := openStore(t, lua.StoreConfig{URL: c.url, Timeout: 500 * time.Millisecond})
			if c.mayRun > 0 {
				works(t, s, "k")
				frozen.Stop()
				defer frozen.Continue()
			}
			var wg sync.WaitGroup
			var mayHaveRun atomic.Int64
			start := time.Now()
			call := func() {
				_, err := consume(t.Context(), s, "k")
				if got := reason(t, err); got != lua.ReasonTimeout && got != lua.ReasonOpen {
					t.Errorf("got %s: %v", got, err)
				}
				if lua.MayHaveRun(err) {
					mayHaveRun.Add(1)
				}
			}
			wg.Go(call)
			if c.mayRun > 0 {
				// Else others go with it.
				redistest.Until(t, "the only connection to be taken", func() bool { return s.Client().PoolStats().IdleConns == 0 })
			}
			for range 15 {
				wg.Go(call)
			}
			wg.Wait()
			if took := time.Since(start); took > 900*time.Millisecond {
				t.Errorf("it took %s", took)
			}
			if got := mayHaveRun.Load(); got != int64(c.mayRun) {
				t.Errorf("%d calls may have run, want %d", got, c.mayRun)
			}
		})
	}
}

// timerFloor is how long a context of the default timeout takes on this machine with as many goroutines.
func timerFloor() time.Duration {
	var wg sync.WaitGroup
	var worst atomic.Int64
	for range 64 {
		wg.Go(func() {
			start := time.Now()
			<-time.After(lua.DefaultTimeout)
			for {
				was, took := worst.Load(), int64(time.Since(start))
				if took <= was || worst.CompareAndSwap(was, took) {
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Duration(worst.Load())
}

func TestADeadServerIsBackWithinASecond(t *testing.T) {
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL() + "?pool_size=4"})
	works(t, s, "k")
	r.Kill()
	redistest.Until(t, "an open breaker", func() bool {
		_, err := consume(t.Context(), s, "k")
		return err != nil && reason(t, err) == lua.ReasonOpen
	})
	// More failed dials than the pool has connections: the client would look again only each second.
	failed := 0
	redistest.Until(t, "many failed dials", func() bool {
		if s.Client().Ping(t.Context()).Err() != nil {
			failed++
		}
		return failed > 20
	})
	r.Restart()
	if took := works(t, s, "k"); took > time.Second {
		t.Errorf("back only after %s", took)
	}
}

func TestWithoutAServerNothingRan(t *testing.T) {
	s := openStore(t, lua.StoreConfig{URL: "redis://127.0.0.1:1"})
	for range 10 {
		_, err := consume(t.Context(), s, "k")
		if got := reason(t, err); got != lua.ReasonDial && got != lua.ReasonOpen && got != lua.ReasonTimeout {
			t.Errorf("got %s", got)
		}
		if lua.MayHaveRun(err) {
			t.Errorf("%v may have run", err)
		}
	}
}
