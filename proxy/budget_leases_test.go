package proxy_test

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
	"github.com/rateguard/rateguard/schemas/spend"
)

// smallAnswer costs less than what chatBody reserves.
var smallAnswer = strings.Replace(chatAnswer, `"prompt_tokens":1000`, `"prompt_tokens":10`, 1)

// inAdvance makes a budget a leased one, of which all leases together may hold that much.
func inAdvance(b *rateguardv1.Budget, percent int32) *rateguardv1.Budget {
	b.Mode, b.LeasePercent = limit.ModeLeased, percent
	return b
}

// folded is what the log says of the workspace, by the rules of all who read it.
func (l *fakeLog) folded(t testing.TB) *rateguardv1.SpendState {
	t.Helper()
	s := new(rateguardv1.SpendState)
	for _, f := range l.all() {
		for _, e := range f.events {
			if e.GetRequestRecorded() == nil {
				spend.Fold(s, e)
			}
		}
	}
	return s
}

// sums are those of a budget in total, by the log.
func sums(s *rateguardv1.SpendState, budget string) *rateguardv1.Sums {
	return spend.Find(s, &rateguardv1.Hold{BudgetId: budget, BudgetGeneration: 1})
}

// leases checks what the log says of leases: each is granted once and opened before what is taken from it, no more is taken than it holds, and it is given back
// behind that, with exactly what is left. It returns how many there were, and how many requests were decided by them.
func (l *fakeLog) leases(t testing.TB) (leases, requests int) {
	t.Helper()
	left := map[string]int64{}
	ended, of := map[string]bool{}, map[string]string{}
	for _, f := range l.all() {
		for _, e := range f.events {
			o, end := e.GetReservationOpened(), e.GetLeaseEnded().GetOutcome()
			switch {
			case o.GetLease():
				leases++
				left[o.GetReservationId()] = o.GetHolds()[0].GetAmountNanoUsd()
				for _, h := range o.GetHolds() {
					if sum := h.GetPostedNanoUsd() + h.GetReservedNanoUsd(); sum > h.GetLimitNanoUsd() || h.GetAmountNanoUsd() != left[o.GetReservationId()] || o.GetOp() == 0 {
						t.Errorf("lease: %v", o)
					}
				}
			case e.GetCostSettled() != nil || e.GetReservationVoided() != nil || e.GetReservationExpired() != nil:
				o := cmp.Or(e.GetCostSettled().GetOutcome(), e.GetReservationVoided().GetOutcome(), e.GetReservationExpired().GetOutcome())
				if o.GetLeaseId() != of[o.GetReservationId()] || o.GetOpenedBy() != "" {
					t.Errorf("was taken from %q, and its end says: %v", of[o.GetReservationId()], o)
				}
			case o.GetLeaseId() != "":
				requests++
				id := o.GetLeaseId()
				of[o.GetReservationId()] = id
				if _, known := left[id]; !known || ended[id] || o.GetOp() != 0 || o.GetEpoch() == 0 {
					t.Errorf("taken from a lease that is not open: %v", o)
				}
				if left[id] -= o.GetHolds()[0].GetAmountNanoUsd(); left[id] < 0 {
					t.Errorf("lease %s lacks %d", id, -left[id])
				}
			case end != nil:
				if id := end.GetReservationId(); ended[id] || end.GetHolds()[0].GetAmountNanoUsd() != left[id] || end.GetCostNanoUsd() != 0 {
					t.Errorf("end of lease %s, which has %d left: %v", id, left[id], end)
				}
				ended[end.GetReservationId()] = true
			}
		}
	}
	return leases, requests
}

// atRest waits until all leases are given back in the log.
func (l *fakeLog) atRest(t testing.TB, budgets ...string) *rateguardv1.SpendState {
	t.Helper()
	eventually(t, func() bool {
		s := l.folded(t)
		for _, b := range budgets {
			if sums(s, b).GetReservedNanoUsd() != 0 {
				return false
			}
		}
		return true
	}, "all leases to be given back")
	return l.folded(t)
}

// What is reserved in advance serves most requests without Redis, and the log counts each of them once: against both budgets, at its cost.
func TestLeasedBudgetsAskSeldomAndCountEachRequest(t *testing.T) {
	t.Parallel()
	r, _ := budgeted(t, answerJSON(smallAnswer), rigConfig{budgets: []*rateguardv1.Budget{inAdvance(hard("a", 1000*usd), 5), inAdvance(hard("b", 2000*usd), 5)}})
	const n = 1500
	if got := r.crowd(t, n); got != n {
		t.Errorf("%d of %d served", got, n)
	}
	var spent int64
	for _, row := range r.log.rows(t, n) {
		spent += row.GetCostNanoUsd()
	}
	s := r.log.atRest(t, "a", "b")
	leases, requests := r.log.leases(t)
	if requests < n/2 || leases == 0 || leases > n/10 {
		t.Errorf("%d requests by %d leases", requests, leases)
	}
	for _, id := range []string{"a", "b"} {
		if got := sums(s, id); got.GetPostedNanoUsd() != spent || got.GetOpened() != uint64(n+leases) || got.GetEnded() != got.GetOpened() {
			t.Errorf("%s: %v; the rows say %d", id, got, spent)
		}
	}
	if got := s.GetTotal(); got.GetPostedNanoUsd() != spent || got.GetReservedNanoUsd() != 0 || got.GetOpened() != n || got.GetEnded() != n {
		t.Errorf("in all: %v; a lease is no request", got)
	}
	if by := r.decided(t, n); by["lease"] != 2*requests || by["lease"]+by["redis"] != 2*n {
		t.Errorf("decided by %v", by)
	}
}

// Three proxies with leases and a budget that they spend: what they admit never comes above it, whatever each of them holds; and when all leases are given back
// and Redis has heard of it, what is left can be spent to the end.
func TestALeasedBudgetIsKept(t *testing.T) {
	t.Parallel()
	each := bound(t)
	store := redistest.Start(t)
	install(t, store.URL(), 1)
	upstream := upstreamFunc(t, answerJSON(smallAnswer))
	var served, inside, most atomic.Int64
	var wg sync.WaitGroup
	budget := 150 * each
	for i := range 3 {
		p := newRig(t, rigConfig{
			upstream: upstream, redis: store.URL(), producer: []string{"p1", "p2", "p3"}[i], budgets: []*rateguardv1.Budget{inAdvance(hard("b", budget), 40)},
		})
		wg.Go(func() {
			n := int64(p.crowdUntilSpent(t, 700))
			served.Add(n)
			s := p.log.atRest(t, "b")
			inside.Add(sums(s, "b").GetPostedNanoUsd())
			_, requests := p.log.leases(t)
			most.Add(int64(requests))
		})
	}
	wg.Wait()
	if inside.Load() > budget {
		t.Errorf("%d were spent of %d", inside.Load(), budget)
	}
	if most.Load() == 0 {
		t.Error("no lease was used")
	}
	t.Logf("FIGURE %d requests, %d of them by leases; spent %d of %d", served.Load(), most.Load(), inside.Load(), budget)
}

// crowdUntilSpent is crowd for budgets: what is refused is refused by one.
func (r *rig) crowdUntilSpent(t testing.TB, n int) int {
	t.Helper()
	var served, next atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for next.Add(1) <= int64(n) {
				switch got := r.chat(t); got.status {
				case http.StatusOK:
					served.Add(1)
				case http.StatusTooManyRequests, http.StatusPaymentRequired:
				default:
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	return int(served.Load())
}

// A request that a limit refuses has taken nothing of a lease.
func TestRefusedRequestsTakeNothingOfALease(t *testing.T) {
	t.Parallel()
	r, _ := budgeted(t, answerJSON(smallAnswer), rigConfig{
		budgets: []*rateguardv1.Budget{inAdvance(hard("a", 1000*usd), 5)}, limits: []*rateguardv1.Limit{slow("few", limit.ScopeKey, 300)},
	})
	if got := r.crowd(t, 800); got != 300 {
		t.Errorf("%d served, want 300", got)
	}
	s := r.log.atRest(t, "a")
	leases, _ := r.log.leases(t)
	if got := sums(s, "a"); leases == 0 || got.GetOpened() != uint64(300+leases) {
		t.Errorf("%d leases: %v", leases, got)
	}
}

// While Redis is away, what is held is spent; then a hard budget is closed.
func TestLeasedBudgetsBridgeAnAbsentStore(t *testing.T) {
	t.Parallel()
	r, store := budgeted(t, answerJSON(smallAnswer), rigConfig{budgets: []*rateguardv1.Budget{inAdvance(hard("a", 1000*usd), 5)}})
	if got := r.crowd(t, 600); got != 600 {
		t.Fatalf("%d served", got)
	}
	store.Kill()
	before := len(r.log.opened())
	eventually(t, func() bool { return r.chat(t).status == http.StatusServiceUnavailable }, "the budget to be closed")
	_, requests := r.log.leases(t)
	if after := len(r.log.opened()); after == before || requests == 0 {
		t.Errorf("%d requests were opened since Redis went, %d by leases in all", after-before, requests)
	}
	s := r.log.folded(t)
	if got := sums(s, "a"); got.GetPostedNanoUsd() != s.GetTotal().GetPostedNanoUsd() {
		t.Errorf("%v and in all %v", got, s.GetTotal())
	}
}

// From an epoch that was given up nothing is taken any more, and leases of it are given back behind the seal.
func TestASealEndsLeases(t *testing.T) {
	t.Parallel()
	gate := epoch.NewGate()
	gate.Start(1, nil)
	r, store := budgeted(t, answerJSON(smallAnswer), rigConfig{gate: gate, budgets: []*rateguardv1.Budget{inAdvance(hard("a", 1000*usd), 5)}})
	if got := r.crowd(t, 600); got != 600 {
		t.Fatalf("%d served", got)
	}
	if _, err := gate.Seal(0, 2, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	sealed := len(r.log.opened())
	install(t, store.URL(), 2)
	if got := r.crowd(t, 600); got != 600 {
		t.Errorf("%d served in the second epoch", got)
	}
	for _, o := range r.log.opened()[sealed:] {
		if o.GetEpoch() != 2 {
			t.Errorf("opened behind the seal: %v", o)
		}
	}
	r.log.atRest(t, "a")
	r.log.leases(t)
}

// A policy that changes is in force at once: nothing is taken from a lease of the one before.
func TestANewPolicyEndsLeases(t *testing.T) {
	t.Parallel()
	r, _ := budgeted(t, answerJSON(smallAnswer), rigConfig{budgets: []*rateguardv1.Budget{inAdvance(hard("a", 1000*usd), 5)}})
	if got := r.crowd(t, 600); got != 600 {
		t.Fatalf("%d served", got)
	}
	r.setBudgets(t, inAdvance(hard("a", 1), 5))
	if got := r.chat(t); got.status != http.StatusPaymentRequired {
		t.Errorf("%d %s", got.status, got.body)
	}
	r.log.atRest(t, "a")
	r.log.leases(t)
}

// A request that goes on for long does not keep the lease that it took from.
func TestALeaseEndsBeforeItsRequests(t *testing.T) {
	t.Parallel()
	goOn := make(chan struct{})
	var slow atomic.Bool
	r, _ := budgeted(t, func(w http.ResponseWriter, req *http.Request) {
		if slow.CompareAndSwap(true, false) {
			<-goOn
		}
		answerJSON(smallAnswer)(w, req)
	}, rigConfig{budgets: []*rateguardv1.Budget{inAdvance(hard("a", 1000*usd), 5)}})
	r.crowd(t, 600)
	slow.Store(true)
	var all sync.WaitGroup
	all.Go(func() { r.crowd(t, 300) })
	eventually(t, func() bool {
		s := sums(r.log.folded(t), "a")
		return s.GetOpened() == s.GetEnded()+1 && s.GetReservedNanoUsd() == r.log.opened()[0].GetBoundNanoUsd()
	}, "nothing but the slow request to hold something")
	close(goOn)
	all.Wait()
	r.log.atRest(t, "a")
	r.log.leases(t)
}

// Under a soft budget a call whose cost has no bound reserves nothing, and is a grant all the same, with a number of its own.
func TestUnboundedCallsAreNumbered(t *testing.T) {
	t.Parallel()
	r, store := budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{soft("b", usd)}})
	r.chat(t)
	for range 3 {
		r.post(t, "/v1/chat/completions", `{"model":"no-such-model","max_tokens":1,"messages":[{"role":"user","content":"x"}]}`)
	}
	for i, o := range r.log.opened() {
		if o.GetOp() != uint64(i+1) || len(o.GetHolds()) != 1 {
			t.Errorf("opening %d: %v", i, o)
		}
	}
	if n := len(r.log.opened()); n != 4 {
		t.Errorf("%d openings", n)
	}
	if _, reserved := balance(t, store, "b", ""); reserved != 0 {
		t.Errorf("%d reserved", reserved)
	}
}

// A soft budget is served although Redis did not answer in time. What it did all the same is taken back: the request's own entry, and a lease that was asked for with it.
func TestWhatIsServedWithoutAnAnswerLeavesNothingInRedis(t *testing.T) {
	t.Parallel()
	store := redistest.Start(t)
	install(t, store.URL(), 1)
	line := newLine(t, store.Addr)
	b := inAdvance(soft("b", 1000*usd), 20)
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, answerJSON(smallAnswer)), redis: "redis://" + line.addr, budgets: []*rateguardv1.Budget{b}})
	line.cut.Store(true)
	eventually(t, func() bool {
		r.crowd(t, 40)
		return line.lost.Load() > 0
	}, "an answer about a request and its lease to be lost")
	line.cut.Store(false)
	local := 0
	opened := map[string]bool{}
	for _, o := range r.log.opened() {
		opened[o.GetReservationId()] = true
		if o.GetEpoch() == 0 {
			local++
		}
	}
	if local == 0 {
		t.Fatal("nothing was served without Redis")
	}
	eventually(t, func() bool {
		for field, text := range store.Client().HGetAll(t.Context(), keyspace.State(workspace)).Val() {
			if field[0] == 'e' && text[:1] == "l" && !opened[field[1:]] {
				return false
			}
		}
		return true
	}, "leases that nobody knows to be taken back")
}

// line leads to a Redis. While it is cut, the answer to a request that asks for a lease is lost, and the connection with it.
type line struct {
	addr string
	cut  atomic.Bool
	lost atomic.Int64
}

func newLine(t *testing.T, to string) *line {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	l := &line{addr: listener.Addr().String()}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", to)
			if err != nil {
				_ = client.Close()
				continue
			}
			go l.join(client, server)
		}
	}()
	return l
}

// join passes on what comes from both ends.
func (l *line) join(client, server net.Conn) {
	var losing atomic.Bool
	go func() {
		_, _ = io.Copy(writer(func(b []byte) (int, error) {
			if losing.Load() {
				l.lost.Add(1)
				return 0, net.ErrClosed
			}
			return client.Write(b)
		}), server)
		_ = client.Close()
	}()
	_, _ = io.Copy(writer(func(b []byte) (int, error) {
		if l.cut.Load() && strings.Contains(string(b), "/lease") && strings.Contains(string(b), "/1\r\n") {
			losing.Store(true)
		}
		return server.Write(b)
	}), client)
	_ = server.Close()
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }
