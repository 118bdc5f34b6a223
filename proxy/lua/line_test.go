package lua_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

// reads is how often the server has read from a connection so far.
func reads(tb testing.TB, r *redistest.Server) int {
	tb.Helper()
	for line := range strings.Lines(fmt.Sprint(r.Do("info", "stats"))) {
		if n, ok := strings.CutPrefix(line, "total_reads_processed:"); ok {
			reads, err := strconv.Atoi(strings.TrimSpace(n))
			if err != nil {
				tb.Fatal(err)
			}
			return reads
		}
	}
	tb.Fatal("the server counts no reads")
	return 0
}

// Calls that meet go together, and each gets its own answer.
func TestCallsGoTogether(t *testing.T) {
	t.Parallel()
	const callers, each = 32, 100
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
	mustConsume(t, s, "first")
	before := reads(t, r)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			for n := range int64(each) {
				reply, err := consume(t.Context(), s, fmt.Sprint("caller ", i))
				if err != nil || reply.Values[2] != n+1 {
					t.Errorf("caller %d got %v, %v, want %d", i, reply.Values, err, n+1)
					return
				}
			}
		})
	}
	all.Wait()
	if got := reads(t, r) - before; got > callers*each*3/4 {
		t.Errorf("%d calls of %d callers took %d reads", callers*each, callers, got)
	}
}

// A round trip that does not return holds up no other call.
func TestALostTripHoldsUpNobody(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	via := newRelay(t, r.Addr)
	s := openStore(t, lua.StoreConfig{URL: "redis://" + via.addr, Timeout: patient})
	mustConsume(t, s, "other")
	var lost atomic.Bool
	via.lose(func([]byte) bool { return !lost.Swap(true) })
	over := make(chan error, 1)
	go func() {
		_, err := consume(t.Context(), s, "lost")
		over <- err
	}()
	redistest.Until(t, "an answer to be lost", lost.Load)
	for range 100 {
		mustConsume(t, s, "other")
	}
	select {
	case err := <-over:
		t.Fatalf("the lost call was over before: %v", err)
	default:
	}
	if err := <-over; reason(t, err) != lua.ReasonTimeout || !lua.MayHaveRun(err) {
		t.Errorf("the lost call ended with %v", err)
	}
}

// Whoever gives up before the call is written has not made it, though the round trip that it was to go with is made for others.
func TestAnAbandonedCallDoesNotRun(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL() + "?pool_size=1", Timeout: patient})
	mustConsume(t, s, "first")
	met := 0
	for round := 0; met == 0 && round < 20; round++ {
		met = abandon(t, r, s, round)
	}
	if met == 0 {
		t.Error("no call was to go with another one's trip")
	}
}

// abandon lets callers give up while the only connection is taken, and returns how many did before their calls were written.
func abandon(t *testing.T, r *redistest.Server, s *lua.Store, round int) int {
	t.Helper()
	const callers = 10
	r.Stop()
	var gone, others sync.WaitGroup
	call := func(ctx context.Context, key string) error {
		_, err := consume(ctx, s, key)
		return err
	}
	others.Go(func() {
		if err := call(t.Context(), "first"); err != nil {
			t.Error(err)
		}
	})
	redistest.Until(t, "the only connection to be taken", func() bool { return s.Client().PoolStats().IdleConns == 0 })
	brief, giveUp := context.WithCancel(t.Context())
	defer giveUp()
	var abandoned [callers]bool
	key := func(kind string, i int) string { return fmt.Sprint(kind, " ", round, " ", i) }
	for i := range callers {
		gone.Go(func() {
			err := call(brief, key("gone", i))
			if err != nil && reason(t, err) != lua.ReasonCancelled {
				t.Error(err)
			}
			abandoned[i] = err != nil && !lua.MayHaveRun(err)
		})
		others.Go(func() {
			if err := call(t.Context(), key("stays", i)); err != nil {
				t.Error(err)
			}
		})
	}
	time.AfterFunc(20*time.Millisecond, giveUp)
	time.AfterFunc(40*time.Millisecond, r.Continue)
	gone.Wait()
	others.Wait()
	met := 0
	for i := range callers {
		if n := r.Do("exists", key("gone", i)); abandoned[i] && n != int64(0) {
			t.Errorf("caller %d had given up, and its call ran", i)
		}
		if n := r.Do("exists", key("stays", i)); n != int64(1) {
			t.Errorf("caller %d waited, and its call did not run", i)
		}
		if abandoned[i] {
			met++
		}
	}
	return met
}

// A connection that breaks says one thing about the server, however many calls were on it.
func TestABrokenTripIsOneFailure(t *testing.T) {
	t.Parallel()
	// broken is more than the failures in a row that a store is given up for.
	const callers, broken = 30, 6
	r := redistest.Start(t)
	via := newRelay(t, r.Addr)
	via.cutting()
	var told changes
	s := openStore(t, lua.StoreConfig{URL: "redis://" + via.addr, Timeout: patient, OnChange: told.note})
	mustConsume(t, s, "first")
	var cut atomic.Bool
	via.lose(func(answer []byte) bool { return bytes.Count(answer, []byte("OK")) >= broken && !cut.Swap(true) })
	var failed atomic.Int64
	for round := 0; !cut.Load() && round < 20; round++ {
		r.Stop()
		var all sync.WaitGroup
		for i := range callers {
			all.Go(func() {
				if _, err := consume(t.Context(), s, fmt.Sprint(i)); err != nil {
					if reason(t, err) != lua.ReasonConnection {
						t.Error(err)
					}
					failed.Add(1)
				}
			})
		}
		time.AfterFunc(20*time.Millisecond, r.Continue)
		all.Wait()
	}
	if failed.Load() < broken {
		t.Fatalf("%d calls failed with their connection", failed.Load())
	}
	if got := told.all(); len(got) != 0 {
		t.Errorf("the store was given up: %v", got)
	}
	mustConsume(t, s, "after")
}

// Whoever gives up is told so at once, also the one whose call the trip began with; and what was not written by then does not run.
func TestWhoeverGivesUpIsFree(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL() + "?pool_size=1", Timeout: patient})
	mustConsume(t, s, "first")
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	over, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for key, ctx := range map[string]context.Context{"cancelled": cancelled, "over": over} {
		if _, err := consume(ctx, s, key); reason(t, err) != lua.ReasonCancelled || lua.MayHaveRun(err) {
			t.Errorf("%s: %v", key, err)
		}
	}
	r.Stop()
	start := time.Now()
	for _, c := range []struct {
		key     string
		written bool
	}{{"has the only connection", true}, {"waits for it", false}} {
		brief, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := consume(brief, s, c.key); reason(t, err) != lua.ReasonCancelled || lua.MayHaveRun(err) != c.written {
			t.Errorf("%s: %v", c.key, err)
		}
	}
	if took := time.Since(start); took > 900*time.Millisecond {
		t.Errorf("two calls of 100 ms took %s", took)
	}
	r.Continue()
	mustConsume(t, s, "last")
	for _, key := range []string{"cancelled", "over", "waits for it"} {
		if n := r.Do("exists", key); n != int64(0) {
			t.Errorf("%s had given up, and its call ran", key)
		}
	}
}

// A connection that Redis refuses to make is not one that broke.
func TestARefusedConnectionSaysWhy(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	r.Do("acl", "setuser", "u", "on", ">before", "~*", "+@all")
	s := openStore(t, lua.StoreConfig{URL: strings.Replace(r.URL(), "redis://", "redis://u:before@", 1), Timeout: patient})
	mustConsume(t, s, "first")
	r.Do("acl", "setuser", "u", "resetpass", ">after")
	r.Do("client", "kill", "user", "u")
	redistest.Until(t, "the password to be refused", func() bool {
		_, err := consume(t.Context(), s, "second")
		got := reason(t, err)
		if got != lua.ReasonConnection && got != lua.ReasonAuth || lua.MayHaveRun(err) && got == lua.ReasonAuth {
			t.Fatal(err)
		}
		return got == lua.ReasonAuth
	})
}

// A success that is reported first does not hide a failure of the same round trip, and of each the breaker hears once.
func TestAFailureOfATripIsHeardOnce(t *testing.T) {
	t.Parallel()
	if got, want := lua.Told(false, false, true, true, false), []bool{true, false, true, false, false}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
