package lua_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// During a fault each caller asks this often, so that the machine has time for the timers.
const faultPace = 5 * time.Millisecond

func TestFlushedScriptsCostNoErrorAndNoExcess(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	b := bound{burst: 2000, rate: 1000, window: 1_000_000} // a busy machine wastes nothing of it
	c := newCrowd(t, prepared(t, &rateguardv1.Limit{Limit: b.rate, WindowUs: b.window, Burst: b.burst}))
	c.start(32, proxies(t, r.URL(), 2)...)
	flush, flushes := time.NewTicker(100*time.Millisecond), 0
	defer flush.Stop()
	for end := time.Now().Add(faultTime(t, 2*time.Second, time.Minute)); time.Now().Before(end); flushes++ {
		<-flush.C
		r.Do("script", "flush")
	}
	all := c.end()
	quiet(t, all)
	got := admissionsOf(all, "ws")
	excess, allowed := b.excess(got), b.burst+b.rate*(all[len(all)-1].us-all[0].us)/b.window
	t.Logf("FIGURE script flush: %d flushes, %d calls, 0 errors, %d admitted of %d allowed, excess %d", flushes, len(all), total(got), allowed, excess)
	// A machine that is too busy to ask for all that is allowed has to get all that it asked for.
	if excess > 0 || total(got) < min(allowed, int64(len(all)))*95/100 {
		t.Errorf("%d of %d calls admitted, %d allowed, %d in excess", total(got), len(all), allowed, excess)
	}
}

// What a proxy does with a call whose answer is lost: it lets the request through by its share and charges it by its id, or
// refuses it and cancels it. Each request is then counted once, or not at all.
func TestALostAnswerIsChargedOnce(t *testing.T) {
	t.Parallel()
	for _, how := range []lua.Adjustment{lua.Charge, lua.Cancel} {
		t.Run(string(how), func(t *testing.T) {
			t.Parallel()
			r := redistest.Start(t)
			way := newRelay(t, r.Addr)
			a := lua.NewAdmissions(openStore(t, lua.StoreConfig{URL: "redis://" + way.addr, Timeout: 300 * time.Millisecond}), prometheus.NewRegistry())
			c := newCrowd(t, endless(t, 1_000_000))
			c.once(a) // from here on scripts are known and so is the time: each piece is an answer
			var pieces, lost atomic.Int64
			way.lose(func([]byte) bool {
				if pieces.Add(1)%40 != 0 {
					return false
				}
				lost.Add(1)
				return true
			})
			c.start(8, a)
			redistest.Until(t, "lost answers", func() bool { return lost.Load() >= 12 })
			all := c.end()
			way.lose(func([]byte) bool { return false })
			want := int64(1) // the first call
			var unknown []outcome
			for _, o := range all {
				switch {
				case o.err == nil && o.admitted:
					want++
				case o.err == nil:
					t.Fatal("denied")
				case lua.MayHaveRun(o.err):
					unknown = append(unknown, o)
				}
			}
			ran := 0
			for _, o := range unknown {
				if marked(t, r.Client(), o) > 0 {
					ran++
				}
			}
			if how == lua.Charge {
				want += int64(len(unknown))
			}
			straight := admissions(t, r.URL())
			for range 2 { // the repeat may be lost as well
				for _, o := range unknown {
					if err := straight.Adjust(t.Context(), how, c.request(o), 0); err != nil {
						t.Fatal(err)
					}
				}
			}
			used := c.used(straight, "ws")
			t.Logf("FIGURE lost answers, then %s: %d calls, %d answers lost, %d of them had run; %d used, want %d", how, len(all), len(unknown), ran, used, want)
			if used != want || ran == 0 {
				t.Errorf("%d used, want %d; %d of %d had run", used, want, ran, len(unknown))
			}
		})
	}
}

// floor measures what a timer of a decision's length takes while ctx lasts, with 64 goroutines that do nothing else.
func floor(ctx context.Context) func() []time.Duration {
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				<-time.After(lua.DefaultTimeout)
				d := time.Since(start)
				mu.Lock()
				took = append(took, d)
				mu.Unlock()
			}
		})
	}
	return func() []time.Duration {
		wg.Wait()
		slices.Sort(took)
		return took
	}
}

// quantile of a sorted list.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
}

// While Redis is stopped every decision ends by its deadline, and what stood in its socket takes nothing when it goes on.
func TestAStoppedServerTakesNothingLate(t *testing.T) {
	r := redistest.Start(t)
	a := lua.NewAdmissions(openStore(t, lua.StoreConfig{URL: r.URL()}), prometheus.NewRegistry())
	c := newCrowd(t, endless(t, 1_000_000_000))
	c.pace = faultPace
	c.start(64, a)
	redistest.Until(t, "a warm store", func() bool { return c.calls.Load() > 2000 })
	before := runtime.NumGoroutine()
	timers, stopTimers := context.WithCancel(t.Context())
	floors := floor(timers)
	r.Stop()
	stopped := time.Now()
	most := 0
	lasts := faultTime(t, 2*time.Second, time.Minute)
	redistest.Until(t, "the end of the fault", func() bool {
		if time.Since(stopped) > 4*lua.DefaultTimeout { // the deadlines of the calls in flight end in goroutines of their own, together
			most = max(most, runtime.NumGoroutine()-64) // those of the timers
		}
		return time.Since(stopped) >= min(lasts, 20*time.Second)
	})
	r.Continue()
	continued := time.Now()
	var tries []outcome // on a loaded machine some run without an answer in time
	redistest.Until(t, "an admission", func() bool {
		o := c.once(a)
		tries = append(tries, o)
		return o.err == nil && o.admitted
	})
	back := time.Since(continued)
	stopTimers()
	timerTook := floors()
	all := append(c.end(), tries...)

	var took []time.Duration
	sum, failed := int64(0), 0
	var unknown []outcome
	for _, o := range all {
		switch {
		case o.err == nil && o.admitted:
			sum++
		case o.err == nil:
			t.Fatal("denied")
		case !errors.Is(o.err, lua.ErrUnavailable):
			t.Errorf("an error of another kind: %v", o.err)
		case lua.MayHaveRun(o.err):
			unknown = append(unknown, o)
		}
		if o.sent.After(stopped) && o.sent.Before(continued) {
			took = append(took, o.took)
			if o.err != nil {
				failed++
			}
		}
	}
	slices.Sort(took)
	ran, rdb, timer := int64(0), r.Client(), quantile(timerTook, 1)
	for _, o := range unknown {
		at := marked(t, rdb, o)
		if at == 0 {
			continue
		}
		ran++
		// One machine, one clock; but a caller may be held up between the two as a timer is.
		if late := time.UnixMicro(at).Sub(o.sent) - lua.DefaultTimeout; late > time.Millisecond+timer-lua.DefaultTimeout {
			t.Errorf("a call took something %s after its deadline", late)
		}
	}
	used := c.used(a, "ws")
	t.Logf("FIGURE stopped for %s: %d decisions meanwhile (%d failed), p50 %s p99 %s max %s; timers p50 %s p99 %s max %s; goroutines %d before, at most %d; back after %s; "+
		"%d without an answer, of which %d had run in time and none late; used %d = admitted %d + %d",
		continued.Sub(stopped).Round(time.Millisecond), len(took), failed, quantile(took, .5), quantile(took, .99), quantile(took, 1),
		quantile(timerTook, .5), quantile(timerTook, .99), timer, before, most, back.Round(time.Millisecond), len(unknown), ran, used, sum, ran)
	if worst := quantile(took, 1); worst > 2*timer+lua.DefaultTimeout {
		t.Errorf("worst decision %s, a timer of its length takes %s", worst, timer)
	}
	if most > before+16 || back > 10*time.Second || failed == 0 { // a loaded machine takes some tries
		t.Errorf("goroutines from %d to %d, back after %s, %d failed", before, most, back, failed)
	}
	if used != sum+ran {
		t.Errorf("%d used, want %d admitted and %d whose answer was lost", used, sum, ran)
	}
	for _, o := range unknown {
		redistest.Until(t, "a cancellation", func() bool {
			err := a.Adjust(t.Context(), lua.Cancel, c.request(o), 0)
			if err != nil && !errors.Is(err, lua.ErrUnavailable) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
	if used := c.used(a, "ws"); used != sum {
		t.Errorf("after the cancellations %d used, want %d", used, sum)
	}
}

// A wiped Redis gives each limit its burst once more, and nobody gets an error.
func TestAWipedStoreGivesOneBurstMore(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	b := bound{burst: 300, rate: 200, window: 1_000_000}
	c := newCrowd(t, prepared(t, &rateguardv1.Limit{Limit: b.rate, WindowUs: b.window, Burst: b.burst}))
	c.start(16, proxies(t, r.URL(), 3)...)
	const wipes = 5
	a := admissions(t, r.URL())
	for range wipes {
		redistest.Until(t, "a used burst", func() bool { return c.used(a, "ws") >= b.burst-5 })
		r.Do("flushall")
	}
	redistest.Until(t, "a used burst", func() bool { return c.used(a, "ws") >= b.burst-5 })
	all := c.end()
	quiet(t, all)
	got := admissionsOf(all, "ws")
	excess := b.excess(got)
	t.Logf("FIGURE flushall: %d wipes, %d calls, 0 errors, excess %d, at most %d allowed", wipes, len(all), excess, wipes*b.burst)
	if excess > wipes*b.burst || excess < wipes*b.burst/2 {
		t.Errorf("%d in excess after %d wipes of a burst of %d", excess, wipes, b.burst)
	}
}
