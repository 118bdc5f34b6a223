package e2e_test

import (
	"errors"
	"net/http"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// A workspace that is used seldom: its state in Redis is near the end of its time when a call comes, which renews all of it; and it ends while a call is under way,
// whose settle then finds nothing. Everything of it is gone together, and comes back from the log.
func TestAnIdleWorkspaceKeepsItsBudgets(t *testing.T) {
	t.Parallel()
	const nearly = 399 * 24 * time.Hour
	s := harness.New(t)
	tenant := s.Tenant(t)
	call := request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.000000001", Period: "total"})
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.04", Period: "total"}) // 20 calls
	awaitHeld(t, s.ProxyURL, call, http.StatusOK)
	rdb, key := redisOf(t, s), keyspace.State(tenant.ID)

	// The last call was 400 days ago, but for a minute.
	if err := errors.Join(rdb.HSet(t.Context(), key, "day", "1").Err(), rdb.PExpire(t.Context(), key, time.Minute).Err()); err != nil {
		t.Fatal(err)
	}
	if got := send(t, s, call); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if left, err := rdb.PTTL(t.Context(), key).Result(); err != nil || left < nearly {
		t.Errorf("the state ends in %s although it was used now (%v)", left, err)
	}
	if left := s.AwaitBalance(t, tenant, "all"); left < 2*harness.HTTPCostNano {
		t.Errorf("posted %d", left)
	}

	slow, answered := call, make(chan int, 1)
	slow.header = map[string]string{"X-Mock-Pace": "ttft=1s"}
	go func() {
		status, _ := askAt(t, s.ProxyURL, slow)
		answered <- status
	}()
	harness.Eventually(t, 60*time.Second, func() error {
		b, err := s.Admin.Budget(t.Context(), tenant.ID, "all")
		if err == nil && (b.Balance == nil || b.Balance.ReservedUSD == "0") {
			err = errors.New("nothing is under way")
		}
		return err
	})
	if err := rdb.PExpire(t.Context(), key, time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	if status := <-answered; status != http.StatusOK {
		t.Errorf("the call that was under way: %d", status)
	}
	if n, err := rdb.Exists(t.Context(), key).Result(); err != nil || n != 0 {
		t.Errorf("a settle made a part of the state anew (%v)", err)
	}
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	if left, err := rdb.PTTL(t.Context(), key).Result(); err != nil || left < nearly {
		t.Errorf("the state that was made anew ends in %s (%v)", left, err)
	}
	posted := s.AwaitBalance(t, tenant, "all")
	a := s.ReadAdmissions(t, tenant.ID)
	if n := a.Check(); n != 20 || posted != 20*harness.HTTPCostNano || len(a.Epochs()) < 2 {
		t.Errorf("%d admissions in the epochs %v, %d nano-USD posted; the budget has room for 20", n, a.Epochs(), posted)
	}
}

// A proxy tells Redis of an end once, and goes on whether it hears an answer or not. Where the answer is lost the settle has run; where the call is lost the log brings
// it in. Either way each call is charged once, what it did not use is free, and clients notice nothing.
func TestALostSettleIsChargedOnce(t *testing.T) {
	t.Parallel()
	for _, answers := range []bool{true, false} {
		t.Run(map[bool]string{true: "the answer is lost", false: "the call is lost"}[answers], func(t *testing.T) {
			t.Parallel()
			s := harness.New(t)
			tenant := s.Tenant(t)
			u, err := url.Parse(s.Config().RedisURL)
			if err != nil {
				t.Fatal(err)
			}
			way := faults.NewRelay(t, u.Host)
			u.Host = way.Addr()
			what, settles, seen := faults.LoseCommand, faults.Settles(tenant.ID), atomic.Int64{}
			if answers {
				what = faults.LoseAnswer
			}
			third := way.Catch(what, 0, func(c faults.Command) bool { return settles(c) && seen.Add(1)%3 == 0 })
			e := startEdgeOn(t, s, t.TempDir(), s.Config().Kafka, u.String())
			chat := request{key: tenant.Key, path: "/v1/chat/completions", body: `{"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}`}
			setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.000000001", Period: "total"})
			awaitHeld(t, e.url, chat, http.StatusPaymentRequired)
			setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.01", Period: "total"})
			awaitHeld(t, e.url, chat, http.StatusOK)
			for range 30 {
				awaitHeld(t, e.url, chat, http.StatusOK) // a busy machine may miss a decision's deadline
			}
			if n := third.Caught(); n < 5 {
				t.Errorf("%d settles were lost", n)
			}
			posted := s.AwaitBalance(t, tenant, "all")
			// Redis is at rest at what the log says; all calls were alike.
			if n := s.ReadAdmissions(t, tenant.ID).Check(); n != 31 || posted == 0 || posted%31 != 0 {
				t.Errorf("%d admissions cost %d nano-USD, want those of 31 calls", n, posted)
			}
		})
	}
}
