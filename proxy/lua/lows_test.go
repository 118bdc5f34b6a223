package lua_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// replayed is the level now of a bucket that had never heard of anything but what stayed taken, in units of 1/window.
func replayed(takes []taken, now, rate, window int64) int64 {
	var level, at int64
	for _, t := range takes {
		level, at = max(0, level-(t.at-at)*rate)+t.amount*window, t.at
	}
	return max(0, level-(now-at)*rate)
}

// A bucket that units were given back to is, at every later instant, the one from which they were never taken; with few lows it is never below it.
func TestABucketForgetsWhatWasGivenBack(t *testing.T) {
	t.Parallel()
	const rate, window, burst = 50, 1_000_000, 120
	for _, lows := range []int{200, 4} {
		t.Run(strconv.Itoa(lows), func(t *testing.T) {
			t.Parallel()
			l := prepared(t, &rateguardv1.Limit{Limit: rate, WindowUs: window, Burst: burst, Unit: limit.UnitTokens})
			l.KeepLows(lows)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 1))
			d := newDriver(t)
			var takes []taken
			var open []int
			backs, stricter := 0, 0
			for step := range 20_000 {
				if r.IntN(3) > 0 {
					d.set(d.now + r.Int64N(window/10))
				}
				if len(open) > 0 && r.IntN(3) == 0 {
					i := r.IntN(len(open))
					o := &takes[open[i]]
					open[i] = open[len(open)-1]
					open = open[:len(open)-1]
					back := r.Int64N(o.amount + 1)
					if back > 0 {
						d.change("settle", o.id, o.at, lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", "limit", ""), Amount: back})
						o.amount -= back
						backs++
					}
					continue
				}
				id, amount := strconv.Itoa(step), r.Int64N(20)
				got := d.as(id, lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", "limit", ""), Amount: amount})
				if got[0] == 1 {
					takes = append(takes, taken{id, d.now, amount})
					open = append(open, len(takes)-1)
				}
				want := up(replayed(takes, d.now, rate, window), window)
				if got[4] < want || lows == 200 && got[4] > want {
					t.Fatalf("step %d: %d are used, of what stayed taken %d", step, got[4], want)
				}
				if got[4] > want {
					stricter++
				}
				// What is older than the longest open request and than an empty bucket is history.
				if len(open) == 0 && want == 0 {
					takes = takes[:0]
				}
			}
			t.Logf("FIGURE %d lows: %d given back, %d answers above what stayed taken", lows, backs, stricter)
			if backs < 3000 {
				t.Errorf("only %d were given back", backs)
			}
		})
	}
}

// Calls that answer for long and use a quarter of what they might are let through at the rate of what they use.
func TestLongAnswersAreLimitedByWhatTheyUse(t *testing.T) {
	t.Parallel()
	const rate, window, burst, bound, uses, lasts = 100_000, 60_000_000, 100_000, 4_000, 1_000, 20_000_000
	l := prepared(t, &rateguardv1.Limit{Limit: rate, WindowUs: window, Burst: burst, Unit: limit.UnitTokens})
	bucket := keyspace.Bucket("ws", "limit", "")
	d := newDriver(t)
	type call struct {
		id string
		at int64
	}
	var open []call
	served, first := int64(0), int64(0)
	const asks, every = 6000, 100_000
	for i := range asks {
		for len(open) > 0 && open[0].at+lasts <= d.now {
			d.change("settle", open[0].id, open[0].at, lua.Take{Limit: l, Bucket: bucket, Amount: bound - uses})
			open = open[1:]
		}
		id := strconv.Itoa(i)
		if d.as(id, lua.Take{Limit: l, Bucket: bucket, Amount: bound})[0] == 1 {
			open = append(open, call{id, d.now})
			if served += uses; i < asks/6 {
				first += uses
			}
		}
		d.set(d.now + every)
	}
	// After the burst, by what leaks.
	allowed := int64(rate) * (asks * 5 / 6 * every) / window
	t.Logf("FIGURE long answers: %d tokens of %d that the rate allows", served-first, allowed)
	if got := served - first; got > allowed*101/100 || got < allowed*80/100 {
		t.Errorf("%d tokens of %d that the rate allows", got, allowed)
	}
}
