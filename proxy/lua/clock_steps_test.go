package lua_test

import (
	"cmp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// Redis' clock steps while time itself goes on evenly. A step ahead gives away what it pretends to have passed, one burst at
// most, and only once it is believed; a step back gives nothing, and after at most a minute the limit is what it was.
func TestAClockStepOfRedisGivesAwayAtMostOneBurst(t *testing.T) {
	t.Parallel()
	const most, window, tick = 50, 1_000_000, 10_000 // µs of true time between two rounds
	for _, algorithm := range []string{limit.TokenBucket, limit.SlidingWindow, limit.FixedWindow} {
		for _, tt := range []struct {
			name   string
			off    time.Duration
			bursts int64 // that may be given away at the step, and at its end
			still  time.Duration
		}{
			{"30 s back", -30 * time.Second, 0, 31 * time.Second},
			{"an hour back", -time.Hour, 1, 2 * time.Second}, // its end is a step ahead
			{"an hour ahead", time.Hour, 1, 2 * time.Second},
			{"30 s ahead", 30 * time.Second, 1, 31 * time.Second},
		} {
			t.Run(algorithm+" "+tt.name, func(t *testing.T) {
				t.Parallel()
				d := newDriver(t)
				take := lua.Take{Limit: prepared(t, &rateguardv1.Limit{Algorithm: algorithm, Limit: most, WindowUs: window}), Bucket: keyspace.Bucket("ws", "l", ""), Amount: 1}
				start, now := d.now, d.now
				off := int64(0)
				var list []admitted // by true time
				longest, last := int64(0), now
				for round := range 9000 { // 90 s: 10 before, 40 with the step, 40 after it
					switch round {
					case 1000:
						off = tt.off.Microseconds()
					case 5000:
						off = 0
					}
					now = start + int64(round)*tick
					d.set(now + off)
					for d.call(take)[0] == 1 {
						list = append(list, admitted{now, 1})
						last = now
					}
					longest = max(longest, now-last)
				}
				b := bound{most, most, window}
				if algorithm == limit.FixedWindow {
					b.burst *= 2 // at an edge
				}
				excess := b.excess(list)
				t.Logf("FIGURE redis' clock %s, %s: excess %d of a burst of %d, at longest %s without an admission",
					tt.name, algorithm, excess, most, time.Duration(longest)*time.Microsecond)
				if excess > tt.bursts*most {
					t.Errorf("%d in excess, want at most %d bursts of %d", excess, tt.bursts, most)
				}
				if longest > tt.still.Microseconds() {
					t.Errorf("%s without an admission, want at most %s", time.Duration(longest)*time.Microsecond, tt.still)
				}
			})
		}
	}
}

// A proxy's clock decides nothing. In the bubble it is the year 2000 and no time passes, while Redis has its own.
func TestAProxysClockDecidesNothing(t *testing.T) {
	r := redistest.Start(t)
	l := prepared(t, &rateguardv1.Limit{Limit: 1000, WindowUs: 1_000_000, Burst: 100})
	b := bound{burst: 100, rate: 1000, window: 1_000_000}
	var all []outcome
	beside := func(t *testing.T) {
		c := newCrowd(t, l)
		c.calls.Store(1_000_000)
		c.start(8, admissions(t, r.URL()))
		for c.calls.Load() < 1_005_000 {
			runtime.Gosched()
		}
		all = append(all, c.end()...)
		t.Logf("the proxy's clock shows %s", time.Now())
	}
	c := newCrowd(t, l)
	c.start(8, admissions(t, r.URL()))
	synctest.Test(t, beside)
	all = append(all, c.end()...)
	slices.SortFunc(all, func(a, b outcome) int { return cmp.Compare(a.us, b.us) })
	quiet(t, all)
	excess := b.excess(admissionsOf(all, "ws"))
	t.Logf("FIGURE a proxy whose clock is 26 years behind, beside one that is right: %d calls, 0 errors, excess %d", len(all), excess)
	if excess > 0 {
		t.Errorf("%d in excess", excess)
	}
}

// Redis' clock steps an hour ahead, over the end of a budget's period, and back. Nobody is granted anything by the wrong clock, what is open stays open, and the
// period that holds is still the one it was.
func TestAClockStepRollsNoPeriodOver(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	info := d.rdb.Info(t.Context(), "replication").Val()
	_, id, _ := strings.Cut(info, "master_replid:")
	server, _, _ := strings.Cut(id, "\r")
	if err := d.rdb.HSet(t.Context(), keyspace.State("ws"), "epoch", 1, "op", 0, "n", 0, "life", 1, "pv", 1, "who", server).Err(); err != nil {
		t.Fatal(err)
	}
	now, hour := d.now, time.Hour.Microseconds()
	starts := []int64{now - hour/2, now + hour/2, now + 3*hour/2}
	call := func(id string) []int64 {
		keys, args := admission(id)
		args[3], args[6] = now, 1 // what the caller takes for the time is right
		args = append(args, id, "p", 1, 100, "", 0, 0, 0)
		args = append(args, keyspace.Balance("b", 1, ""), 1000, 400, 1, starts[0], starts[1], starts[2])
		return numbers(t, d.admit.Run(t.Context(), d.rdb, keys, args...))
	}
	held := func(start int64) string {
		return d.rdb.HGet(t.Context(), keyspace.State("ws"), keyspace.Balance("b", 1, "")+strconv.FormatInt(start, 10)).Val()
	}
	if got := call("1"); got[0] != 1 || held(starts[0]) != "0 400 0" {
		t.Fatalf("%v, held %q", got, held(starts[0]))
	}
	for _, step := range []int64{hour, -hour} {
		d.set(now + step)
		if got := call("2"); got[0] != 6 {
			t.Errorf("by a clock that is off by %s: %v", time.Duration(step)*time.Microsecond, got)
		}
		if held(starts[0]) != "0 400 0" || held(starts[1]) != "" {
			t.Errorf("held %q, and %q in the next period", held(starts[0]), held(starts[1]))
		}
	}
	d.set(now)
	if got := call("3"); got[0] != 1 || held(starts[0]) != "0 800 0" {
		t.Errorf("when the clock is right again: %v, held %q", got, held(starts[0]))
	}
	if got := call("4"); got[0] != 0 {
		t.Errorf("above the limit: %v", got)
	}
}
