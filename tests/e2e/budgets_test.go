package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/tests/harness"
)

func setBudget(t *testing.T, s *harness.System, tenant *harness.Tenant, name string, b adminclient.PutBudget) {
	t.Helper()
	if _, err := s.Admin.PutBudget(t.Context(), tenant.ID, name, b); err != nil {
		t.Fatalf("setting budget %s: %v", name, err)
	}
}

// awaitHeld waits until a proxy holds calls to a budget; until then it serves them, or its Redis lacks the budget.
func awaitHeld(t *testing.T, base string, r request, want int) {
	t.Helper()
	harness.Eventually(t, 60*harness.InForceWithin, func() error {
		if got, code := askAt(t, base, r); got != want {
			return fmt.Errorf("%s answers %d %q, want %d", base, got, code, want)
		}
		return nil
	})
}

func redisOf(t *testing.T, s *harness.System) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(s.Config().RedisURL)
	if err != nil {
		t.Fatal(err)
	}
	rdb := redis.NewClient(o)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// Many more calls at once over three proxies than the budgets have room for, one of which is a process that is killed in the middle: no admission is above the
// limit, in the end nothing is reserved, and what is posted is what the log and the provider say.
func TestAHardBudgetHoldsOverThreeProxies(t *testing.T) {
	t.Parallel()
	a := holdOverThreeProxies(t, adminclient.PutBudget{USD: "0.08", Period: "day", Scope: "key"}, adminclient.PutBudget{USD: "0.1", Period: "total"}, 40)
	if n := a.Leased(); n > 0 {
		t.Errorf("%d admissions by leases that nobody wanted", n)
	}
}

// The same where proxies reserve in advance: what the killed one held, and nobody had used, is free again.
func TestALeasedBudgetHoldsOverThreeProxies(t *testing.T) {
	t.Parallel()
	a := holdOverThreeProxies(t,
		adminclient.PutBudget{USD: "2.4", Period: "day", Scope: "key", Mode: "leased", LeasePercent: 50},
		adminclient.PutBudget{USD: "3", Period: "total", Mode: "leased", LeasePercent: 50}, 1200)
	if a.Leased() == 0 {
		t.Error("no lease was used")
	}
	t.Logf("FIGURE %d of 1200 admissions by leases", a.Leased())
}

// holdOverThreeProxies spends a budget of a key and one of its workspace, of which the former has room for that many calls.
func holdOverThreeProxies(t *testing.T, mine, all adminclient.PutBudget, room int) *harness.Admissions {
	t.Helper()
	s := harness.New(t)
	tenant := s.Tenant(t)
	proxies := startProcesses(t, s, tenant, 2)
	bases := []string{s.ProxyURL, proxies[0].URL, proxies[1].URL}
	call := request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.000000001", Period: "total"})
	for _, base := range bases {
		awaitHeld(t, base, call, http.StatusPaymentRequired)
	}
	free := len(s.Mock.Served()) // before the budget was in force
	setBudget(t, s, tenant, "mine", mine)
	setBudget(t, s, tenant, "all", all)
	for _, base := range bases {
		awaitHeld(t, base, call, http.StatusOK)
	}
	var served atomic.Int64
	var clients sync.WaitGroup
	for i := range 30 {
		clients.Go(func() {
			for range 6 * room / 40 {
				status, err := get(t, bases[i%3]+"/http/x", tenant.Key)
				switch {
				case err != nil && i%3 == 2: // it was killed
				case err != nil:
					t.Error(err)
				case status == http.StatusOK:
					served.Add(1)
				case status != http.StatusPaymentRequired && status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable:
					t.Errorf("answer %d", status)
				}
				if i == 2 && served.Load() > int64(room/8) {
					proxies[1].Kill()
				}
			}
		})
	}
	clients.Wait()
	// What the dead proxy had open stands in the way until who follows on its folder ends it. A call that it had opened may not have reached the provider, and
	// costs all the same.
	proxies[1].Kill()
	proxies[1].Start()
	harness.Eventually(t, time.Minute, func() error {
		if got, code := askAt(t, s.ProxyURL, call); got != http.StatusPaymentRequired {
			return fmt.Errorf("it answers %d %q until the budget is spent", got, code)
		}
		return nil
	})
	posted := s.AwaitBalance(t, tenant, "all")
	a := s.ReadAdmissions(t, tenant.ID)
	if n := a.Check(); int64(n)*harness.HTTPCostNano != posted || posted != int64(room)*harness.HTTPCostNano {
		t.Errorf("%d admissions, %d nano-USD posted; the smaller budget has room for %d", n, posted, room)
	}
	if n := len(s.Mock.Served()) - free; n > room || int64(n) < served.Load() {
		t.Errorf("the provider served %d, clients got %d", n, served.Load())
	}
	return a
}

// Redis loses everything again and again under traffic: budgets come back from the log each time, with what is open, and nothing is admitted above the limit.
func TestABudgetOutlivesRedis(t *testing.T) {
	t.Parallel()
	s := harness.New(t)
	tenant := s.Tenant(t)
	call := request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}
	edge := startEdge(t, s, t.TempDir(), s.Config().Kafka)
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.000000001", Period: "month"})
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	awaitHeld(t, edge.url, call, http.StatusPaymentRequired)
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.4", Period: "month"}) // 200 calls
	awaitHeld(t, s.ProxyURL, call, http.StatusOK)
	awaitHeld(t, edge.url, call, http.StatusOK)
	rdb := redisOf(t, s)
	ctx, stop := context.WithCancel(t.Context())
	var served, unavailable atomic.Int64
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			base := []string{s.ProxyURL, edge.url}[i%2]
			for ctx.Err() == nil {
				got, code := askAt(t, base, request{method: http.MethodGet, key: tenant.Key, path: "/http/x", header: map[string]string{"X-Mock-Pace": "ttft=30ms"}})
				switch {
				case got == http.StatusOK:
					served.Add(1)
				case got == http.StatusServiceUnavailable:
					unavailable.Add(1)
				case code != "budget_exceeded" && code != "budget_contention":
					t.Errorf("%d %s", got, code)
				}
			}
		})
	}
	for range 4 {
		before := served.Load()
		harness.Eventually(t, 20*time.Second, func() error {
			if n := served.Load(); n < before+10 && n < 190 {
				return fmt.Errorf("%d served since the last wipe", n-before)
			}
			return nil
		})
		if err := rdb.FlushAll(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	stop()
	all.Wait()
	posted := s.AwaitBalance(t, tenant, "all")
	a := s.ReadAdmissions(t, tenant.ID)
	n := a.Check()
	if int64(n)*harness.HTTPCostNano != posted || n != 200 || int64(n) < served.Load() {
		t.Errorf("%d admissions, %d served, %d nano-USD posted", n, served.Load(), posted)
	}
	t.Logf("%d admitted in the epochs %v, %d answers 503", n, a.Epochs(), unavailable.Load())
	if len(a.Epochs()) < 3 {
		t.Errorf("epochs %v: Redis was wiped 4 times", a.Epochs())
	}
}

// smallCalls is how many calls spend the budget; RATEGUARD_SMALL_CALLS makes it a million, which spend 1.5 USD.
func smallCalls(t *testing.T) int {
	t.Helper()
	return setting(t, "RATEGUARD_SMALL_CALLS", 3000)
}

// Calls of a thousand and a half nano-USD, of which no float of a dollar has one, spend a budget to the nano: as many as it has room for, and no further one.
func TestSmallCallsSpendABudgetExactly(t *testing.T) {
	t.Parallel()
	const cost = 1500
	s := harness.New(t)
	tenant := s.Tenant(t)
	n := smallCalls(t)
	call := request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: "0.000000001", Period: "total"})
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	tenant.Route("http", adminclient.PutRoute{Provider: "http", BaseURL: s.MockURL, Cost: &adminclient.Cost{Mode: "per_request", USD: "0.0000015"}})
	free := s.AwaitBalance(t, tenant, "all") // before the budget was in force, at another price
	setBudget(t, s, tenant, "all", adminclient.PutBudget{USD: money.Nano(free + int64(n)*cost).String(), Period: "total"})
	awaitHeld(t, s.ProxyURL, call, http.StatusOK)
	var clients sync.WaitGroup
	for range 16 {
		clients.Go(func() {
			for {
				switch status, code := askAt(t, s.ProxyURL, call); {
				case code == "budget_exceeded":
					return
				case status != http.StatusOK && code != "budget_contention" && code != "store_unavailable": // where the machine stalls for longer than a decision may take
					t.Errorf("answer %d %s", status, code)
					return
				}
			}
		})
	}
	clients.Wait()
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired) // all that were refused for what was only reserved
	if posted := s.AwaitBalance(t, tenant, "all"); posted != free+int64(n)*cost {
		t.Errorf("%d nano-USD are posted, not those of %d calls: %d", posted-free, n, int64(n)*cost)
	}
	if admitted := s.ReadAdmissions(t, tenant.ID).Check(); admitted != n+int(free/harness.HTTPCostNano) {
		t.Errorf("%d admissions", admitted)
	}
	t.Logf("FIGURE %d calls of %s USD spent %s USD", n, money.Nano(cost), money.Nano(int64(n)*cost))
}

// What a client hears, in its dialect, of a budget that is spent; and what the API shows of it.
func TestClientsHearOfSpentBudgets(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	setBudget(t, s, tenant, "tiny", adminclient.PutBudget{USD: "0.000001", Period: "hour", Timezone: "Asia/Kolkata"})
	chat := request{key: tenant.Key, path: "/v1/chat/completions", body: `{"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}`}
	awaitHeld(t, s.ProxyURL, chat, http.StatusPaymentRequired)
	got := send(t, s, chat)
	if got.code() != "budget_exceeded" || got.header.Get("X-Should-Retry") != "false" || !strings.Contains(got.body, `"code":"budget_exceeded"`) ||
		!strings.Contains(got.body, `"type":"insufficient_quota"`) {
		t.Errorf("%d %v %s", got.status, got.header, got.body)
	}
	claude := send(t, s, request{key: tenant.Key, path: "/v1/messages", body: `{"model":"claude-haiku-4-5","max_tokens":100,"messages":[{"role":"user","content":"hi"}]}`})
	if claude.status != http.StatusPaymentRequired || !strings.Contains(claude.body, `"type":"billing_error"`) {
		t.Errorf("%d %s", claude.status, claude.body)
	}
	for path, code := range map[string]string{"/v1/batches": "cost_unbounded", "/v1/responses": "cost_unbounded"} {
		body := `{"model":"gpt-4o-mini","input":"x","background":true}`
		if a := send(t, s, request{key: tenant.Key, path: path, body: body}); a.status != http.StatusBadRequest || a.code() != code {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := send(t, s, request{key: tenant.Key, path: chat.path, body: strings.Replace(chat.body, "gpt-4o-mini", "no-such-model", 1)}); a.code() != "price_unknown" {
		t.Errorf("a model without a price: %d %s", a.status, a.body)
	}
	row := tenant.Request(got.id())
	if row.Decision != "denied" || row.CostUSD == nil || *row.CostUSD != "0" {
		t.Errorf("row of a refusal: %+v", row)
	}
	// The window of the refusal is that of the zone: half past the hour in UTC.
	b, err := s.Admin.Budget(t.Context(), tenant.ID, "tiny")
	if err != nil {
		t.Fatal(err)
	}
	if b.Balance == nil || b.Balance.Source != "live" || b.Balance.PostedUSD != "0" || b.Balance.PeriodEnd == nil || b.Balance.PeriodEnd.Minute() != 30 {
		t.Errorf("balance %+v", b.Balance)
	}
	// Raised, it serves again; nothing of the refusals was counted.
	setBudget(t, s, tenant, "tiny", adminclient.PutBudget{USD: "1", Period: "hour", Timezone: "Asia/Kolkata"})
	awaitHeld(t, s.ProxyURL, chat, http.StatusOK)
}

// A budget that is deleted and made again, or whose period changes, counts from zero; one that is lowered below what is spent refuses, and breaks nothing.
func TestBudgetsChange(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	call := request{method: http.MethodGet, key: tenant.Key, path: "/http/x"}
	setBudget(t, s, tenant, "b", adminclient.PutBudget{USD: "0.004", Period: "total"})
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired) // after two
	setBudget(t, s, tenant, "b", adminclient.PutBudget{USD: "0.008", Period: "total"})
	awaitHeld(t, s.ProxyURL, call, http.StatusOK)
	if posted := s.AwaitBalance(t, tenant, "b"); posted < 3*harness.HTTPCostNano || posted > 4*harness.HTTPCostNano {
		t.Errorf("posted %d after it was raised", posted)
	}
	setBudget(t, s, tenant, "b", adminclient.PutBudget{USD: "0.002", Period: "total"})
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	setBudget(t, s, tenant, "b", adminclient.PutBudget{USD: "0.002", Period: "day"})
	awaitHeld(t, s.ProxyURL, call, http.StatusOK)
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	if err := s.Admin.DeleteBudget(t.Context(), tenant.ID, "b"); err != nil {
		t.Fatal(err)
	}
	awaitHeld(t, s.ProxyURL, call, http.StatusOK)
	setBudget(t, s, tenant, "b", adminclient.PutBudget{USD: "0.002", Period: "day"})
	awaitHeld(t, s.ProxyURL, call, http.StatusPaymentRequired)
	b, err := s.Admin.Budget(t.Context(), tenant.ID, "b")
	if err != nil || b.Balance == nil || b.Balance.PostedUSD != "0.002" {
		t.Errorf("made again: %+v %v", b.Balance, err)
	}
}
