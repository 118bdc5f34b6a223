package lua_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
)

// Whatever happens, no time sees more than burst + rate·t and what may be held: proxies come, stall and die with what they hold, answers are lost, load
// swings between idle and far too much, all at once.
func TestLeasesNeverAdmitMoreThanTheyMayHold(t *testing.T) {
	t.Parallel()
	seed := seedOf(t)
	rdb := redistest.Start(t).Client()
	rounds := 1
	if n, err := strconv.Atoi(os.Getenv("RATEGUARD_ROUNDS")); err == nil {
		rounds = n
	}
	for round := range rounds {
		l := leased(1000, []int64{1000, 4000, 10000}[round%3])
		w := newWorld(t, rdb, seed+uint64(round), l)
		n := 1 + w.r.IntN(50)
		if round == 0 {
			n = 50
		}
		w.lost = []float64{0, 0.02, 0.2}[w.r.IntN(3)]
		w.trip = []time.Duration{time.Millisecond, 20 * time.Millisecond, 90 * time.Millisecond}[w.r.IntN(3)]
		for range n {
			w.start()
		}
		start := w.now
		for w.now.Sub(start) < 2*time.Second {
			w.misbehave(n)
			w.run(w.now.Add(time.Duration(w.r.Int64N(int64(700 * time.Millisecond)))))
		}
		w.finish()
		allowed := float64(l.GetBurst()) * (1 + float64(l.GetLeasePercent())/100)
		got := w.excess(l)
		t.Logf("%d proxies, burst %d, trip %v, lost %.2f: at once %.0f of %.0f, held %d; %d calls for %v decisions",
			n, l.GetBurst(), w.trip, w.lost, got, allowed, w.lentMost, w.calls, w.decided)
		if got > allowed {
			t.Errorf("round %d: %.1f were admitted above the rate, allowed are %.1f", round, got, allowed)
		}
		if w.lentMost > l.GetBurst()*int64(l.GetLeasePercent())/100 {
			t.Errorf("round %d: %d were held", round, w.lentMost)
		}
	}
}

// misbehave does something to the proxies.
func (w *world) misbehave(most int) {
	alive := w.alive()
	switch p := alive[w.r.IntN(len(alive))]; w.r.IntN(6) {
	case 0: // all want something, then all are idle for as long as a lease lives
		for _, p := range alive {
			p.load(20_000/float64(len(alive)), 300*time.Millisecond)
		}
	case 1: // a burst at all of them
		for _, p := range alive {
			for range 4000 / len(alive) {
				p.request()
			}
		}
	case 2:
		p.load(5000, time.Second)
	case 3:
		p.dead = true
		if len(alive) <= most {
			w.start()
		}
	case 4:
		w.run(w.now.Add(time.Second - time.Duration(w.r.Int64N(int64(20*time.Millisecond)))))
	case 5:
		for _, p := range alive {
			p.load(2_000/float64(len(alive)), time.Second)
		}
	}
}

func (w *world) alive() (out []*simProxy) {
	for _, p := range w.proxies {
		if !p.dead {
			out = append(out, p)
		}
	}
	return out
}

// keep makes a request now and then on each proxy, so that what it holds does not lie idle, until the time is over.
func (w *world) keep(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); w.run(w.now.Add(100 * time.Millisecond)) {
		for _, p := range w.alive() {
			p.request()
		}
	}
}

// The worst that a holder can do: it takes all that it may hold, waits until the bucket is full again, and spends both at once.
func TestHoardingThenBurstingAddsWhatMayBeHeld(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t).Client()
	l := leased(10_000, 4_000)
	most := 0.0
	for _, n := range []int{1, 8} {
		w := newWorld(t, rdb, seedOf(t), l)
		for range n {
			w.start().load(9_000/float64(n), time.Second)
		}
		w.run(w.now.Add(time.Second))
		w.keep(500 * time.Millisecond) // the bucket is full again, and the leases live
		held := w.lent(w.holders())
		for _, p := range w.alive() {
			for range 5_000 / n {
				p.request()
			}
		}
		w.run(w.now.Add(50 * time.Millisecond))
		w.finish()
		got := w.excess(l)
		t.Logf("%d proxies held %d of 200 when the burst came: %.0f at once", n, held, got)
		if got > 4_200 {
			t.Errorf("%d proxies: %.1f at once, allowed are 4,200", n, got)
		}
		most = max(most, got)
	}
	if most <= 4_020 {
		t.Errorf("at most %.1f at once: nobody hoarded, so this shows nothing", most)
	}
}

// Wherever the traffic goes, it gets the rate: all of it on one of many proxies, also when the others have just held their parts.
func TestOneOfManyProxiesGetsTheRate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), leased(1000, 2000))
	for range 10 {
		w.start().load(300, time.Second)
	}
	w.run(w.now.Add(time.Second))
	before, start := len(w.admitted), w.now
	w.proxies[0].load(3000, 5*time.Second)
	w.run(w.now.Add(5 * time.Second))
	w.finish()
	got, want := len(w.admitted)-before, 1000*w.now.Sub(start).Seconds()
	t.Logf("%d of %.0f; %v", got, want, w.decided)
	if float64(got) < 0.95*want {
		t.Errorf("%d requests in %v at 1,000 a second", got, w.now.Sub(start))
	}
}

// A proxy that dies strands what it held, which is no more than its part, and nothing of it is left after the lease.
func TestADeadHolderStrandsOnlyItsLease(t *testing.T) {
	t.Parallel()
	l := leased(10_000, 20_000)
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), l)
	for range 4 {
		w.start().load(2_000, time.Second)
	}
	w.run(w.now.Add(900 * time.Millisecond))
	all := w.lent(w.holders())
	for _, h := range w.holders() {
		if one := w.lent([]string{h}); one > 1_000/4 {
			t.Errorf("one of four holds %d of 1,000", one)
		}
	}
	for _, p := range w.proxies[1:] {
		p.dead = true
	}
	if all == 0 || all > 1_000 {
		t.Fatalf("held: %d of 1,000", all)
	}
	w.proxies[0].load(2_000, 2*time.Second)
	w.run(w.now.Add(1200 * time.Millisecond))
	alone := w.lent(w.holders())
	if alone == 0 {
		t.Error("the one that lives holds nothing")
	}
	// The others' entries are gone, so that it counts as the only holder.
	if held := w.holders(); len(held) != 1 {
		t.Errorf("holders that are left: %v", held)
	}
	w.finish()
}

// Proxies that join get their part, and those that were there give it up as they spend it.
func TestProxiesThatJoinGetTheirPart(t *testing.T) {
	t.Parallel()
	l := leased(100_000, 100_000)
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), l)
	for range 3 {
		w.start().load(5_000, 3*time.Second)
	}
	w.run(w.now.Add(time.Second))
	for range 7 {
		w.start().load(5_000, 2*time.Second)
	}
	w.run(w.now.Add(time.Second))
	calls, decided := w.calls, w.decided["lease"]
	w.run(w.now.Add(900 * time.Millisecond))
	calls, decided = w.calls-calls, w.decided["lease"]-decided
	w.finish()
	t.Logf("%d calls for %d decisions by lease", calls, decided)
	if decided < 10*calls {
		t.Errorf("10 proxies make %d calls for %d decisions", calls, decided)
	}
}

// A limit that is lowered holds for what is held too, as soon as one proxy knows it: the others hear it when they ask next, at the latest when
// their lease is over.
func TestALoweredLimitEndsLeases(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), leased(10_000, 20_000))
	for range 4 {
		w.start().load(2_000, 3*time.Second)
	}
	w.run(w.now.Add(time.Second))
	low := leased(100, 100)
	w.set(low)
	w.proxies[0].policy = w.policy
	w.run(w.now.Add(1100 * time.Millisecond))
	before := len(w.admitted)
	w.run(w.now.Add(900 * time.Millisecond))
	w.finish()
	if got := len(w.admitted) - before; got > 100+5 {
		t.Errorf("%d requests in 0.9 s at 100 a second", got)
	}
}

// A process that stood still past its lease's time holds nothing any more: what it had is others' by then.
func TestAPausedHolderSpendsNothingAfterItsTime(t *testing.T) {
	t.Parallel()
	l := leased(10_000, 4_000)
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), l)
	for i := range 3 {
		p := w.start()
		p.load(9_000, time.Second)
		w.run(w.now.Add(time.Second))
		p.paused = true
		if held := w.lent(w.holders()); held < 150 {
			t.Fatalf("proxy %d: only %d are held", i, held)
		}
		w.run(w.now.Add(time.Second))
	}
	w.proxies[2].load(9_000, 300*time.Millisecond)
	w.run(w.now.Add(800 * time.Millisecond))
	for _, p := range w.proxies {
		for range 4_000 {
			p.request()
		}
	}
	w.run(w.now.Add(50 * time.Millisecond))
	w.finish()
	if got := w.excess(l); got > 4_200 {
		t.Errorf("%.1f at once, allowed are 4,200", got)
	}
}

// Where Redis is far, leases last for more than the way there and back: requests do not wait for it.
func TestAFarRedisIsSeldomWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), leased(100_000, 100_000))
	w.trip = 160 * time.Millisecond
	for range 3 {
		w.start().load(2_000, 5*time.Second)
	}
	w.run(w.now.Add(2 * time.Second))
	before := w.decided["redis"]
	all := len(w.admitted)
	w.run(w.now.Add(3 * time.Second))
	w.finish()
	all, before = len(w.admitted)-all, w.decided["redis"]-before
	t.Logf("%d of %d requests waited", before, all)
	if all < 17_000 || before > all/50 {
		t.Errorf("%d of %d requests waited for a Redis 160 ms away", before, all)
	}
}

// Whoever waits as long as the refusal says, in whole milliseconds as its header does, is admitted, however short the wait.
func TestWaitingAsToldIsEnoughForALeasedLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, redistest.Start(t).Client(), seedOf(t), leased(5_000, 300))
	p := w.start()
	refused := 0
	w.spawn(func() {
		for range 2_000 {
			e := p.serve()
			if e == nil {
				continue
			}
			refused++
			w.sleep((e.RetryAfter + time.Millisecond - 1).Truncate(time.Millisecond))
			if e := p.serve(); e != nil {
				t.Errorf("refused again after the wait, for %v", e.RetryAfter)
			}
		}
	})
	w.trip = 10 * time.Microsecond
	w.run(w.now.Add(5 * time.Second))
	w.finish()
	if refused < 20 {
		t.Errorf("%d refusals show little", refused)
	}
}
