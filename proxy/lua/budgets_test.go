package lua_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

const usd = 1_000_000_000

// hold reserves of a budget without periods.
func hold(budget string, limit, amount int64) lua.Hold {
	return lua.Hold{Balance: keyspace.Balance(budget, 1, ""), Limit: limit, Amount: amount, Hard: true}
}

func reserve(id string, holds ...lua.Hold) *lua.Request {
	return &lua.Request{Workspace: "ws", Reservation: id, Key: "key", PolicyVersion: 1, Producer: "p1", Epoch: 1, Holds: holds}
}

// installed returns the scripts on a Redis where a workspace's budgets are installed, empty.
func installed(t *testing.T) (*lua.Admissions, *lua.Balances, *redistest.Server) {
	t.Helper()
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient})
	b := lua.NewBalances(s)
	if ok, err := b.Install(t.Context(), &lua.Installation{Cut: lua.Cut{Workspace: "ws", Epoch: 1}, PolicyVersion: 1}); err != nil || !ok {
		t.Fatalf("installing: %v %v", ok, err)
	}
	return admissions(t, r.URL()), b, r
}

// Ten dollars and a hundred calls at once that may cost one each: ten go through, each grant shows its place, and what was not used is free at once.
func TestAHardBudgetIsNeverExceeded(t *testing.T) {
	t.Parallel()
	a, _, _ := installed(t)
	var mu sync.Mutex
	var granted []lua.Decision
	var ids []string
	var all sync.WaitGroup
	for i := range 100 {
		all.Go(func() {
			id := strconv.Itoa(i)
			d, err := a.Admit(t.Context(), reserve(id, hold("b", 10*usd, usd)))
			if err != nil {
				t.Error(err)
				return
			}
			if !d.Admitted {
				if d.Held[0].Stands != lua.StandsReserved {
					t.Errorf("denied although %+v", d.Held[0])
				}
				return
			}
			mu.Lock()
			granted, ids = append(granted, d), append(ids, id)
			mu.Unlock()
		})
	}
	all.Wait()
	if len(granted) != 10 {
		t.Fatalf("%d of 10 were admitted", len(granted))
	}
	ops := map[uint64]bool{}
	for _, d := range granted {
		ops[d.Op] = true
		if d.Epoch != 1 || d.Held[0].PostedNano+d.Held[0].ReservedNano > 10*usd || d.Held[0].ReservedNano != int64(d.Op)*usd {
			t.Errorf("grant %d of epoch %d shows %+v", d.Op, d.Epoch, d.Held[0])
		}
	}
	if len(ops) != 10 {
		t.Errorf("the grants are numbered %v", ops)
	}
	done := reserve(ids[0], hold("b", 10*usd, usd))
	done.Cost = usd / 5
	if err := a.Adjust(t.Context(), lua.Settle, done, 0); err != nil {
		t.Fatal(err)
	}
	if d, err := a.Admit(t.Context(), reserve("more", hold("b", 10*usd, usd*8/10))); err != nil || !d.Admitted || d.Held[0].PostedNano != usd/5 {
		t.Errorf("what was not used is not free: %+v %v", d, err)
	}
	if d, err := a.Admit(t.Context(), reserve("one more", hold("b", 10*usd, 1))); err != nil || d.Admitted {
		t.Errorf("one nano-USD above the limit: %+v %v", d, err)
	}
	if d, err := a.Admit(t.Context(), reserve("never", hold("b", 10*usd, 10*usd))); err != nil || d.Admitted || d.Held[0].Stands != lua.StandsPosted {
		t.Errorf("more than is left when all are settled: %+v %v", d, err)
	}
}

// A million calls of a thousand and a half nano-USD are 1.5 USD to the nano; here a thousand of them, in steps that no float of a dollar has.
func TestSmallAmountsAddUpExactly(t *testing.T) {
	t.Parallel()
	a, _, _ := installed(t)
	for i := range 1000 {
		q := reserve(strconv.Itoa(i), hold("b", 1_500_000, 1500))
		if d, err := a.Admit(t.Context(), q); err != nil || !d.Admitted {
			t.Fatalf("call %d: %+v %v", i, d, err)
		}
		if q.Cost = 1500; i%2 == 0 {
			if err := a.Adjust(t.Context(), lua.Settle, q, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	d, err := a.Admit(t.Context(), reserve("over", hold("b", 1_500_000, 1)))
	if err != nil || d.Admitted || d.Held[0].PostedNano != 750_000 || d.Held[0].ReservedNano != 750_000 {
		t.Errorf("%+v %v", d, err)
	}
}

func TestAllBudgetsOrNone(t *testing.T) {
	t.Parallel()
	a, _, r := installed(t)
	soft := hold("soft", 1, usd)
	soft.Hard = false
	if d, err := a.Admit(t.Context(), reserve("1", hold("wide", 10*usd, usd), hold("tight", usd/2, usd), soft)); err != nil || d.Admitted {
		t.Fatalf("%+v %v", d, err)
	}
	if _, entries := state(t, r.Client()); len(entries) != 0 {
		t.Errorf("a denial left %v", entries)
	}
	d, err := a.Admit(t.Context(), reserve("2", hold("wide", 10*usd, usd), hold("tight", usd, usd), soft))
	if err != nil || !d.Admitted || d.Op != 1 || d.Held[2].ReservedNano != usd {
		t.Fatalf("%+v %v", d, err)
	}
}

func TestWhereBudgetsAreClosed(t *testing.T) {
	t.Parallel()
	a, b, r := installed(t)
	other := reserve("1", hold("b", usd, 1))
	other.Workspace = "another"
	if _, err := a.Admit(t.Context(), other); !errors.Is(err, lua.ErrNoEpoch) || !errors.Is(err, lua.ErrUnavailable) {
		t.Errorf("without an epoch: %v", err)
	}
	sealed := reserve("2", hold("b", usd, 1))
	sealed.Epoch = 2
	if _, err := a.Admit(t.Context(), sealed); !errors.Is(err, lua.ErrNoEpoch) {
		t.Errorf("before the least epoch: %v", err)
	}
	h := hold("b", usd, 1)
	h.Starts = []int64{1, 2, 3}
	if _, err := a.Admit(t.Context(), reserve("3", h)); !errors.Is(err, lua.ErrNoPeriod) {
		t.Errorf("behind the last period: %v", err)
	}
	if d, err := a.Admit(t.Context(), reserve("4", hold("b", usd, 1))); err != nil || !d.Admitted {
		t.Fatal(err)
	}
	left, err := b.Retire(t.Context(), lua.Retirement{Workspace: "ws", Producer: "p1", Least: 1})
	if err != nil || len(left) != 1 || left[0].ID != "4" || left[0].Settled || left[0].Amounts[0].Nano != 1 {
		t.Errorf("the fenced one has %+v %v", left, err)
	}
	if _, err := a.Admit(t.Context(), reserve("5", hold("b", usd, 1))); !errors.Is(err, lua.ErrFenced) {
		t.Errorf("a fenced producer: %v", err)
	}
	r.Do("flushall")
	if _, err := a.Admit(t.Context(), reserve("6", hold("b", usd, 1))); !errors.Is(err, lua.ErrNoEpoch) {
		t.Errorf("wiped: %v", err)
	}
}

// state reads what Redis holds: each balance's numbers, and each entry's text.
func state(t *testing.T, rdb *redis.Client) (balances map[string][3]int64, entries map[string]string) {
	t.Helper()
	balances, entries = map[string][3]int64{}, map[string]string{}
	for field, v := range rdb.HGetAll(t.Context(), keyspace.State("ws")).Val() {
		switch {
		case field == "epoch":
		case field[0] == 'b':
			var n [3]int64
			for i, word := range strings.Fields(v) {
				n[i], _ = strconv.ParseInt(word, 10, 64)
			}
			balances[field] = n
		case field[0] == 'e':
			entries[field[1:]] = v
		}
	}
	return balances, entries
}

// ended is an end that the log shows.
type ended struct {
	id   string
	cost int64
}

// Whatever the order of grants, ends, cancellations, repeats and of what the reconcilers have read: posted is what the log shows and what was settled
// since, reserved is what is open, and both are nothing too much when all is at rest.
func TestBudgetsFollowTheLog(t *testing.T) {
	t.Parallel()
	a, b, r := installed(t)
	rdb := r.Client()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	const limit = 100 * usd
	field := keyspace.Balance("b", 1, "") + "0"
	steps := 4000
	if testing.Short() {
		steps = 600
	}
	var log []ended            // offset i+1
	open := map[string]int64{} // granted, no end in the log
	kept := map[string]int64{} // settled in Redis, not confirmed
	inRedis := map[string]bool{}
	epoch, at, granted := uint64(1), int64(0), 0
	shown := func(to int64) (sum int64) {
		for _, e := range log[:to] {
			sum += e.cost
		}
		return sum
	}
	ids := func() []string {
		var out []string
		for id := range open {
			out = append(out, id)
		}
		slices.Sort(out)
		return out
	}
	request := func(id string, amount int64) *lua.Request {
		q := reserve(id, hold("b", limit, amount))
		q.Epoch = epoch
		return q
	}
	for step := range steps {
		switch list := ids(); {
		case rng.IntN(100) < 45:
			id, amount := strconv.Itoa(step), 1+rng.Int64N(20*usd)
			d, err := a.Admit(t.Context(), request(id, amount))
			if err != nil {
				t.Fatal(err)
			}
			if d.Admitted {
				granted++
				open[id], inRedis[id] = amount, true
				if d.Held[0].PostedNano+d.Held[0].ReservedNano > limit {
					t.Fatalf("step %d: %+v", step, d.Held[0])
				}
			}
		case len(list) > 0 && rng.IntN(100) < 60: // it ends: in the log, and mostly in Redis
			id := list[rng.IntN(len(list))]
			cost := rng.Int64N(open[id] + 1)
			log = append(log, ended{id, cost})
			delete(open, id)
			if rng.IntN(4) > 0 {
				q := request(id, 0)
				q.Cost = cost
				for range 1 + rng.IntN(2) {
					if err := a.Adjust(t.Context(), lua.Settle, q, 0); err != nil {
						t.Fatal(err)
					}
				}
				if inRedis[id] {
					kept[id] = cost
				}
			}
		case len(list) > 0 && rng.IntN(100) < 20: // it is never opened
			id := list[rng.IntN(len(list))]
			for range 1 + rng.IntN(2) {
				if err := a.Adjust(t.Context(), lua.Cancel, request(id, 0), 0); err != nil {
					t.Fatal(err)
				}
			}
			delete(open, id)
			delete(inRedis, id)
		case rng.IntN(100) < 5: // lost, and made again from the log
			if rng.IntN(2) == 0 {
				r.Do("flushall")
			}
			epoch++
			at = int64(len(log))
			in := &lua.Installation{Cut: lua.Cut{Workspace: "ws", Epoch: epoch, To: at, Posted: map[string]int64{field: shown(at)}}, PolicyVersion: 1}
			for id, amount := range open {
				in.Open = append(in.Open, lua.Entry{ID: id, Producer: "p1", Amounts: []lua.Amount{{Field: field, Nano: amount}}})
			}
			if ok, err := b.Install(t.Context(), in); err != nil || !ok {
				t.Fatalf("%v %v", ok, err)
			}
			if ok, err := b.Install(t.Context(), in); err != nil || ok {
				t.Fatalf("an epoch was installed twice: %v", err)
			}
			clear(kept)
			clear(inRedis)
			for id := range open {
				inRedis[id] = true
			}
		case len(log) > 0: // a reconciler that may be behind or ahead of the hash
			from := rng.Int64N(int64(len(log)) + 1)
			to := from + rng.Int64N(int64(len(log))-from+1)
			s := &lua.Step{Cut: lua.Cut{Workspace: "ws", Epoch: epoch, To: to, Posted: map[string]int64{field: shown(to)}}, From: from}
			for _, e := range log[from:to] {
				s.Ended = append(s.Ended, e.id)
			}
			applied, is, _, err := b.Reconcile(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if want := from <= at && at < to; applied != want || !applied && is != at {
				t.Fatalf("from %d to %d at %d: applied %v, says %d", from, to, at, applied, is)
			}
			if applied {
				at = to
				for _, e := range log[:to] {
					delete(kept, e.id)
					delete(inRedis, e.id)
				}
			}
		}
		posted, reserved, held := shown(at), int64(0), 0
		for _, cost := range kept {
			posted += cost
		}
		balances, entries := state(t, rdb)
		for id, v := range entries {
			held++
			if strings.HasPrefix(v, "o ") {
				n, _ := strconv.ParseInt(v[strings.LastIndexByte(v, ' ')+1:], 10, 64)
				reserved += n
			} else if _, ok := kept[id]; !ok {
				t.Fatalf("step %d: entry %s is %q", step, id, v)
			}
		}
		if got := balances[field]; got != [3]int64{posted, reserved, shown(at)} && (got != [3]int64{} || posted+reserved > 0) {
			t.Fatalf("step %d: Redis shows %v, want %d %d %d", step, got, posted, reserved, shown(at))
		}
		if n, _ := rdb.HGet(t.Context(), keyspace.State("ws"), "n").Int(); n != held || held != len(inRedis) {
			t.Fatalf("step %d: %d counted, %d entries, want %d", step, n, held, len(inRedis))
		}
	}
	t.Logf("FIGURE %d granted in %d epochs", granted, epoch)
}

// However often and in whatever order a reservation is ended, it is ended once: a settle after a settle, a cancellation after a settle, a settle after a
// cancellation and one after the log has ended it change nothing.
func TestAReservationEndsOnce(t *testing.T) {
	t.Parallel()
	a, b, r := installed(t)
	field := keyspace.Balance("b", 1, "") + "0"
	adjust := func(how lua.Adjustment, id string, cost int64) {
		t.Helper()
		q := reserve(id, hold("b", usd, 100))
		q.Cost = cost
		if err := a.Adjust(t.Context(), how, q, 0); err != nil {
			t.Fatal(err)
		}
	}
	want := func(posted, reserved, confirmed int64, entries int) {
		t.Helper()
		balances, left := state(t, r.Client())
		if balances[field] != [3]int64{posted, reserved, confirmed} || len(left) != entries {
			t.Errorf("%v with %v, want %d %d %d with %d", balances[field], left, posted, reserved, confirmed, entries)
		}
	}
	for _, id := range []string{"settled", "cancelled", "expired"} {
		if d, err := a.Admit(t.Context(), reserve(id, hold("b", usd, 100))); err != nil || !d.Admitted {
			t.Fatalf("%+v %v", d, err)
		}
	}
	want(0, 300, 0, 3)
	adjust(lua.Settle, "settled", 20)
	adjust(lua.Settle, "settled", 70)
	adjust(lua.Cancel, "settled", 0)
	want(20, 200, 0, 3)
	adjust(lua.Cancel, "cancelled", 0)
	adjust(lua.Cancel, "cancelled", 0)
	adjust(lua.Settle, "cancelled", 70)
	want(20, 100, 0, 2)
	// The log has ended two of them: one as here, one at its bound.
	step := &lua.Step{Cut: lua.Cut{Workspace: "ws", Epoch: 1, To: 5, Posted: map[string]int64{field: 120}}, Ended: []string{"settled", "expired"}}
	for range 2 {
		if _, _, _, err := b.Reconcile(t.Context(), step); err != nil {
			t.Fatal(err)
		}
	}
	want(120, 0, 120, 0)
	adjust(lua.Settle, "expired", 70)
	adjust(lua.Cancel, "expired", 0)
	want(120, 0, 120, 0)
}

// Two rebuild at once: the slower one finds a later epoch installed, or one with a grant in it, and changes nothing.
func TestTheSlowerOfTwoInstallsChangesNothing(t *testing.T) {
	t.Parallel()
	a, b, r := installed(t)
	field := keyspace.Balance("b", 1, "") + "0"
	install := func(epoch uint64, posted int64) bool {
		t.Helper()
		ok, err := b.Install(t.Context(), &lua.Installation{Cut: lua.Cut{Workspace: "ws", Epoch: epoch, To: 9, Posted: map[string]int64{field: posted}}, PolicyVersion: 1})
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if !install(3, 500) {
		t.Fatal("a later epoch was not installed")
	}
	q := reserve("1", hold("b", 1000, 400))
	q.Epoch = 3
	if d, err := a.Admit(t.Context(), q); err != nil || !d.Admitted {
		t.Fatalf("%+v %v", d, err)
	}
	for _, epoch := range []uint64{1, 2, 3} {
		if install(epoch, 0) {
			t.Errorf("epoch %d was installed over 3", epoch)
		}
	}
	if balances, entries := state(t, r.Client()); balances[field] != [3]int64{500, 400, 500} || len(entries) != 1 {
		t.Errorf("%v with %v", balances, entries)
	}
}

// A balance of a period that the log has forgotten leaves Redis once nothing of it is reserved; and however many ended at once, each counts once.
func TestForgottenBalancesLeave(t *testing.T) {
	t.Parallel()
	a, b, r := installed(t)
	for i := range 2500 {
		if d, err := a.Admit(t.Context(), reserve(strconv.Itoa(i), hold("old", usd, 10), hold("new", usd, 10))); err != nil || !d.Admitted {
			t.Fatalf("%v %v", d, err)
		}
	}
	old, fresh := keyspace.BudgetPeriod{Budget: "old", Generation: 1}.Field(), keyspace.BudgetPeriod{Budget: "new", Generation: 1}.Field()
	ended := make([]string, 0, 5000)
	for i := range 2499 {
		ended = append(ended, strconv.Itoa(i), strconv.Itoa(i))
	}
	step := func(from, to int64, ended []string, posted int64) {
		t.Helper()
		applied, _, _, err := b.Reconcile(t.Context(), &lua.Step{
			Cut: lua.Cut{Workspace: "ws", Epoch: 1, To: to, Posted: map[string]int64{fresh: posted}}, From: from, Ended: ended, Forgotten: []string{old},
		})
		if err != nil || !applied {
			t.Fatalf("step to %d: %t %v", to, applied, err)
		}
	}
	state := func() map[string]string {
		all, err := r.Client().HGetAll(t.Context(), keyspace.State("ws")).Result()
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	step(0, 5, ended, 7)
	if s := state(); s[old] != "0 10 0" || s[fresh] != "7 10 7" || s["n"] != "1" {
		t.Errorf("one is open: %q, %q, %s entries", s[old], s[fresh], s["n"])
	}
	step(5, 6, []string{"2499"}, 8)
	if s := state(); s[old] != "" || s[fresh] != "8 0 8" || s["n"] != "0" {
		t.Errorf("none is open: %q, %q, %s entries", s[old], s[fresh], s["n"])
	}
}

// Schedule (r): 15,000 open reservations in one workspace are installed, shown, granted beside, and ended in one step.
func TestFifteenThousandOpenReservations(t *testing.T) {
	t.Parallel()
	const n = 15_000
	r := redistest.Start(t)
	b := lua.NewBalances(openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient}))
	field := keyspace.BudgetPeriod{Budget: "b", Generation: 1}.Field()
	in := &lua.Installation{Cut: lua.Cut{Workspace: "ws", Epoch: 3, To: 9, Posted: map[string]int64{field: 7}}, PolicyVersion: 1}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = "r" + strconv.Itoa(i) + "/1"
		in.Open = append(in.Open, lua.Entry{ID: ids[i], Producer: "gone", Amounts: []lua.Amount{{Field: field, Nano: 10}}})
	}
	if ok, err := b.Install(t.Context(), in); err != nil || !ok {
		t.Fatalf("%t %v", ok, err)
	}
	a := admissions(t, r.URL())
	req := reserve("mine/1", hold("b", 7+10*n+5, 6))
	req.Epoch = 3
	if d, err := a.Admit(t.Context(), req); err != nil || d.Admitted || d.Held[0].Stands != lua.StandsReserved || d.Held[0].ReservedNano != 10*n {
		t.Errorf("above the limit: %+v %v", d, err)
	}
	entries, err := b.Retire(t.Context(), lua.Retirement{Workspace: "ws", Producer: "gone", Least: 1})
	if err != nil || len(entries) != n {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	applied, _, _, err := b.Reconcile(t.Context(), &lua.Step{Cut: lua.Cut{Workspace: "ws", Epoch: 3, To: 10, Posted: map[string]int64{field: 8}}, From: 9, Ended: ids})
	if err != nil || !applied {
		t.Fatalf("%t %v", applied, err)
	}
	if d, err := a.Admit(t.Context(), req); err != nil || !d.Admitted || d.Held[0].PostedNano != 8 || d.Held[0].ReservedNano != 6 {
		t.Errorf("after all have ended: %+v %v", d, err)
	}
}
