package schedules_test

import (
	"net/http"
	"testing"
	"time"
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
