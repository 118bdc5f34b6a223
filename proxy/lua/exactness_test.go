package lua_test

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// admissions is one proxy's way to a Redis. A decision waits for its connection as long as for its answer: hundreds are made at once.
func admissions(tb testing.TB, url string) *lua.Admissions {
	tb.Helper()
	return lua.NewAdmissions(openStore(tb, lua.StoreConfig{URL: url, Timeout: patient}), prometheus.NewRegistry())
}

// prepared returns a valid limit as the scripts take it.
func prepared(tb testing.TB, l *rateguardv1.Limit) *lua.Limit {
	tb.Helper()
	l = limit.WithDefaults(l)
	if p := limit.Check(l); len(p) > 0 {
		tb.Fatal(p)
	}
	var scale limit.Scale
	if l.GetBurst() > 0 {
		scale, _ = limit.NewScale(l.GetLimit(), l.GetWindowUs(), l.GetBurst())
	}
	out := lua.NewLimit(l, scale)
	return &out
}

// admitted is one admission: when, by Redis' clock, and what it took.
type admitted struct{ us, amount int64 }

// storm lets 3 proxies of 64 connections each ask for n requests, and returns what was admitted in Redis' order.
func storm(t *testing.T, url string, l *lua.Limit, n int, amount func(i int) int64) []admitted {
	t.Helper()
	var mu sync.Mutex
	var got []admitted
	var wg sync.WaitGroup
	for p := range 3 {
		a := admissions(t, url)
		for c := range 64 {
			wg.Go(func() {
				for i := p*64 + c; i < n; i += 192 {
					take := lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", "l", ""), Amount: amount(i)}
					d, err := a.Admit(context.Background(), &lua.Request{
						Workspace: "ws", Reservation: strconv.Itoa(i), Key: "k", PolicyVersion: 1, Takes: []lua.Take{take},
					})
					if err != nil {
						t.Error(err)
						return
					}
					if d.Admitted {
						mu.Lock()
						got = append(got, admitted{d.NowUS, take.Amount})
						mu.Unlock()
					}
				}
			})
		}
	}
	wg.Wait()
	slices.SortFunc(got, func(a, b admitted) int { return cmp.Compare(a.us, b.us) })
	return got
}

func TestManyConnectionsTakeExactlyTheLimit(t *testing.T) {
	t.Parallel()
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	for _, algorithm := range []string{limit.TokenBucket, limit.SlidingWindow, limit.FixedWindow} {
		t.Run(algorithm, func(t *testing.T) {
			l := prepared(t, &rateguardv1.Limit{Algorithm: algorithm, Limit: 1000, WindowUs: limit.MaxWindow.Microseconds()})
			var sum int64
			for _, a := range storm(t, redistest.Start(t).URL(), l, n/3, func(int) int64 { return 1 }) {
				sum += a.amount
			}
			if sum != 1000 {
				t.Errorf("%d of %d requests were admitted, the limit is 1000", sum, n/3)
			}
		})
	}
}

// Under saturation, between any two instants no more is admitted than burst and rate allow, and hardly less.
func TestSaturatedLimitsKeepTheWindowInequality(t *testing.T) {
	t.Parallel()
	const window, most = 100_000, 200
	for _, algorithm := range []string{limit.TokenBucket, limit.SlidingWindow} {
		t.Run(algorithm, func(t *testing.T) {
			l := prepared(t, &rateguardv1.Limit{Algorithm: algorithm, Limit: most, WindowUs: window})
			got := storm(t, redistest.Start(t).URL(), l, 30_000, func(i int) int64 { return int64(i%3 + 1) })
			if len(got) < 100 {
				t.Fatalf("%d admissions show nothing", len(got))
			}
			// Sums from each admission on: for every i ≤ j, Σ ≤ B + r·(tⱼ − tᵢ); of a sliding window Σ ≤ B within a window.
			for i := range got {
				var sum int64
				for j := i; j < len(got); j++ {
					sum += got[j].amount
					elapsed := got[j].us - got[i].us
					if algorithm == limit.SlidingWindow && elapsed >= window {
						break
					}
					allowed := int64(most)
					if algorithm == limit.TokenBucket {
						allowed += elapsed * most / window
					}
					if sum > allowed {
						t.Fatalf("%d were admitted in %d µs, at most %d may be", sum, elapsed, allowed)
					}
				}
			}
		})
	}
}

func TestARepeatOrALateCallTakesNothing(t *testing.T) {
	t.Parallel()
	d := newDriver(t)
	l := prepared(t, &rateguardv1.Limit{Limit: 10, WindowUs: 3_600_000_000})
	take := lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", "l", ""), Amount: 1}
	status := func(id string) int64 { return d.as(id, take)[0] }
	used := func() int64 { return d.call(lua.Take{Limit: l, Bucket: take.Bucket})[4] }
	if status("a") != 1 || status("a") != 2 || used() != 1 {
		t.Errorf("a repeat: %d used", used())
	}
	d.change("cancel", "late", 0, take)
	if status("late") != 3 || used() != 1 {
		t.Errorf("a call behind its cancellation: %d used", used())
	}
	at := d.now
	d.change("cancel", "a", at, take)
	d.change("cancel", "a", at, take)
	if used() != 0 {
		t.Errorf("cancelled twice: %d used", used())
	}
	d.change("charge", "b", 0, take)
	d.change("charge", "b", 0, take)
	if status("b") != 2 || used() != 1 {
		t.Errorf("charged twice: %d used", used())
	}
	keys, args := admission("dead", take)
	args[4] = d.now - 1
	if got := numbers(t, d.admit.Run(t.Context(), d.rdb, keys, args...)); got[0] != 5 {
		t.Errorf("past its deadline it answered %d", got[0])
	}
	args[4], args[3] = 0, d.now-61_000_000
	if got := numbers(t, d.admit.Run(t.Context(), d.rdb, keys, args...)); got[0] != 6 {
		t.Errorf("with a clock that was set it answered %d", got[0])
	}
	args[3], args[1] = 0, "another"
	if got := numbers(t, d.admit.Run(t.Context(), d.rdb, keys, args...)); got[0] != 7 {
		t.Errorf("in another state it answered %d", got[0])
	}
	args[1], args[2] = "", 2
	if got := numbers(t, d.admit.Run(t.Context(), d.rdb, keys, args...)); got[0] != 1 {
		t.Errorf("a newer policy: %d", got[0])
	}
	if status("old") != 8 {
		t.Errorf("an older policy: %d", status("old2"))
	}
}

// What is used survives a change of the limit and of its algorithm.
func TestConsumptionSurvivesAChange(t *testing.T) {
	t.Parallel()
	hour := time.Hour.Microseconds()
	d := newDriver(t)
	for i, tt := range []struct {
		name          string
		before, after *rateguardv1.Limit
		take, more    int64
	}{
		{"raised", &rateguardv1.Limit{Limit: 5, WindowUs: hour}, &rateguardv1.Limit{Limit: 15, WindowUs: hour}, 5, 10},
		{"lowered", &rateguardv1.Limit{Limit: 15, WindowUs: hour}, &rateguardv1.Limit{Limit: 5, WindowUs: hour}, 7, 0},
		{"bucket to fixed", &rateguardv1.Limit{Limit: 9, WindowUs: hour}, &rateguardv1.Limit{Limit: 9, WindowUs: hour, Algorithm: limit.FixedWindow}, 6, 3},
		{
			"fixed to sliding", &rateguardv1.Limit{Limit: 9, WindowUs: hour, Algorithm: limit.FixedWindow},
			&rateguardv1.Limit{Limit: 9, WindowUs: hour, Algorithm: limit.SlidingWindow}, 6, 3,
		},
		{"sliding to bucket", &rateguardv1.Limit{Limit: 9, WindowUs: hour, Algorithm: limit.SlidingWindow}, &rateguardv1.Limit{Limit: 9, WindowUs: hour}, 6, 3},
		{
			"sliding log to slots", &rateguardv1.Limit{Limit: 9, WindowUs: hour, Algorithm: limit.SlidingWindow},
			&rateguardv1.Limit{Limit: 2000, WindowUs: hour, Algorithm: limit.SlidingWindow}, 6, 1994,
		},
		{
			"sliding to leased", &rateguardv1.Limit{Limit: 9, WindowUs: hour, Algorithm: limit.SlidingWindow},
			&rateguardv1.Limit{Limit: 9, WindowUs: hour, Mode: limit.ModeLeased}, 6, 3,
		},
		{
			"leased to sliding", &rateguardv1.Limit{Limit: 9, WindowUs: hour, Mode: limit.ModeLeased},
			&rateguardv1.Limit{Limit: 9, WindowUs: hour, Algorithm: limit.SlidingWindow}, 6, 3,
		},
	} {
		bucket := keyspace.Bucket("ws", fmt.Sprint(i), "")
		take := func(l *rateguardv1.Limit, n int64) lua.Take {
			t := lua.Take{Limit: prepared(t, l), Bucket: bucket, Amount: n}
			if l.GetMode() == limit.ModeLeased {
				t.Ask = &lua.Ask{Holder: "p", Want: 1, Least: 1, Most: 0, TTL: 1000}
			}
			return t
		}
		if got := d.call(take(tt.before, tt.take)); got[0] != 1 {
			t.Fatalf("%s: before: %v", tt.name, got)
		}
		if tt.more > 0 {
			if got := d.call(take(tt.after, tt.more)); got[0] != 1 {
				t.Errorf("%s: %d more: %v", tt.name, tt.more, got)
			}
		}
		if got := d.call(take(tt.after, 1)); got[0] != 0 {
			t.Errorf("%s: above: %v", tt.name, got)
		}
	}
}

// Ids of clients can neither leave the slot of their workspace nor meet each other, and no key lives for ever.
func TestHostileIdsStayApartAndEveryKeyHasAnEnd(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	a := admissions(t, r.URL())
	l := prepared(t, &rateguardv1.Limit{Algorithm: limit.SlidingWindow, Limit: 1, WindowUs: 3_600_000_000})
	b := prepared(t, &rateguardv1.Limit{Limit: 1, WindowUs: 10_000})
	ids := []string{"", "x", "{x}", "}", "{", "a:b", "a b", "a\nb", "a\x00b", "~x", string(slices.Repeat([]byte("é"), 5_000)), "é"}
	for i, id := range ids {
		for again, want := range []bool{true, false} {
			d, err := a.Admit(t.Context(), &lua.Request{
				Workspace: "ws{}" + id, Reservation: fmt.Sprint(i, again), Key: id, PolicyVersion: 1,
				Takes: []lua.Take{
					{Limit: l, Bucket: keyspace.Bucket("ws{}"+id, "l", id), Amount: 1},
					{Limit: b, Bucket: keyspace.Bucket("ws{}"+id, "m", id), Amount: 0},
				},
			})
			if err != nil || d.Admitted != want {
				t.Errorf("id %.20q, request %d: %v %v", id, again, d.Admitted, err)
			}
		}
	}
	rdb := r.Client()
	for keys := rdb.Scan(t.Context(), 0, "*", 1000).Iterator(); keys.Next(t.Context()); {
		if ttl := rdb.PTTL(t.Context(), keys.Val()).Val(); ttl <= 0 {
			t.Errorf("%q has no end", keys.Val())
		}
	}
}
