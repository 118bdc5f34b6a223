package lua_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// A limit that was used up and then changed, to another window or algorithm, tells how long to wait, and that is enough.
func TestTheWaitAfterAChangeIsEnough(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	hour, second := time.Hour.Microseconds(), time.Second.Microseconds()
	var limits []*rateguardv1.Limit
	for _, algorithm := range []string{limit.TokenBucket, limit.SlidingWindow, limit.FixedWindow} {
		for _, window := range []int64{hour, second} {
			limits = append(limits, &rateguardv1.Limit{Algorithm: algorithm, Limit: 10, WindowUs: window})
		}
	}
	limits = append(limits, &rateguardv1.Limit{Algorithm: limit.LeakyBucket, Limit: 10, WindowUs: second, MaxDelayUs: second})
	for i, from := range limits {
		for j, to := range limits {
			name := fmt.Sprintf("%s of %s, then %s of %s", from.GetAlgorithm(), time.Duration(from.GetWindowUs())*time.Microsecond,
				to.GetAlgorithm(), time.Duration(to.GetWindowUs())*time.Microsecond)
			bucket := keyspace.Bucket("ws", fmt.Sprint(i, "-", j), "")
			before := lua.Take{Limit: prepared(t, from), Bucket: bucket, Amount: 1}
			after := lua.Take{Limit: prepared(t, to), Bucket: bucket, Amount: 1}
			for d.call(before)[0] == 1 { // until it is used up
			}
			first := d.call(after)
			wait := first[7]
			if first[0] == 1 {
				continue // a queue holds one more than a bucket
			}
			if wait > 1 {
				d.set(d.now + wait - 1)
				if got := d.call(after); got[0] != 0 {
					t.Errorf("%s: admitted before the wait of %d µs was over: %v", name, wait, got)
				}
				d.set(d.now + 1)
			} else {
				d.set(d.now + wait)
			}
			if got := d.call(after); got[0] != 1 {
				t.Errorf("%s: denied after the wait of %d µs that it asked for: %v", name, wait, got)
			}
		}
	}
}

// Under load a limit is created, lowered, switched from one algorithm to the next and raised. Each version keeps its own bound, counted
// as if all of it had been taken at the switch, as it was used up before; and nothing is admitted by an old version behind a newer one.
func TestALimitChangesUnderLoad(t *testing.T) {
	t.Parallel()
	const window = 400_000
	phases := []*rateguardv1.Limit{
		nil,
		{Limit: 200, WindowUs: window},
		{Limit: 100, WindowUs: window},
		{Algorithm: limit.SlidingWindow, Limit: 100, WindowUs: window},
		{Algorithm: limit.FixedWindow, Limit: 100, WindowUs: window},
		{Limit: 100, WindowUs: window},
		{Limit: 300, WindowUs: window},
		{Algorithm: limit.LeakyBucket, Limit: 100, WindowUs: window, MaxDelayUs: 100_000},
	}
	r := redistest.Start(t)
	c := newCrowd(t, nil)
	c.start(16, proxies(t, r.URL(), 2)...)
	lasts := faultTime(t, 1500*time.Millisecond, 10*time.Second)
	for i, p := range phases {
		if p != nil {
			c.policy.Store(&policy{prepared(t, p), uint64(i + 1)})
		}
		until := time.Now().Add(lasts)
		redistest.Until(t, "the end of a phase", func() bool { return time.Now().After(until) })
	}
	all := c.end()
	var before []admitted
	for i, p := range phases {
		var mine []outcome
		for _, o := range all {
			switch {
			case o.err != nil && !errors.Is(o.err, lua.ErrOldPolicy):
				t.Fatal(o.err)
			case o.err == nil && o.version == uint64(i+1):
				mine = append(mine, o)
			case o.err == nil && o.version < uint64(i+1) && len(mine) > 0 && o.us > mine[0].us:
				t.Errorf("version %d decided behind version %d", o.version, i+1)
			}
		}
		if p == nil {
			continue
		}
		list := admissionsOf(mine, "ws")
		if len(list) < 50 {
			t.Fatalf("version %d: %d admissions show nothing", i+1, len(list))
		}
		var used int64
		if i > 1 {
			used = usedBefore(phases[i-1], before, mine[0].us)
		}
		alone, carried := changeExcess(p, mine, list, min(used, p.GetLimit()))
		t.Logf("FIGURE version %d, %s of %d: %d decisions, %d admitted, excess %d alone and %d with what was used before", i+1,
			limit.WithDefaults(p).GetAlgorithm(), p.GetLimit(), len(mine), len(list), alone, carried)
		if alone > 0 || carried > p.GetLimit()/20 {
			t.Errorf("version %d: %d in excess alone, %d with what was used before", i+1, alone, carried)
		}
		if over := used - p.GetLimit(); over > 0 && p.GetAlgorithm() == "" {
			if after, least := list[0].us-mine[0].us, over*window/p.GetLimit(); after < least*9/10 {
				t.Errorf("version %d admits %d µs after it was lowered, the level needs %d µs", i+1, after, least)
			}
		}
		before = list
	}
}

// usedBefore returns what a version that was asked for more than it gives had used at an instant.
func usedBefore(p *rateguardv1.Limit, list []admitted, at int64) int64 {
	from := at - p.GetWindowUs() + 1
	switch p.GetAlgorithm() {
	case limit.FixedWindow:
		from = at - at%p.GetWindowUs()
	case limit.SlidingWindow:
	default:
		return p.GetLimit()
	}
	var used int64
	for _, a := range list {
		if a.us >= from {
			used += a.amount
		}
	}
	return used
}

// changeExcess returns the excess of a version by its own bound: of what it admitted, and of that behind what was used when it came.
func changeExcess(p *rateguardv1.Limit, all []outcome, list []admitted, used int64) (alone, carried int64) {
	behind := slices.Concat([]admitted{{all[0].us, used}}, list)
	switch p.GetAlgorithm() {
	case limit.SlidingWindow:
		return slidingExcess(list, p.GetLimit(), p.GetWindowUs()), slidingExcess(behind, p.GetLimit(), p.GetWindowUs())
	case limit.FixedWindow:
		return fixedExcess(list, p.GetLimit(), p.GetWindowUs()), fixedExcess(behind, p.GetLimit(), p.GetWindowUs())
	case limit.LeakyBucket:
		// Requests leave one each window/limit, the delay rounded up to a µs.
		var leave []admitted
		for _, o := range all {
			if o.admitted {
				leave = append(leave, admitted{o.us + o.waitUS, o.amount})
			}
		}
		slices.SortFunc(leave, func(a, b admitted) int { return int(a.us - b.us) })
		for i := 1; i < len(leave); i++ {
			if gap := leave[i].us - leave[i-1].us; gap < p.GetWindowUs()/p.GetLimit()-1 {
				alone++
			}
		}
		return alone, 0
	}
	b := bound{p.GetLimit(), p.GetLimit(), p.GetWindowUs()}
	return b.excess(list), b.excess(behind)
}
