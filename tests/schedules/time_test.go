package schedules_test

import (
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/tests/harness"
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
	harness.Eventually(w.t, 10*time.Second, func() error {
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
