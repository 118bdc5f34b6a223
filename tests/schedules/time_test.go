package schedules_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// Schedule (f): Redis hangs, and then runs what has waited in its sockets. Clients heard long before that budgets cannot be used, and nothing of it is granted to them.
func TestAStoppedRedisGrantsNothingLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	w.setBudget(10)
	w.serve(p.URL, 1, call)
	open := w.begin(p.URL, call.taking(2*time.Second))
	w.redis.Stop()
	for range 3 {
		began := time.Now()
		w.wantClosed("Redis hangs", w.bases()...)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("clients waited for %s", took)
		}
	}
	open.want(http.StatusOK) // its end needs no Redis
	w.redis.Continue()
	w.fill()
	w.check(books{full: true, prompt: true})
}

// Schedule (g): Redis' clock steps ahead by more than a period, and back. While it is wrong budgets are closed, and no period rolls over.
func TestAStepOfRedisClockRollsNothingOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	w.period = "month"
	w.setBudget(10)
	w.serve(p.URL, 3, call)
	open := w.begin(p.URL, call.taking(3*time.Second))
	w.clock(31 * 24 * time.Hour)
	w.wantClosed("Redis' clock is wrong", w.bases()...)
	w.wantClosed("Redis' clock is still wrong", w.bases()...)
	open.want(http.StatusOK)
	w.clock(0)
	w.serve(p.URL, 1, call)
	w.fill()
	w.check(books{full: true})
}

// Schedule (x): clocks go back at 1:00 on the Azores, so that midnight comes twice and the day has 25 hours. Proxies know another time there, or none, and so does the machine of control: all of them go by the
// periods that control has published of its own data, and by Redis' clock. The hour that comes twice is two, and the day is one, to its last minute.
func TestADayWithTwoMidnightsIsOneOfTwentyFiveHours(t *testing.T) {
	t.Parallel()
	again := azoresGoBack(time.Now())
	midnight, next := again.Add(-time.Hour), again.Add(24*time.Hour)
	w := newWorldAt(t, time.Until(again.Add(-5*time.Minute)).Truncate(time.Second))
	wrong := []string{"TZ=Atlantic/Azores", "ZONEINFO=" + wrongZones(t)}
	control := faults.StartClocked(t, w.system, w.ahead, wrong...)
	clocked := *w.system
	clocked.Admin = adminclient.New("http://"+control.Address, w.system.AdminToken())
	w.control = &clocked
	p, q := w.proxy(wrong...), w.proxy("TZ=Nowhere/Else", "ZONEINFO="+t.TempDir())
	w.period, w.timezone = "hour", "Atlantic/Azores"
	harness.Eventually(t, time.Minute, func() error {
		_, err := clocked.Admin.Budgets(t.Context(), w.tenant.ID)
		return err
	})
	w.put("day", 8*harness.HTTPCostNano, "day")
	w.setBudget(5)

	w.fill()
	w.turn(control, again, w.bases()...)
	w.fill() // three more, as the day is still the same

	// Nobody believes a clock that steps by a day; processes that start then know no other one.
	for _, x := range w.proxies {
		x.Terminate()
		<-x.Exited()
	}
	w.setClock(control, time.Until(next.Add(-3*time.Minute)))
	for _, x := range w.proxies {
		x.Start()
		x.AwaitReady()
		w.wantSpent(x.URL)
	}
	w.turn(control, next, p.URL, q.URL)
	w.fill(p.URL, q.URL)

	a := w.check(books{full: true})
	for name, want := range map[string]map[int64]int64{
		budget: {midnight.UnixMicro(): 5 * harness.HTTPCostNano, again.UnixMicro(): 3 * harness.HTTPCostNano, next.UnixMicro(): 5 * harness.HTTPCostNano},
		"day":  {midnight.UnixMicro(): 8 * harness.HTTPCostNano, next.UnixMicro(): 5 * harness.HTTPCostNano},
	} {
		if got := a.Periods(name); !maps.Equal(got, want) {
			t.Errorf("the periods of %s have posted %v, want %v", name, got, want)
		}
	}
	clocked.AwaitBalance(t, w.tenant, "day")
}

// azoresGoBack is the next time that clocks go back on the Azores: by the law of the European Union at 1:00 UTC on the last Sunday of October.
func azoresGoBack(now time.Time) time.Time {
	for year := now.Year(); ; year++ {
		at := time.Date(year, time.October, 31, 1, 0, 0, 0, time.UTC)
		at = at.AddDate(0, 0, -int(at.Weekday()))
		if at.After(now.Add(time.Hour)) {
			return at
		}
	}
}

// wrongZones is a folder of time zones by which the Azores are five hours ahead of UTC, always.
func wrongZones(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	file := append([]byte("TZif"), make([]byte, 16)...)
	for _, n := range []uint32{0, 0, 0, 0, 1, 4, 5 * 3600} { // one kind of time, of a name with four bytes
		file = binary.BigEndian.AppendUint32(file, n)
	}
	file = append(file, "\x00\x00+05\x00"...)
	if _, err := time.LoadLocationFromTZData("Atlantic/Azores", file); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "Atlantic"), 0o700), os.WriteFile(filepath.Join(dir, "Atlantic", "Azores"), file, 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// turn moves all clocks on to just behind an instant, by steps that proxies take for a correction and not for a failure. Until then all of them say that a budget is spent.
func (w *world) turn(control *faults.Clocked, to time.Time, bases ...string) {
	w.t.Helper()
	for left := time.Until(to) - w.ahead; left > 0; left = time.Until(to) - w.ahead {
		for _, base := range bases {
			w.wantSpent(base)
		}
		step := left + 2*time.Second
		if left > 45*time.Second {
			step = min(45*time.Second, left-15*time.Second) // and not to so close before it that it passes by itself
		}
		w.setClock(control, w.ahead+step)
	}
}

// wantSpent asks a proxy, which has to say that the budget is spent, or first that it was about to decide by a clock that is another one by now.
func (w *world) wantSpent(base string) {
	w.t.Helper()
	harness.Eventually(w.t, 20*time.Second, func() error {
		switch got := w.ask(base, call); got.status {
		case http.StatusPaymentRequired:
			return nil
		case http.StatusServiceUnavailable:
			return fmt.Errorf("%s answers %s", base, got.code)
		default:
			w.t.Fatalf("%s answers %d %s, and the budget is spent", base, got.status, got.code)
			return nil
		}
	})
}

// setClock sets Redis' clock and that of control.
func (w *world) setClock(control *faults.Clocked, ahead time.Duration) {
	w.t.Helper()
	w.ahead = ahead.Truncate(time.Second)
	control.Ahead(w.t, w.ahead)
	w.clock(w.ahead)
}

// clock makes Redis' clock differ from the machine's, for everybody.
func (w *world) clock(by time.Duration) {
	w.t.Helper()
	w.relay.Clock(by)
	for _, p := range w.proxies {
		p.relay.Clock(by)
	}
}

// Schedule (e): the state in Redis comes to the end of its time to live. Who asks on a new day gives it its whole time again; where nobody did, it is gone, with what was open in it, and comes back from
// the log: for the requests that ask next, once, whatever ends meanwhile.
func TestAnIdleWorkspaceOutlivesItsTimeToLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	g := w.gate()
	w.setBudget(9)
	w.serve(p.URL, 2, call)
	ending := w.send(p.URL, gated)
	g.AwaitWaiting(1)
	state := keyspace.State(w.tenant.ID)
	w.redisDo("hset", state, "day", "1") // the day of the last request
	w.redisDo("pexpire", state, 30_000)
	w.serve(p.URL, 1, call)
	if left := w.redis.Client.PTTL(t.Context(), state).Val(); left < 399*24*time.Hour {
		t.Errorf("the state lives for %s after a request of a new day", left)
	}

	w.awaitShipped()
	w.expire()
	g.Open() // its end finds nothing to settle
	ending.want(http.StatusOK)
	g.Shut()
	open := w.send(p.URL, gated)
	g.AwaitWaiting(1)
	w.expire()
	w.fillUntil(http.StatusTooManyRequests)
	g.Open()
	open.want(http.StatusOK)
	w.fill()
	if epochs := w.check(books{full: true}).Epochs(); len(epochs) < 3 {
		t.Errorf("admissions in the epochs %v: the state was not gone", epochs)
	}
}

// expire lets all that Redis has of the workspace come to the end of its time.
func (w *world) expire() {
	w.t.Helper()
	keys, err := w.redis.Client.Keys(w.t.Context(), "rg:{"+keyspace.Name(w.tenant.ID)+"}:*").Result()
	if err != nil || len(keys) == 0 {
		w.t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, key := range keys {
		w.redisDo("pexpire", key, 1)
	}
	harness.Eventually(w.t, 60*time.Second, func() error {
		if n, err := w.redis.Client.Exists(w.t.Context(), keyspace.State(w.tenant.ID)).Result(); err != nil || n > 0 {
			return errors.Join(errors.New("the state is there still"), err)
		}
		return nil
	})
}

func (w *world) redisDo(args ...any) {
	w.t.Helper()
	if err := w.redis.Client.Do(w.t.Context(), args...).Err(); err != nil {
		w.t.Fatal(err)
	}
}
