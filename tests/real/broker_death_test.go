package real_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

const (
	rate = 50
	// between is how many requests are served whole between two events.
	between = 3 * rate
)

// served waits until n more requests were answered whole.
func served(t *testing.T, load *harness.Traffic, n int) {
	t.Helper()
	want := load.Whole() + n
	harness.Eventually(t, time.Minute, func() error {
		if got := load.Whole(); got < want {
			return fmt.Errorf("%d requests were answered whole, want %d", got, want)
		}
		return nil
	})
}

// TestDeathOfTheBrokerCostsNothing kills Apache Kafka under load: clients notice nothing, and
// afterwards each request is in the log, the ledger and the analytics once, at its exact cost.
func TestDeathOfTheBrokerCostsNothing(t *testing.T) {
	s := harness.New(t)
	tenant := s.Tenant(t)
	load := harness.StartTraffic(t, s.Endpoints, tenant.Key, rate)
	for range 2 {
		served(t, load, between)
		if err := s.Broker().Close(); err != nil {
			t.Fatalf("killing the broker: %v", err)
		}
		served(t, load, between)
		if err := s.Broker().Run(t.Context()); err != nil {
			t.Fatalf("starting the broker again: %v", err)
		}
	}
	served(t, load, between)
	sent := load.Stop()
	for key, r := range sent {
		if !r.Whole {
			t.Errorf("request %s (%s): %v", key, r.Kind, r.Err)
		}
	}
	if c := harness.NewCount(t, s, tenant, sent); c.Estimated > 0 {
		t.Errorf("%d costs are estimated, though every answer was whole", c.Estimated)
	}
}

// TestDeathOfEverythingWhileTheBrokerIsDeadCostsNothing leaves events on the proxy's disk alone,
// kills the proxy too, and wants them all in the books of the next life.
func TestDeathOfEverythingWhileTheBrokerIsDeadCostsNothing(t *testing.T) {
	stores, mock := harness.StartStores(t), harness.StartMock(t)
	p := harness.NewProcess(t, stores)
	p.Start()
	p.AwaitReady()
	target := p.Endpoints(mock)
	tenant := target.Tenant(t)
	load := harness.StartTraffic(t, target, tenant.Key, rate)
	served(t, load, between)
	if err := stores.Broker.Close(); err != nil {
		t.Fatalf("killing the broker: %v", err)
	}
	served(t, load, between)
	p.Kill()
	sent := load.Stop()
	if err := stores.Broker.Run(t.Context()); err != nil {
		t.Fatalf("starting the broker again: %v", err)
	}
	if c := harness.NewCount(t, harness.Adopt(t, p, mock), tenant, sent); c.Whole < 2*between {
		t.Errorf("only %d requests were answered whole", c.Whole)
	}
}
