package schedules_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"

	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// again is a budget that is deleted and made again, within the one of all requests.
const again = "again"

// Schedule (w): a hard budget is deleted and made again under the same name while requests are open that hold of it, and while one by the old policy is on its way. It counts from zero, as another one:
// what ends later of the old one is none of it. So it does when Redis is lost after that.
func TestABudgetIsDeletedAndMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, q := w.proxy(patient()), w.proxy()
	g := w.gate()
	w.setBudget(20)
	w.newBudget(again, 4*harness.HTTPCostNano)
	open := w.send(q.URL, gated)
	g.AwaitWaiting(1)
	w.serve(p.URL, 3, call)
	w.fillUntil(http.StatusTooManyRequests)
	old := p.relay.Catch(faults.HoldCommand, 1, faults.Reserves(w.tenant.ID))
	late := w.send(p.URL, call)
	old.Await(1)

	w.deleteBudget(again, w.system.ProxyURL, q.URL)
	w.newBudget(again, 2*harness.HTTPCostNano)
	w.serve(q.URL, 1, call)
	old.Release()
	late.want(http.StatusOK) // by the new one, which has room for it
	w.fill()
	w.redis.Wipe()
	w.fill()
	g.Open()
	open.want(http.StatusOK)
	w.system.AwaitBalance(t, w.tenant, budget) // the end is everywhere
	w.fill()
	b, err := w.system.Admin.Budget(t.Context(), w.tenant.ID, again)
	if err != nil || b.Balance == nil || harness.Nano(t, &b.Balance.PostedUSD) != 2*harness.HTTPCostNano || harness.Nano(t, &b.Balance.ReservedUSD) != 0 {
		t.Errorf("the one that was made again has %+v, %v", b.Balance, err)
	}

	w.deleteBudget(again)
	w.fill()
	w.check(books{full: true})
}

// Schedule (u): ClickHouse loses its tables while requests are under way, and the checkpoints of what was written there are left. The rows are made again from the log, each once.
func TestClickHouseIsWipedAndItsCheckpointsAreLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.proxy()
	g := w.gate()
	w.setBudget(10)
	w.serve(p.URL, 3, chat)
	w.serve(p.URL, 2, call)
	open := w.send(p.URL, gated)
	g.AwaitWaiting(1)
	harness.Eventually(t, 20*time.Second, func() error {
		if n := len(w.tenant.Requests()); n < 5 {
			return fmt.Errorf("ClickHouse has %d rows, want 5", n)
		}
		return nil
	})
	options, err := clickhouse.ParseDSN(w.system.Config().ClickHouseURL)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for _, table := range []string{"requests", "corrections"} {
		if err := conn.Exec(t.Context(), "DROP TABLE "+table+" SYNC"); err != nil {
			t.Fatalf("wiping ClickHouse: %v", err)
		}
	}
	w.serve(p.URL, 1, chat)
	g.Open()
	open.want(http.StatusOK)
	w.fill()
	w.check(books{})
}
