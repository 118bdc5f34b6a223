package lua_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// lender models a token bucket of which holders keep units.
type lender struct {
	leak
	most    int64
	holders map[string]holding
}

type holding struct{ units, until int64 }

func (m *lender) ask(now, amount int64, a *lua.Ask) (ok bool, s seen, units int64, counted bool) {
	if a.Back > 0 {
		m.giveBack(now, a.BackAtUS, a.Back)
	}
	if ok, s = m.take(now, amount); !ok {
		return ok, s, 0, false
	}
	others, n := int64(0), int64(1)
	for who, h := range m.holders {
		switch {
		case h.until <= now:
			delete(m.holders, who)
		case who != a.Holder:
			others += h.units
			n++
		}
	}
	mine, counted := m.holders[a.Holder]
	held := min(a.Held, mine.units)
	level, at := m.at(now)
	room := (m.burst*m.window - level) / m.window / (2 * n)
	units = min(a.Want, m.most/n-held, m.most-others-held, room)
	if units < a.Least {
		units = 0
	}
	delete(m.holders, a.Holder)
	if a.Want > 0 || held > 0 {
		m.holders[a.Holder] = holding{held + units, now + a.TTL*1000}
	}
	if units > 0 {
		level += units * m.window
		m.level, m.time = level, at
	}
	s.used, s.reset = up(level, m.window), up(level, m.limit)
	s.remaining = max(0, (m.burst*m.window-level)/m.window)
	return ok, s, units, counted
}

// lending is a call whose answer is still to come, and what the model says to it.
type lending struct {
	cmd     *redis.Cmd
	ok      bool
	want    seen
	units   int64
	counted bool
}

func TestLendingDoesWhatTheModelSays(t *testing.T) {
	t.Parallel()
	steps := 100_000
	if testing.Short() {
		steps = 5_000
	}
	seed := seedOf(t)
	r := rand.New(rand.NewPCG(seed, 1))
	const rate, window, burst, most = 700, 1_000_000, 400, 60
	scale, err := limit.NewScale(rate, window, burst)
	if err != nil {
		t.Fatal(err)
	}
	l := lua.NewLimit(&rateguardv1.Limit{Algorithm: limit.TokenBucket, Limit: rate, WindowUs: window, Burst: burst}, scale)
	d := newDriver(t)
	ctx := t.Context()
	if err := d.admit.Load(ctx, d.rdb).Err(); err != nil {
		t.Fatal(err)
	}
	m := &lender{leak: leak{limit: rate, window: window, burst: burst, queue: -1}, most: most, holders: map[string]holding{}}
	bucket, latest := keyspace.Bucket("ws", "limit", ""), d.now
	pipe, waiting, lent, lost := d.rdb.Pipeline(), []lending{}, 0, 0
	for step := range steps {
		if now := tick(r, d.now, latest, window/20); now != d.now {
			d.now, latest = now, max(latest, now)
			pipe.MSet(ctx, "clock:s", now/1_000_000, "clock:us", now%1_000_000)
		}
		amount := r.Int64N(4)
		if r.IntN(40) == 0 {
			amount = r.Int64N(burst)
		}
		ask := &lua.Ask{
			Holder: "p" + strconv.Itoa(r.IntN(4)), Held: r.Int64N(30), Want: r.Int64N(40), Least: 1 + r.Int64N(6), Most: most, TTL: 20 + r.Int64N(100),
		}
		if r.IntN(4) == 0 {
			ask.Want = 0
		}
		if r.IntN(4) == 0 {
			ask.Back, ask.BackAtUS = r.Int64N(20), d.now-r.Int64N(window/50)
		}
		keys, args := admission(strconv.Itoa(step), lua.Take{Limit: &l, Bucket: bucket, Amount: amount, Ask: ask})
		w := lending{cmd: d.admit.EvalSha(ctx, pipe, keys, args...)}
		w.ok, w.want, w.units, w.counted = m.ask(d.now, amount, ask)
		if waiting = append(waiting, w); w.units > 0 {
			lent++
		}
		if !w.counted {
			lost++
		}
		if step%200 == 199 || step == steps-1 {
			if _, err := pipe.Exec(ctx); err != nil {
				t.Fatal(err)
			}
			for _, w := range waiting {
				w.check(t)
			}
			waiting = waiting[:0]
		}
	}
	if lent < steps/10 || lost < steps/10 {
		t.Errorf("%d got units and %d had lost theirs: the walk shows little", lent, lost)
	}
}

func (w lending) check(t *testing.T) {
	t.Helper()
	got := numbers(t, w.cmd)
	if have := (seen{got[4], got[5], got[6], got[7]}); got[0] != bit(w.ok) || have != w.want {
		t.Fatalf("admitted %d %+v, want %v %+v: %v units %d", got[0], have, w.ok, w.want, got, w.units)
	}
	if w.ok && (got[8] != w.units || got[9] != bit(w.counted)) {
		t.Fatalf("lent %d (counted %d), want %d (%v)", got[8], got[9], w.units, w.counted)
	}
}
