package proxy_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
	"github.com/rateguard/rateguard/topics"
)

const usd = int64(1_000_000_000)

// hard is a hard budget in total of the whole workspace.
func hard(id string, nano int64) *rateguardv1.Budget {
	return &rateguardv1.Budget{
		Id: id, Generation: 1, Scope: "workspace", LimitNanoUsd: nano, Period: "total", Enforcement: "hard", OnStoreFailure: "closed",
	}
}

func soft(id string, nano int64) *rateguardv1.Budget {
	b := hard(id, nano)
	b.Enforcement, b.OnStoreFailure = "soft", "open"
	return b
}

// install makes the budgets of the workspace in a Redis, as if the log held nothing of them.
func install(t testing.TB, url string, epoch uint64) {
	t.Helper()
	ok, err := lua.NewBalances(openStore(t, url)).Install(t.Context(), &lua.Installation{Cut: lua.Cut{Workspace: workspace, Epoch: epoch, To: -1}, PolicyVersion: 7})
	if err != nil || !ok {
		t.Fatalf("installing: %v %v", ok, err)
	}
}

// budgeted is a proxy with budgets, installed in a Redis of its own, whose upstream answers each call with what it used.
func budgeted(t *testing.T, answer http.HandlerFunc, c rigConfig) (*rig, *redistest.Server) {
	t.Helper()
	r := redistest.Start(t)
	install(t, r.URL(), 1)
	c.upstream, c.redis = upstreamFunc(t, answer), r.URL()
	return newRig(t, c), r
}

// balance returns what Redis shows of a balance: posted and reserved.
func balance(t testing.TB, r *redistest.Server, budget, subject string) (posted, reserved int64) {
	t.Helper()
	field := keyspace.BudgetPeriod{Budget: budget, Generation: 1, Balance: subject}.Field()
	text, err := r.Client().HGet(t.Context(), keyspace.State(workspace), field).Result()
	if err != nil {
		return 0, 0
	}
	var confirmed int64
	if _, err := fmt.Sscan(text, &posted, &reserved, &confirmed); err != nil {
		t.Fatalf("balance is %q: %v", text, err)
	}
	return posted, reserved
}

// opened returns the openings in the log.
func (l *fakeLog) opened() []*rateguardv1.ReservationOpened {
	var out []*rateguardv1.ReservationOpened
	for _, f := range l.all() {
		for _, e := range f.events {
			if o := e.GetReservationOpened(); o != nil {
				out = append(out, o)
			}
		}
	}
	return out
}

// bound is what a call like chatBody reserves.
func bound(t *testing.T) int64 {
	t.Helper()
	r, _ := budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{hard("b", usd)}})
	if got := r.chat(t); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	return r.log.opened()[0].GetBoundNanoUsd()
}

// Room for ten and a hundred at once: ten are sent, the others hear that open requests are in the way. Every grant in the log shows its place, and
// at the end nothing is reserved and posted is what the ends in the log say.
func TestOfAHundredAtOnceTheBudgetAdmitsTen(t *testing.T) {
	t.Parallel()
	each := bound(t)
	var inside atomic.Int64
	release := make(chan struct{})
	small := strings.Replace(chatAnswer, `"prompt_tokens":1000`, `"prompt_tokens":10`, 1)
	r, store := budgeted(t, func(w http.ResponseWriter, _ *http.Request) {
		inside.Add(1)
		<-release
		answerJSON(small)(w, nil)
	}, rigConfig{budgets: []*rateguardv1.Budget{hard("b", 10*each+each/2), hard("large", usd)}})
	var all sync.WaitGroup
	var refused, served atomic.Int64
	for range 100 {
		all.Go(func() {
			switch got := r.chat(t); {
			case got.status == http.StatusOK:
				served.Add(1)
			case got.status == http.StatusTooManyRequests && got.header.Get("X-Rateguard-Error") == "budget_contention" && got.header.Get("Retry-After-Ms") == "250":
				if refused.Add(1) == 90 {
					close(release)
				}
			default:
				t.Errorf("%d %s", got.status, got.body)
			}
		})
	}
	all.Wait()
	if served.Load() != 10 || inside.Load() != 10 {
		t.Fatalf("%d served, %d sent, want 10", served.Load(), inside.Load())
	}
	ops := map[uint64]bool{}
	for _, o := range r.log.opened() {
		ops[o.GetOp()] = true
		h := o.GetHolds()
		if o.GetEpoch() != 1 || len(h) != 2 || h[0].GetAmountNanoUsd() != each || h[0].GetPostedNanoUsd()+h[0].GetReservedNanoUsd() > h[0].GetLimitNanoUsd() ||
			h[0].GetReservedNanoUsd() != int64(o.GetOp())*each || h[0].GetLimitNanoUsd() != 10*each+each/2 {
			t.Errorf("opened: %v", o)
		}
	}
	for op := uint64(1); op <= 10; op++ {
		if !ops[op] {
			t.Errorf("grant %d is not in the log: %v", op, ops)
		}
	}
	var spent int64
	for _, row := range r.log.rows(t, 20) {
		spent += row.GetCostNanoUsd()
	}
	for _, id := range []string{"b", "large"} {
		if posted, reserved := balance(t, store, id, ""); posted != spent || reserved != 0 || spent != 10*(10*150+10*600) {
			t.Errorf("%s: posted %d, reserved %d, the log says %d", id, posted, reserved, spent)
		}
	}
	if got := r.chat(t); got.status != http.StatusOK {
		t.Errorf("what was not used is not free at once: %d %s", got.status, got.body)
	}
}

func TestASpentBudgetRefuses(t *testing.T) {
	t.Parallel()
	for status, settings := range map[int]*rateguardv1.WorkspaceSettings{
		http.StatusPaymentRequired: nil, http.StatusTooManyRequests: {BudgetExceededStatus: 429}, http.StatusBadRequest: {BudgetExceededStatus: 400},
	} {
		t.Run(http.StatusText(status), func(t *testing.T) {
			t.Parallel()
			r, _ := budgeted(t, answerJSON(chatAnswer), rigConfig{settings: settings, budgets: []*rateguardv1.Budget{hard("monthly", 200_000)}})
			if got := r.chat(t); got.status != http.StatusOK { // costs 156,000: more than its bound, all of which is posted
				t.Fatalf("first: %d %s", got.status, got.body)
			}
			got := r.chat(t)
			if got.status != status || got.header.Get("X-Rateguard-Error") != "budget_exceeded" || got.header.Get("X-Should-Retry") != "false" || got.header.Get("Retry-After") != "" {
				t.Fatalf("second: %d %v %s", got.status, got.header, got.body)
			}
			for _, part := range []string{`\"monthly\"`, "0.0002 USD", "0.000156 USD are posted", "0 USD reserved", "needs up to 0.0000"} {
				if !strings.Contains(got.body, part) {
					t.Errorf("the message lacks %q: %s", part, got.body)
				}
			}
			rows := r.log.rows(t, 2)
			checks := rows[1].GetChecks()
			if len(checks) != 1 || !checks[0].GetDenied() || checks[0].GetKind() != "budget" || checks[0].GetUsed() != 156_000 || checks[0].GetLimit() != 200_000 ||
				checks[0].GetCost() <= 44_000 || checks[0].GetEnforcement() != "hard" || checks[0].GetDecidedBy() != "redis" {
				t.Errorf("row of a refusal: %v", rows[1])
			}
		})
	}
}

// A hard budget needs a bound of what a call may cost; a soft one serves and counts what it learns.
func TestCallsWithoutABound(t *testing.T) {
	t.Parallel()
	unknown := `{"model":"no-such-model","max_tokens":1,"messages":[]}`
	for _, tt := range []struct{ path, body, code string }{
		{"/v1/chat/completions", unknown, "price_unknown"},
		{"/v1/batches", `{"input_file_id":"f"}`, "cost_unbounded"},
		{"/v1/fine_tuning/jobs", `{"model":"gpt-4o-mini"}`, "cost_unbounded"},
		{"/http/anything", `{}`, "cost_unbounded"},
		{"/v1/responses", `{"model":"gpt-4o-mini","background":true,"input":"x"}`, "cost_unbounded"},
	} {
		r, _ := budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{hard("b", usd)}})
		got := r.post(t, tt.path, tt.body)
		if got.status != http.StatusBadRequest || got.header.Get("X-Rateguard-Error") != tt.code || got.header.Get("X-Should-Retry") != "false" {
			t.Errorf("%s under a hard budget: %d %s", tt.path, got.status, got.body)
		}
		r, _ = budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{soft("b", usd)}})
		if got := r.post(t, tt.path, tt.body); got.status != http.StatusOK {
			t.Errorf("%s under a soft budget: %d %s", tt.path, got.status, got.body)
		}
		if h := r.log.opened()[0].GetHolds(); len(h) != 1 || h[0].GetAmountNanoUsd() != 0 {
			t.Errorf("%s under a soft budget holds %v", tt.path, h)
		}
	}
}

// A fixed price is a bound, whatever the path is; and what costs nothing is not refused.
func TestFixedAndFreeCalls(t *testing.T) {
	t.Parallel()
	price := int64(400_000_000)
	r, store := budgeted(t, answerJSON(`{}`), rigConfig{perCall: &price, budgets: []*rateguardv1.Budget{hard("b", usd)}})
	for i, want := range []int{200, 200, 402, 402} {
		if got := r.post(t, fmt.Sprintf("/http/unknown/path/%d", i), `{}`); got.status != want {
			t.Errorf("call %d: %d %s", i, got.status, got.body)
		}
	}
	if posted, reserved := balance(t, store, "b", ""); posted != 800_000_000 || reserved != 0 {
		t.Errorf("posted %d, reserved %d", posted, reserved)
	}
	if got := r.send(t, http.MethodGet, "/v1/models", nil); got.status != http.StatusOK {
		t.Errorf("a free call: %d %s", got.status, got.body)
	}
}

// What the provider did not do costs nothing, and nothing stays reserved for it.
func TestFailuresOfTheUpstreamAreFree(t *testing.T) {
	t.Parallel()
	r, store := budgeted(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		rigConfig{budgets: []*rateguardv1.Budget{hard("b", usd)}})
	if got := r.chat(t); got.status != http.StatusInternalServerError {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if posted, reserved := balance(t, store, "b", ""); posted != 0 || reserved != 0 {
		t.Errorf("posted %d, reserved %d", posted, reserved)
	}
}

// A client that leaves in the middle pays for what was produced; the rest of its reservation is free.
func TestAClientThatLeavesPaysForWhatWasProduced(t *testing.T) {
	t.Parallel()
	first := make(chan struct{})
	r, store := budgeted(t, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, `data: {"choices":[{"delta":{"content":"some words"}}]}`+"\n\n")
		_ = http.NewResponseController(w).Flush()
		close(first)
		<-req.Context().Done()
	}, rigConfig{drain: 50 * time.Millisecond, budgets: []*rateguardv1.Budget{hard("b", usd)}})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/chat/completions",
		strings.NewReader(`{"model":"gpt-4o-mini","stream":true,"max_tokens":1000,"messages":[{"role":"user","content":"hello"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+goodKey)
	tr := &http.Transport{}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	<-first
	_ = res.Body.Close()
	tr.CloseIdleConnections()
	row := r.log.row(t)
	eventually(t, func() bool { _, reserved := balance(t, store, "b", ""); return reserved == 0 }, "the reservation to end")
	posted, _ := balance(t, store, "b", "")
	if !row.GetEstimated() || row.GetStatus() != 499 || posted == 0 || posted != row.GetCostNanoUsd() || posted >= r.log.opened()[0].GetBoundNanoUsd() {
		t.Errorf("posted %d for %v", posted, row)
	}
}

// One budget that has no room keeps the others whole, and limits too.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	mine, all := hard("mine", 200_000), hard("all", usd)
	mine.Scope = "key"
	r, store := budgeted(t, answerJSON(chatAnswer), rigConfig{
		budgets: []*rateguardv1.Budget{all, mine}, limits: []*rateguardv1.Limit{slow("calls", limit.ScopeWorkspace, 3)},
	})
	r.addKey(t, "rg_other", &rateguardv1.KeyRecord{KeyId: "key_other"})
	want := func(key string, status int, remaining string) {
		t.Helper()
		got := r.post(t, "/v1/chat/completions", chatBody, "Authorization", "Bearer "+key)
		if got.status != status || got.header.Get("X-Ratelimit-Remaining-Requests") != remaining {
			t.Errorf("%s: %d, %s left: %s", key, got.status, got.header.Get("X-Ratelimit-Remaining-Requests"), got.body)
		}
	}
	want(goodKey, 200, "2")
	want(goodKey, 402, "2")
	want("rg_other", 200, "1")
	want("rg_other", 402, "1")
	if posted, reserved := balance(t, store, "all", ""); posted != 2*156_000 || reserved != 0 {
		t.Errorf("the workspace's: posted %d, reserved %d", posted, reserved)
	}
	for _, key := range []string{"key_good", "key_other"} {
		if posted, reserved := balance(t, store, "mine", key); posted != 156_000 || reserved != 0 {
			t.Errorf("%s: posted %d, reserved %d", key, posted, reserved)
		}
	}
}

// Without Redis hard budgets are closed, whatever else; soft ones serve, and the log counts what they held.
func TestBudgetsWithoutRedis(t *testing.T) {
	t.Parallel()
	for _, b := range []*rateguardv1.Budget{hard("b", usd), soft("b", usd)} {
		r, store := budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{b}})
		store.Kill()
		got := r.chat(t)
		if b.GetEnforcement() == "hard" {
			if got.status != http.StatusServiceUnavailable || got.header.Get("X-Rateguard-Error") != "store_unavailable" || got.header.Get("Retry-After") == "" {
				t.Errorf("hard: %d %s", got.status, got.body)
			}
			continue
		}
		if got.status != http.StatusOK {
			t.Fatalf("soft: %d %s", got.status, got.body)
		}
		o := r.log.opened()[0]
		if o.GetEpoch() != 0 || len(o.GetHolds()) != 1 || o.GetHolds()[0].GetAmountNanoUsd() != o.GetBoundNanoUsd() || o.GetBoundNanoUsd() == 0 {
			t.Errorf("soft: %v", o)
		}
	}
}

// Budgets that are not in Redis are asked for; a request waits for them, and is refused when they do not come.
func TestRequestsWaitForTheirBudgets(t *testing.T) {
	t.Parallel()
	store := redistest.Start(t)
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, answerJSON(chatAnswer)), redis: store.URL(), budgets: []*rateguardv1.Budget{hard("b", usd)}})
	if got := r.chat(t); got.status != http.StatusServiceUnavailable || got.header.Get("X-Rateguard-Error") != "store_unavailable" {
		t.Errorf("never installed: %d %s", got.status, got.body)
	}
	done := make(chan reply, 1)
	go func() { done <- r.chat(t) }()
	wants := lua.NewWants(openStore(t, store.URL()).Client())
	eventually(t, func() bool {
		w, err := wants.Wanted(t.Context())
		return err == nil && len(w) == 1 && w[0] == workspace
	}, "the workspace to be wanted")
	install(t, store.URL(), 1)
	if got := <-done; got.status != http.StatusOK {
		t.Errorf("installed meanwhile: %d %s", got.status, got.body)
	}
	soft := newRig(t, rigConfig{
		upstream: upstreamFunc(t, answerJSON(chatAnswer)), redis: redistest.Start(t).URL(),
		budgets: []*rateguardv1.Budget{soft("b", usd)}, limits: []*rateguardv1.Limit{slow("calls", limit.ScopeWorkspace, 2)},
	})
	for i, want := range []int{200, 200, 429} {
		if got := soft.chat(t); got.status != want {
			t.Errorf("soft, call %d: %d %s", i, got.status, got.body)
		}
	}
	if o := soft.log.opened(); len(o) != 2 || o[0].GetEpoch() != 0 || len(o[0].GetHolds()) != 1 {
		t.Errorf("soft: %v", o)
	}
}

// A seal between admission and opening: the request is not sent, and what it had reserved is free.
func TestASealComesBetweenAdmissionAndOpening(t *testing.T) {
	t.Parallel()
	gate := epoch.NewGate()
	gate.Start(1, nil)
	var sent atomic.Int64
	r, store := budgeted(t, func(http.ResponseWriter, *http.Request) { sent.Add(1) }, rigConfig{
		gate: gate, budgets: []*rateguardv1.Budget{hard("b", usd)},
		// A leaky bucket holds the request between the two.
		limits: []*rateguardv1.Limit{{Id: "slow", Scope: "workspace", Unit: "requests", Algorithm: limit.LeakyBucket, Limit: 2, WindowUs: 1e6, Burst: 5, MaxDelayUs: 2e6}},
	})
	if got := r.chat(t); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	done := make(chan reply, 1)
	go func() { done <- r.chat(t) }()
	eventually(t, func() bool { _, reserved := balance(t, store, "b", ""); return reserved > 0 }, "the reservation")
	if _, err := gate.Seal(0, 2, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.status != http.StatusServiceUnavailable {
		t.Errorf("%d %s", got.status, got.body)
	}
	if sent.Load() != 1 || len(r.log.opened()) != 1 {
		t.Errorf("%d were sent, %d opened", sent.Load(), len(r.log.opened()))
	}
	eventually(t, func() bool { _, reserved := balance(t, store, "b", ""); return reserved == 0 }, "the reservation to be cancelled")
}

// Where the workspace wants it, an answer is cut to what the budget has room for; the upstream gets the smaller maximum.
func TestTheMaximumIsLoweredToFit(t *testing.T) {
	t.Parallel()
	var got atomic.Value
	r, _ := budgeted(t, func(w http.ResponseWriter, req *http.Request) {
		b, _ := io.ReadAll(req.Body)
		got.Store(string(b))
		answerJSON(strings.Replace(chatAnswer, `"prompt_tokens":1000`, `"prompt_tokens":10`, 1))(w, req)
	}, rigConfig{settings: &rateguardv1.WorkspaceSettings{FitMaxOutputTokens: true}, budgets: []*rateguardv1.Budget{hard("b", 100_000), hard("large", usd)}})
	body := `{"model":"gpt-4o-mini","max_tokens":10000,"messages":[{"role":"user","content":"hello"}],"temperature":0.50}`
	if res := r.post(t, "/v1/chat/completions", body); res.status != http.StatusOK {
		t.Fatalf("%d %s", res.status, res.body)
	}
	sent, _ := got.Load().(string)
	o := r.log.opened()[0]
	if o.GetBoundNanoUsd() > 100_000 || o.GetBoundNanoUsd() < 99_400 || !strings.Contains(sent, `"temperature":0.50`) || strings.Contains(sent, "10000") {
		t.Errorf("reserved %d, sent %s", o.GetBoundNanoUsd(), sent)
	}
	var most int64
	if _, err := fmt.Sscanf(sent[strings.Index(sent, `"max_tokens":`):], `"max_tokens":%d`, &most); err != nil || most*600 > 100_000 || most < 100 {
		t.Errorf("the maximum is %d (%v)", most, err)
	}
}

// A maximum is not lowered below what the request wants to think, which its provider would refuse.
func TestTheMaximumStaysAboveTheThoughts(t *testing.T) {
	t.Parallel()
	r, _ := budgeted(t, answerJSON(chatAnswer), rigConfig{
		settings: &rateguardv1.WorkspaceSettings{FitMaxOutputTokens: true}, budgets: []*rateguardv1.Budget{hard("b", 100_000_000)},
	})
	body := `{"model":"claude-sonnet-4-6","max_tokens":%d,"thinking":{"type":"enabled","budget_tokens":9000},"messages":[]}`
	if res := r.post(t, messagesPath, fmt.Sprintf(body, 10_000)); res.status != http.StatusPaymentRequired {
		t.Errorf("room for 6,600 tokens: %d %s", res.status, res.body)
	}
	if res := r.post(t, messagesPath, strings.Replace(fmt.Sprintf(body, 10_000), "9000", "1024", 1)); res.status != http.StatusOK {
		t.Errorf("thoughts of 1,024 tokens: %d %s", res.status, res.body)
	}
}

// A period ends while a request is under way: it is charged to the one in which it was reserved, and the new one begins at zero.
func TestAPeriodEndsWhileARequestIsUnderWay(t *testing.T) {
	t.Parallel()
	price := int64(600_000_000)
	began := time.Now()
	starts := []int64{began.Add(-time.Hour).UnixMicro(), began.Add(2 * time.Second).UnixMicro(), began.Add(time.Hour).UnixMicro(), began.Add(2 * time.Hour).UnixMicro()}
	b := hard("hourly", usd)
	b.Period, b.BoundariesUnixUs = "hour", starts
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	r, store := budgeted(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}, rigConfig{perCall: &price, budgets: []*rateguardv1.Budget{b}})
	first := make(chan reply, 1)
	go func() { first <- r.post(t, "/http/x", `{}`) }()
	<-arrived
	if got := r.post(t, "/http/x", `{}`); got.status != http.StatusTooManyRequests {
		t.Errorf("a second in the same period: %d %s", got.status, got.body)
	}
	next := make(chan reply, 1)
	eventually(t, func() bool { return time.Now().UnixMicro() > starts[1]+100_000 }, "the next period")
	go func() { next <- r.post(t, "/http/x", `{}`) }()
	<-arrived
	close(release)
	for _, got := range []reply{<-first, <-next} {
		if got.status != http.StatusOK {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	for i, want := range []string{"600000000 0 0", "600000000 0 0"} {
		field := keyspace.BudgetPeriod{Budget: "hourly", Generation: 1, StartUS: starts[i]}.Field()
		eventually(t, func() bool {
			text, err := store.Client().HGet(t.Context(), keyspace.State(workspace), field).Result()
			return err == nil && text == want
		}, "the balance of a period")
	}
	for i, o := range r.log.opened() {
		if got := o.GetHolds()[0].GetPeriodStartUnixUs(); got != starts[i] {
			t.Errorf("opening %d is of the period %d, want %d", i, got, starts[i])
		}
	}
}

// Schedule (y): a price changes while an answer is under way. It costs what was known when it was opened.
func TestAPriceChangesWhileARequestIsUnderWay(t *testing.T) {
	t.Parallel()
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	r, store := budgeted(t, func(w http.ResponseWriter, req *http.Request) {
		arrived <- struct{}{}
		<-release
		answerJSON(chatAnswer)(w, req)
	}, rigConfig{budgets: []*rateguardv1.Budget{hard("b", usd)}})
	done := make(chan reply, 1)
	go func() { done <- r.chat(t) }()
	<-arrived
	apply(t, r.view, topics.Prices.Name, "openai/gpt-4o-mini", &rateguardv1.Event{Body: &rateguardv1.Event_PriceHistory{PriceHistory: &rateguardv1.PriceHistory{
		Provider: "openai", Model: "gpt-4o-mini", Version: 1,
		Overrides: []*rateguardv1.PriceOverride{{EffectiveFromUnixUs: 1, PicoUsd: map[string]int64{"input_tokens": 1_000_000, "output_tokens": 1_000_000}}},
	}}})
	close(release)
	if got := <-done; got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if posted, _ := balance(t, store, "b", ""); posted != 156_000 {
		t.Errorf("posted %d, want the price of before", posted)
	}
	if got := r.chat(t); got.status != http.StatusOK {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if posted, _ := balance(t, store, "b", ""); posted != 156_000+1_010_000 {
		t.Errorf("posted %d after another call, want the price of now for it", posted)
	}
}
