// Package crash_test kills the whole of `rateguard up` under load, again and again, and then
// counts: what every client got, what the provider served, what the log, the ledger, the
// analytics and the tables say.
package crash_test

import (
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// settings of a run; `make soak` sets the long one.
func lives(t *testing.T) (kills int, each time.Duration, rate int) {
	t.Helper()
	kills, each, rate = 3, 5*time.Second, 100
	if s := os.Getenv("RATEGUARD_CRASH_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("RATEGUARD_CRASH_KILLS: %v", err)
		}
		kills, each, rate = n, 10*time.Second, 200
	}
	return kills, each, rate
}

func TestKillUnderLoadLosesAndRepeatsNothing(t *testing.T) {
	kills, each, rate := lives(t)
	mock := harness.StartMock(t)
	p := harness.NewProcess(t, harness.StartStores(t))
	p.Start()
	p.AwaitReady()
	target := p.Endpoints(mock)
	tenant := target.Tenant(t)
	load := harness.StartTraffic(t, target, tenant.Key, rate)
	for life := range kills {
		wait(t, each)
		p.Kill()
		began := time.Now()
		p.Start()
		p.AwaitReady()
		t.Logf("life %d: ready %s after the kill", life+2, time.Since(began).Round(time.Millisecond))
	}
	wait(t, each)
	sent := load.Stop()
	p.Terminate()

	c := harness.NewCount(t, harness.Adopt(t, p, mock), tenant, sent)
	if c.Whole < len(sent)/4 || c.Whole == len(sent) {
		t.Errorf("%d of %d requests were answered whole: the kills and the load did not meet", c.Whole, len(sent))
	}
}

// TestTerminationUnderLoadFailsNothing stops the process as an operator does: what is in flight is answered whole.
func TestTerminationUnderLoadFailsNothing(t *testing.T) {
	mock := harness.StartMock(t)
	p := harness.NewProcess(t, harness.StartStores(t))
	p.Start()
	p.AwaitReady()
	target := p.Endpoints(mock)
	load := harness.StartTraffic(t, target, target.Tenant(t).Key, 100)
	wait(t, 3*time.Second)
	p.Terminate()
	sent := load.Stop()
	served := 0
	for id, s := range sent {
		switch {
		case s.Whole:
			served++
		case s.ID != "":
			t.Errorf("request %s (%s) had begun and was not finished: %v", id, s.Kind, s.Err)
		}
	}
	if served < 100 {
		t.Errorf("only %d requests were served before the end", served)
	}
	// What reached the provider was in flight too, though its client may have seen nothing yet.
	for _, r := range mock.Served() {
		if s := sent[r.IdempotencyKey]; r.Usage.Output > 0 && !s.Whole {
			t.Errorf("request %s (%s) was served by the provider and lost on the way: %v", r.IdempotencyKey, s.Kind, s.Err)
		}
	}
}

// wait lets load run for a while; the length of a load is not a condition that one could wait for.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}
