package lua_test

import (
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// Asked for more than it allows, a limit gives all that it allows and nothing more. Not in parallel: it measures.
func TestASaturatedLimitGivesAllItAllows(t *testing.T) {
	lasts := faultTime(t, 5*time.Second, time.Minute)
	const rate, window = 500, 1_000_000
	// In a short run a few milliseconds in which the machine does something else are a part of a thousand.
	least := int64(990)
	if lasts >= 10*time.Second {
		least = 999
	}
	for _, algorithm := range []string{limit.TokenBucket, limit.SlidingWindow, limit.FixedWindow} {
		t.Run(algorithm, func(t *testing.T) {
			r := redistest.Start(t)
			c := newCrowd(t, prepared(t, &rateguardv1.Limit{Algorithm: algorithm, Limit: rate, WindowUs: window}))
			// Of the time only whole windows count; an aligned one begins anywhere.
			whole := (lasts.Microseconds()/window - 1) * window
			c.start(16, proxies(t, r.URL(), 3)...)
			until := time.Now().Add(lasts)
			redistest.Until(t, "the end of the load", func() bool { return time.Now().After(until) })
			all := c.end()
			quiet(t, all)
			first, list := all[0].us, admissionsOf(all, "ws")
			if algorithm == limit.FixedWindow {
				first += window - first%window
			}
			var got int64
			for _, a := range list {
				if a.us >= first && a.us <= first+whole-1 {
					got += a.amount
				}
			}
			allowed := whole / window * rate
			var excess int64
			switch algorithm {
			case limit.TokenBucket:
				allowed += rate - 1
				excess = bound{rate, rate, window}.excess(list)
			case limit.SlidingWindow:
				excess = slidingExcess(list, rate, window)
			default:
				excess = fixedExcess(list, rate, window)
			}
			t.Logf("FIGURE saturated %s: %d calls in %s, %d admitted of %d allowed (%.3f %%), excess %d",
				algorithm, len(all), time.Duration(whole)*time.Microsecond, got, allowed, 100*float64(got)/float64(allowed), excess)
			if excess > 0 || got*1000 < allowed*least {
				t.Errorf("%d of %d admitted, %d in excess", got, allowed, excess)
			}
		})
	}
}

// Who stays below the rate is never refused: by a clock of its own to the µs, and on a real one with bursts as a machine makes them.
func TestASteadyLoadBelowTheRateIsNeverDenied(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	exact := lua.Take{Limit: prepared(t, &rateguardv1.Limit{Limit: 1000, WindowUs: 1_000_000, Burst: 1}), Bucket: keyspace.Bucket("ws", "exact", ""), Amount: 1}
	for i := range 3000 {
		if got := d.call(exact); got[0] != 1 {
			t.Fatalf("request %d at the rate itself: %v", i, got)
		}
		d.set(d.now + 1000)
	}
	const rate = 500
	r := redistest.Start(t)
	c := newCrowd(t, prepared(t, &rateguardv1.Limit{Limit: rate, WindowUs: 1_000_000}))
	a := admissions(t, r.URL())
	due := make(chan struct{}, rate)
	var mu sync.Mutex
	var all []outcome
	var workers sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for range due {
				o := c.once(a)
				mu.Lock()
				all = append(all, o)
				mu.Unlock()
			}
		})
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	start, sent := time.Now(), 0
	for lasts := faultTime(t, 3*time.Second, time.Minute); time.Since(start) < lasts; <-tick.C {
		for ; sent < int(time.Since(start).Seconds()*rate*0.95); sent++ {
			due <- struct{}{}
		}
	}
	close(due)
	workers.Wait()
	quiet(t, all)
	denied := 0
	for _, o := range all {
		if o.err == nil && !o.admitted {
			denied++
		}
	}
	t.Logf("FIGURE steady at 95 %% of the rate: %d requests, %d denied", len(all), denied)
	if denied > 0 || len(all) < rate {
		t.Errorf("%d of %d requests were denied", denied, len(all))
	}
}

// burst asks for one unit n times at once and returns how many it got.
func (d *driver) burst(l *lua.Limit, bucket string, n int) (got int) {
	d.tb.Helper()
	for range n {
		if d.call(lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", bucket, ""), Amount: 1})[0] == 1 {
			got++
		}
	}
	return got
}

// Callers that know the window load its end, and then the start of the next one.
func TestLoadAtTheEdgesOfAWindow(t *testing.T) {
	t.Parallel()
	const window = 1_000_000
	for _, tt := range []struct {
		name string
		l    *rateguardv1.Limit
		// What is admitted of twice the limit: in the last µs of an aligned window, in the first of the next, half a window
		// later, and a whole window after the first.
		end, start, half, next int
	}{
		{"token bucket", &rateguardv1.Limit{Limit: 10}, 10, 0, 5, 5},
		{"sliding log", &rateguardv1.Limit{Algorithm: limit.SlidingWindow, Limit: 10}, 10, 0, 0, 10},
		// Slots of a 256th: what was taken comes back a slot late.
		{"sliding slots", &rateguardv1.Limit{Algorithm: limit.SlidingWindow, Limit: 1100}, 1100, 0, 0, 0},
		// Twice the limit at an edge is what a fixed window allows, and says so.
		{"fixed window", &rateguardv1.Limit{Algorithm: limit.FixedWindow, Limit: 10}, 10, 10, 0, 0},
		// One is served and ten wait, as many as its burst.
		{"leaky bucket", &rateguardv1.Limit{Algorithm: limit.LeakyBucket, Limit: 10, MaxDelayUs: 10 * window}, 11, 0, 5, 5},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t)
			tt.l.WindowUs = window
			l, n := prepared(t, tt.l), int(2*tt.l.GetLimit())
			edge := d.now - d.now%window + window
			for _, step := range []struct {
				name string
				at   int64
				want int
			}{{"end", edge - 1, tt.end}, {"start", edge, tt.start}, {"half a window later", edge - 1 + window/2, tt.half}, {"next end", edge - 1 + window, tt.next}} {
				d.set(step.at)
				if got := d.burst(l, "edge", n); got != step.want {
					t.Errorf("%s: %d admitted, want %d", step.name, got, step.want)
				}
			}
			if tt.name == "sliding slots" {
				d.set(edge + window + limit.Slot(tt.l.GetLimit(), window))
				if got := d.burst(l, "edge", n); got != tt.end {
					t.Errorf("a slot later: %d admitted, want %d", got, tt.end)
				}
			}
		})
	}
}

// Times that are no whole seconds, and rates below one a second: keys must neither end early nor a second late.
func TestBurstsComeBackAfterTheirWindow(t *testing.T) {
	t.Parallel()
	for _, algorithm := range []string{limit.TokenBucket, limit.SlidingWindow} {
		d := newDriver(t)
		l := prepared(t, &rateguardv1.Limit{Algorithm: algorithm, Limit: 1, WindowUs: 10_000_000})
		for i := range 3 {
			if got := d.burst(l, "slow", 5); got != 1 {
				t.Errorf("%s of 0.1/s, round %d: %d admitted, want 1", algorithm, i, got)
			}
			d.set(d.now + 9_999_999)
			if got := d.burst(l, "slow", 1); got != 0 {
				t.Errorf("%s of 0.1/s, round %d: admitted 1 µs early", algorithm, i)
			}
			d.set(d.now + 1)
		}
	}
	// On Redis' own clock, by which keys end.
	r := redistest.Start(t)
	a, rdb := admissions(t, r.URL()), r.Client()
	for _, tt := range []struct {
		name   string
		window time.Duration
		pause  time.Duration
	}{
		{"a second", time.Second, 1050 * time.Millisecond},
		{"200 ms", 200 * time.Millisecond, 210 * time.Millisecond},
		{"10 ms", 10 * time.Millisecond, 11 * time.Millisecond},
	} {
		for round := range 3 {
			var last int64
			for _, algorithm := range []string{limit.TokenBucket, limit.SlidingWindow, limit.FixedWindow} {
				c := newCrowd(t, prepared(t, &rateguardv1.Limit{Algorithm: algorithm, Limit: 10, WindowUs: tt.window.Microseconds()}))
				c.workspaces = []string{tt.name + algorithm}
				c.calls.Store(int64(100 * round))
				for i := range 10 {
					o := c.once(a)
					if o.err != nil || !o.admitted {
						t.Errorf("%s of %s, round %d, request %d: admitted %t %v", algorithm, tt.name, round, i, o.admitted, o.err)
					}
					last = o.us
				}
			}
			redistest.Until(t, "Redis' clock", func() bool {
				now, err := rdb.Time(t.Context()).Result()
				return err == nil && now.UnixMicro() > last+tt.pause.Microseconds()
			})
		}
	}
}

// What a request may cost, from nothing to more than there ever is.
func TestCostsFromNothingToMoreThanAll(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	const most = 10
	for _, algorithm := range []string{limit.TokenBucket, limit.SlidingWindow, limit.FixedWindow} {
		l := prepared(t, &rateguardv1.Limit{Algorithm: algorithm, Limit: most, WindowUs: 3_600_000_000})
		for _, step := range []struct{ amount, admitted, used int64 }{
			{0, 1, 0}, {most + 1, 0, 0}, {1, 1, 1}, {most, 0, 1}, {most - 1, 1, most}, {0, 1, most}, {1, 0, most}, {most + 1, 0, most},
		} {
			got := d.call(lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", algorithm, ""), Amount: step.amount})
			if got[0] != step.admitted || got[4] != step.used || got[0] == 0 && got[7] <= 0 {
				t.Errorf("%s: a cost of %d: %v, want %+v", algorithm, step.amount, got, step)
			}
		}
		whole := lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", algorithm, "whole"), Amount: most}
		if got := d.call(whole); got[0] != 1 || got[5] != 0 {
			t.Errorf("%s: all at once: %v", algorithm, got)
		}
	}
}

// Two limits of 10 and 5 and 20 requests at once: five pass and the larger limit counts five. A thousand denials count nothing.
func TestDenialsConsumeNothing(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	a := admissions(t, r.URL())
	day := (24 * time.Hour).Microseconds()
	takes := func(workspace int64) []lua.Take {
		return []lua.Take{
			{Limit: prepared(t, &rateguardv1.Limit{Limit: 10, WindowUs: day * 365}), Bucket: keyspace.Bucket("ws", "key", "k"), Amount: 1},
			{Limit: prepared(t, &rateguardv1.Limit{Limit: workspace, WindowUs: day * 365}), Bucket: keyspace.Bucket("ws", "workspace", ""), Amount: 1},
		}
	}
	var mu sync.Mutex
	decide := func(id int, version uint64, takes []lua.Take) (d lua.Decision) {
		d, err := a.Admit(t.Context(), &lua.Request{Workspace: "ws", Reservation: time.Duration(id).String(), Key: "k", PolicyVersion: version, Takes: takes})
		if err != nil {
			t.Error(err)
		}
		return d
	}
	both, passed := takes(5), 0
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if decide(i, 1, both).Admitted {
				mu.Lock()
				passed++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	var last lua.Decision
	for i := range 1000 {
		if last = decide(100+i, 1, both); last.Admitted {
			t.Fatal("a sixth passed")
		}
	}
	if passed != 5 || last.Seen[0].Used != 5 || last.Seen[1].Used != 5 {
		t.Errorf("%d passed, the key shows %d used and the workspace %d; want 5 each", passed, last.Seen[0].Used, last.Seen[1].Used)
	}
	raised, more := takes(8), 0
	for i := range 10 {
		if decide(2000+i, 2, raised).Admitted {
			more++
		}
	}
	if more != 3 {
		t.Errorf("raised from 5 to 8 after 1000 denials: %d more passed, want 3", more)
	}
}
