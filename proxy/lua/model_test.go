package lua_test

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// seen is what a limit showed after a call: the last four numbers of its answer.
type seen struct{ used, remaining, reset, wait int64 }

// model is what an algorithm promises, said plainly and slowly. Times are µs.
type model interface {
	take(now, amount int64) (bool, seen)
	giveBack(now, at, amount int64)
}

// leak models token and leaky buckets by one number in units of 1/window: exact, whatever the rate. A time that was
// stored with a level holds until the clock has passed it.
type leak struct {
	limit, window, burst, level, time int64
	// queue is the longest delay of a leaky bucket; −1: a token bucket.
	queue int64
	// lows are the levels before everything that was taken, where the bucket keeps them.
	keeps bool
	lows  []entry
}

func (m *leak) at(now int64) (level, at int64) {
	if m.level == 0 {
		return 0, now
	}
	at = max(m.time, now)
	return max(0, m.level-(at-m.time)*m.limit), at
}

func (m *leak) take(now, amount int64) (bool, seen) {
	level, at := m.at(now)
	room, after := m.burst*m.window, level+amount*m.window
	var s seen
	ok := amount == 0 || after <= room
	if m.queue >= 0 {
		room = min(room, m.queue*m.limit)
		ok = amount == 0 || level <= room
	}
	switch {
	case !ok && m.queue >= 0:
		s.wait = max(1, up(level-room, m.limit)+at-now)
	case !ok:
		s.wait = max(1, up(after-room, m.limit)+at-now)
	case amount > 0:
		if m.queue >= 0 {
			s.wait = up(level, m.limit)
		}
		m.note(level, at)
		m.level, m.time = after, at
		level = after
	}
	s.used, s.reset = up(level, m.window), up(level, m.limit)
	if left := room - level; left >= 0 {
		s.remaining = left / m.window
		if m.queue >= 0 {
			s.remaining++
		}
	}
	return ok, s
}

func (m *leak) note(level, at int64) {
	if level == 0 {
		m.lows = nil
	}
	if m.keeps {
		m.lows = append(m.lows, entry{at, level})
	}
}

// giveBack lowers the level at every instant since it was taken, by no more than it was at any before.
func (m *leak) giveBack(now, taken, amount int64) {
	level, at := m.at(now)
	if m.queue >= 0 {
		return
	}
	back := amount * m.window
	least := max(0, back-max(0, at-taken)*m.limit)
	if m.keeps {
		least = max(least, m.lowest(taken, level))
	}
	units := min(back, least, level)
	for i := range m.lows {
		if l := &m.lows[i]; l.end > taken {
			back = min(back, l.amount)
			l.amount = max(0, l.amount-max(back, units))
		}
	}
	m.level, m.time = level-units, at
}

// lowest returns the lowest level since the instant.
func (m *leak) lowest(since, level int64) int64 {
	for _, l := range m.lows {
		if l.end > since {
			level = min(level, l.amount)
		}
	}
	return level
}

func up(a, b int64) int64 { return (a + b - 1) / b }

// fixed models aligned windows: the newest one counts until the clock has left it.
type fixed struct {
	limit, window, start, n int64
}

func (m *fixed) at(now int64) (n, start, at int64) {
	at = max(now, m.start)
	start = at / m.window * m.window
	if start == m.start {
		n = m.n
	}
	return n, start, at
}

func (m *fixed) take(now, amount int64) (bool, seen) {
	n, start, at := m.at(now)
	s := seen{reset: start + m.window - at}
	ok := amount == 0 || n+amount <= m.limit
	switch {
	case !ok:
		s.wait = max(1, start+m.window-now)
	case amount > 0:
		n += amount
		m.n, m.start = n, start
	}
	s.used, s.remaining = n, max(0, m.limit-n)
	return ok, s
}

func (m *fixed) giveBack(now, taken, amount int64) {
	if n, start, _ := m.at(now); taken >= start {
		m.n, m.start = max(0, n-amount), start
	}
}

// sliding models the log of a window whose entries end with their slot.
type sliding struct {
	limit, window, slot int64
	log                 []entry
	last                int64
}

type entry struct{ end, amount int64 }

// total drops what has left the window, for good; t is the time that counts.
func (m *sliding) total(now int64) (t, n int64) {
	if m.last-m.slot >= now {
		now = m.last
	}
	m.log = slices.DeleteFunc(m.log, func(e entry) bool { return e.end+m.window <= now })
	for _, e := range m.log {
		n += e.amount
	}
	if len(m.log) == 0 {
		m.last = 0
	}
	return now, n
}

func (m *sliding) take(now, amount int64) (bool, seen) {
	t, n := m.total(now)
	var s seen
	ok := amount == 0 || n+amount <= m.limit
	if ok && amount > 0 {
		m.last = max(m.last, t/m.slot*m.slot+m.slot-1)
		m.log = append(m.log, entry{m.last, amount})
		n += amount
	}
	if !ok {
		need := n + amount - m.limit
		for _, e := range m.log {
			if need -= e.amount; need <= 0 {
				s.wait = max(1, e.end+m.window-now)
				break
			}
		}
	}
	s.used, s.remaining = n, max(0, m.limit-n)
	if n > 0 {
		s.reset = max(0, m.last+m.window-t)
	}
	return ok, s
}

func (m *sliding) giveBack(now, at, amount int64) {
	m.total(now)
	end := at/m.slot*m.slot + m.slot - 1
	for i := range m.log {
		if m.log[i].end == end {
			back := min(amount, m.log[i].amount)
			m.log[i].amount -= back
			amount -= back
		}
	}
}

// driver runs the scripts with a clock of its own.
type driver struct {
	tb            testing.TB
	rdb           *redis.Client
	admit, adjust *redis.Script
	now           int64
	calls         int
}

func newDriver(tb testing.TB) *driver {
	admit, adjust := lua.SourcesWithClock()
	d := &driver{tb: tb, rdb: redistest.Start(tb).Client(), admit: redis.NewScript(admit), adjust: redis.NewScript(adjust), now: 1_790_000_000_000_000}
	d.set(d.now)
	return d
}

func (d *driver) set(now int64) {
	d.now = now
	if err := d.rdb.MSet(context.Background(), "clock:s", now/1_000_000, "clock:us", now%1_000_000).Err(); err != nil {
		d.tb.Fatal(err)
	}
}

// admission returns the call that decides a reservation.
func admission(id string, takes ...lua.Take) (keys []string, args []any) {
	keys = []string{keyspace.State("ws"), keyspace.Mark("ws", id), keyspace.Revoked("ws")}
	args = []any{"", "", 1, 0, 0, "key", 0}
	for i := range takes {
		keys, args = takes[i].AppendKeys(keys), takes[i].AppendArgs(args, 0)
	}
	return keys, args
}

// change returns the call that changes what a reservation has taken.
func change(mode, id string, at int64, takes ...lua.Take) (keys []string, args []any) {
	keys, args = []string{keyspace.Mark("ws", id), keyspace.State("ws")}, []any{mode, "", 0}
	for i := range takes {
		keys, args = takes[i].AppendKeys(keys), takes[i].AppendArgs(args, at)
	}
	return keys, args
}

// numbers are those of an answer; texts are 0.
func numbers(tb testing.TB, cmd *redis.Cmd) []int64 {
	tb.Helper()
	values, err := cmd.Slice()
	if err != nil {
		tb.Fatal(err)
	}
	out := make([]int64, len(values))
	for i, v := range values {
		out[i], _ = v.(int64)
	}
	return out
}

// call decides a new reservation now.
func (d *driver) call(takes ...lua.Take) []int64 {
	d.calls++
	return d.as(strconv.Itoa(d.calls), takes...)
}

func (d *driver) as(id string, takes ...lua.Take) []int64 {
	d.tb.Helper()
	keys, args := admission(id, takes...)
	return numbers(d.tb, d.admit.Run(context.Background(), d.rdb, keys, args...))
}

func (d *driver) change(mode, id string, at int64, takes ...lua.Take) []int64 {
	d.tb.Helper()
	keys, args := change(mode, id, at, takes...)
	return numbers(d.tb, d.adjust.Run(context.Background(), d.rdb, keys, args...))
}

func TestScriptsDoWhatTheModelsSay(t *testing.T) {
	t.Parallel()
	steps := 100_000
	if testing.Short() {
		steps = 5_000
	}
	for _, tt := range []struct {
		name, algorithm      string
		limit, window, burst int64
		delay, largest       int64
		lows                 int
	}{
		{"token bucket", limit.TokenBucket, 7, 1_000_000, 12, 0, 12, 0},
		{"token bucket that is given back to", limit.TokenBucket, 7, 1_000_000, 12, 0, 12, 100},
		{"token bucket of tokens", limit.TokenBucket, 1_000_000, 60_000_000, 250_000, 0, 240_000, 100},
		{"leaky bucket", limit.LeakyBucket, 30, 1_000_000, 9, 250_000, 4, 0},
		{"fixed window", limit.FixedWindow, 20, 3_000_000, 0, 0, 20, 0},
		{"sliding log", limit.SlidingWindow, 40, 2_000_000, 0, 0, 9, 0},
		{"sliding slots", limit.SlidingWindow, 2_000, 2_000_000, 0, 0, 1_500, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			scale, err := limit.NewScale(tt.limit, tt.window, max(tt.burst, 1))
			if err != nil {
				t.Fatal(err)
			}
			l := lua.NewLimit(&rateguardv1.Limit{
				Algorithm: tt.algorithm, Limit: tt.limit, WindowUs: tt.window, Burst: tt.burst, MaxDelayUs: tt.delay,
			}, scale)
			d := newDriver(t)
			var m model
			switch tt.algorithm {
			case limit.FixedWindow:
				m = &fixed{limit: tt.limit, window: tt.window}
			case limit.SlidingWindow:
				m = &sliding{limit: tt.limit, window: tt.window, slot: limit.Slot(tt.limit, tt.window)}
			default:
				m = &leak{limit: tt.limit, window: tt.window, burst: tt.burst, queue: -1, keeps: tt.lows > 0}
				l.KeepLows(tt.lows)
				if tt.algorithm == limit.LeakyBucket {
					m.(*leak).queue = tt.delay
				}
			}
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			walk(t, d, m, &l, rand.New(rand.NewPCG(seed, 1)), tt.window, tt.largest, steps)
		})
	}
}

// taken is an admission that may be given back.
type taken struct {
	id         string
	at, amount int64
}

// asked is a call whose answer is still to come, and what the model says to it.
type asked struct {
	cmd    *redis.Cmd
	now    int64
	amount int64
	ok     bool
	want   seen
}

// walk drives scripts and model with the same random steps and compares every answer. Calls go out in batches.
func walk(t *testing.T, d *driver, m model, l *lua.Limit, r *rand.Rand, window, largest int64, steps int) {
	t.Helper()
	ctx := t.Context()
	for _, s := range []*redis.Script{d.admit, d.adjust} {
		if err := s.Load(ctx, d.rdb).Err(); err != nil {
			t.Fatal(err)
		}
	}
	var open []taken
	latest, counts := d.now, map[bool]int{}
	bucket := keyspace.Bucket("ws", "limit", "")
	pipe, waiting := d.rdb.Pipeline(), []asked{}
	for step := range steps {
		now := tick(r, d.now, latest, window)
		if now != d.now {
			d.now, latest = now, max(latest, now)
			pipe.MSet(ctx, "clock:s", now/1_000_000, "clock:us", now%1_000_000)
		}
		if len(open) > 0 && r.IntN(6) == 0 {
			i := r.IntN(len(open))
			o := open[i]
			open = slices.Delete(open, i, i+1)
			if back := r.Int64N(o.amount + 1); back > 0 {
				keys, args := change("settle", o.id, o.at, lua.Take{Limit: l, Bucket: bucket, Amount: back})
				d.adjust.EvalSha(ctx, pipe, keys, args...)
				m.giveBack(d.now, o.at, back)
			}
		} else {
			amount := r.Int64N(largest + 1)
			if r.IntN(3) > 0 {
				amount = r.Int64N(min(largest, 3) + 1)
			}
			id := strconv.Itoa(step)
			keys, args := admission(id, lua.Take{Limit: l, Bucket: bucket, Amount: amount})
			a := asked{cmd: d.admit.EvalSha(ctx, pipe, keys, args...), now: d.now, amount: amount}
			a.ok, a.want = m.take(d.now, amount)
			waiting = append(waiting, a)
			counts[a.ok]++
			if a.ok && amount > 0 {
				open = append(open, taken{id, d.now, amount})
				open = open[max(0, len(open)-20):]
			}
		}
		if step%200 == 199 || step == steps-1 {
			if _, err := pipe.Exec(ctx); err != nil {
				t.Fatal(err)
			}
			compare(t, waiting)
			waiting = waiting[:0]
		}
	}
	if counts[true] < steps/10 || counts[false] < steps/100 {
		t.Errorf("%d admitted and %d denied: the walk shows little", counts[true], counts[false])
	}
}

// tick moves the clock: mostly not or a little, seldom far, sometimes back.
func tick(r *rand.Rand, now, latest, window int64) int64 {
	switch p := r.IntN(100); {
	case p < 35:
		return now
	case p < 85:
		return now + r.Int64N(window/8)
	case p < 97:
		return now + r.Int64N(2*window)
	case p < 98:
		return now + r.Int64N(50*window)
	}
	return max(now-r.Int64N(window), latest-50_000_000) // further back, the clock that wrote was wrong
}

func compare(t *testing.T, waiting []asked) {
	t.Helper()
	for _, a := range waiting {
		got := numbers(t, a.cmd)
		if have := (seen{got[4], got[5], got[6], got[7]}); got[0] != bit(a.ok) || have != a.want {
			t.Fatalf("%d at %d: admitted %d %+v, want %v %+v", a.amount, a.now, got[0], have, a.ok, a.want)
		}
	}
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
