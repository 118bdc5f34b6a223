package lua_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// lent is what Redis says that leases hold of a balance.
func lent(t *testing.T, r *redistest.Server, budget string) int64 {
	t.Helper()
	n, _ := r.Client().HGet(t.Context(), keyspace.State("ws"), "q"+keyspace.Balance(budget, 1, "")+"0").Int64()
	return n
}

// A lease comes on top of the request that asks for it, with a number of its own; it is cut to an eighth of what is left and to its part of the limit.
func TestALeaseIsGrantedWithARequest(t *testing.T) {
	t.Parallel()
	a, b, r := installed(t)
	ask := func(id string, want, least int64, amount int64, holds ...lua.Hold) lua.Decision {
		t.Helper()
		q := reserve(id, holds...)
		for i := range q.Holds {
			q.Holds[i].Amount = amount
		}
		q.Lease = lua.LeaseAsk{ID: id + "/lease", Want: want, Least: least, Percent: 10}
		d, err := a.Admit(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := ask("1", 5*usd, 1, usd, hold("b", 100*usd, 0), hold("w", 1000*usd, 0))
	if !d.Admitted || d.Op != 1 || d.LeaseOp != 2 || d.LeaseNano != 5*usd || d.Held[0].ReservedNano != usd {
		t.Fatalf("%+v", d)
	}
	balances, entries := state(t, r.Client())
	if want := "l 0 p1 " + keyspace.Balance("b", 1, "") + "0 5000000000 " + keyspace.Balance("w", 1, "") + "0 5000000000"; entries["1/lease"] != want {
		t.Errorf("the lease is %q, want %q", entries["1/lease"], want)
	}
	if got := balances[keyspace.Balance("b", 1, "")+"0"]; got != [3]int64{0, 6 * usd, 0} || lent(t, r, "b") != 5*usd || lent(t, r, "w") != 5*usd {
		t.Errorf("%v; lent %d and %d", got, lent(t, r, "b"), lent(t, r, "w"))
	}
	// A tenth of 100 USD may be held by all: 5 more.
	if d = ask("2", 50*usd, 1, 0, hold("b", 100*usd, 0), hold("w", 1000*usd, 0)); !d.Admitted || d.Op != 2 || d.LeaseOp != 3 || d.LeaseNano != 5*usd {
		t.Errorf("%+v", d)
	}
	if d = ask("3", 50*usd, 1, 0, hold("b", 100*usd, 0), hold("w", 1000*usd, 0)); !d.Admitted || d.LeaseNano != 0 {
		t.Errorf("more than all leases may hold: %+v", d)
	}
	if _, entries := state(t, r.Client()); len(entries) != 3 {
		t.Errorf("who only asks reserves nothing: %v", entries)
	}
	// Close to the limit.
	if d = ask("4", 50*usd, 4*usd, 970*usd, hold("w", 1000*usd, 0)); !d.Admitted || d.LeaseNano != 0 {
		t.Errorf("an eighth of 19 USD is not what helps: %+v", d)
	}
	if d = ask("5", 50*usd, 2*usd, 0, hold("w", 1000*usd, 0)); !d.Admitted || d.LeaseNano != (1000-10-1-970)*usd/8 {
		t.Errorf("%+v", d)
	}
	if d = ask("6", 50*usd, 1, 100*usd, hold("w", 1000*usd, 0)); d.Admitted || d.LeaseNano != 0 {
		t.Errorf("a denied request got a lease: %+v", d)
	}
	// What was never opened is taken back with its request, more than once.
	q := reserve("1", hold("b", 100*usd, usd), hold("w", 1000*usd, usd))
	q.Lease.ID = "1/lease"
	for range 2 {
		if err := a.Adjust(t.Context(), lua.Cancel, q, 0); err != nil {
			t.Fatal(err)
		}
	}
	if balances, _ := state(t, r.Client()); balances[keyspace.Balance("b", 1, "")+"0"] != [3]int64{0, 5 * usd, 0} || lent(t, r, "b") != 5*usd {
		t.Errorf("cancelled: %v, lent %d", balances, lent(t, r, "b"))
	}
	// The closing of its producer frees it too, where it was never opened.
	if _, err := b.Retire(t.Context(), lua.Retirement{Workspace: "ws", Producer: "p1", Least: 1, Release: []string{"2/lease"}}); err != nil {
		t.Fatal(err)
	}
	if balances, _ := state(t, r.Client()); balances[keyspace.Balance("b", 1, "")+"0"] != [3]int64{0, 0, 0} || lent(t, r, "b") != 0 {
		t.Errorf("released: %v, lent %d", balances, lent(t, r, "b"))
	}
	if r.Client().HExists(t.Context(), keyspace.State("ws"), "q"+keyspace.Balance("b", 1, "")+"0").Val() {
		t.Error("a balance of which leases hold nothing keeps a field")
	}
}

// Whatever is granted, taken, ended and given back, and however far which reader of the log is: what Redis has reserved is what its entries say, what leases hold is
// known, nothing counts less than the log says; and once all is read, Redis shows what the log shows.
func TestLeasesFollowTheLog(t *testing.T) {
	t.Parallel()
	a, b, r := installed(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	const limit = 1000 * usd
	field := keyspace.Balance("b", 1, "") + "0"
	steps := 1200
	if testing.Short() {
		steps = 400
	}
	type open struct {
		lease bool
		left  int64
	}
	// view is what the log shows up to an offset.
	type view struct {
		open   map[string]open
		posted int64
	}
	views := []view{{open: map[string]open{}}} // by offset
	changed := []string{""}                    // what the record at the offset is about
	last := func() view { return views[len(views)-1] }
	record := func(id string, change func(*view)) {
		v := view{maps.Clone(last().open), last().posted}
		change(&v)
		views, changed = append(views, v), append(changed, id)
	}
	leases := map[string]int64{} // what the holder has left of each
	taken := map[string]string{} // child → lease
	kept := map[string]int64{}
	epoch, at := uint64(1), 0
	pick := func(ids []string) string {
		slices.Sort(ids)
		return ids[rng.IntN(len(ids))]
	}
	for step := range steps {
		switch n := rng.IntN(100); {
		case n < 15: // a lease, opened at once
			id := fmt.Sprintf("l%d", step)
			q := reserve(strconv.Itoa(step), hold("b", limit, 0))
			q.Epoch, q.Lease = epoch, lua.LeaseAsk{ID: id, Want: 1 + rng.Int64N(20*usd), Least: 1, Percent: 20}
			d, err := a.Admit(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if d.LeaseNano > 0 {
				leases[id] = d.LeaseNano
				record(id, func(v *view) { v.open[id] = open{true, d.LeaseNano} })
			}
		case n < 45 && len(leases) > 0:
			lease := pick(slices.Collect(maps.Keys(leases)))
			if leases[lease] == 0 {
				continue
			}
			id, amount := fmt.Sprintf("r%d", step), 1+rng.Int64N(leases[lease])
			leases[lease] -= amount
			taken[id] = lease
			record(id, func(v *view) {
				v.open[id] = open{false, amount}
				v.open[lease] = open{true, v.open[lease].left - amount}
			})
		case n < 65 && len(taken) > 0: // its end, mostly told to Redis too
			id := pick(slices.Collect(maps.Keys(taken)))
			cost := rng.Int64N(last().open[id].left + 1)
			delete(taken, id)
			record(id, func(v *view) {
				delete(v.open, id)
				v.posted += cost
			})
			if rng.IntN(3) > 0 {
				q := reserve(id, hold("b", limit, 0))
				q.Cost = cost
				if err := a.Adjust(t.Context(), lua.Settle, q, 0); err != nil {
					t.Fatal(err)
				}
				if _, there := views[at].open[id]; there { // Redis has heard of its opening
					kept[id] = cost
				}
			}
		case n < 72 && len(leases) > 0:
			id := pick(slices.Collect(maps.Keys(leases)))
			delete(leases, id)
			record(id, func(v *view) { delete(v.open, id) })
		case n < 75: // lost, and made again
			epoch++
			at = len(views) - 1
			in := &lua.Installation{Cut: lua.Cut{Workspace: "ws", Epoch: epoch, To: int64(at), Posted: map[string]int64{field: last().posted}}, PolicyVersion: 1}
			for id, o := range last().open {
				in.Open = append(in.Open, lua.Entry{ID: id, Producer: "p1", Lease: o.lease, Amounts: []lua.Amount{{Field: field, Nano: o.left}}})
			}
			if ok, err := b.Install(t.Context(), in); err != nil || !ok {
				t.Fatalf("%v %v", ok, err)
			}
			clear(kept)
		default:
			from := rng.IntN(len(views))
			to := from + rng.IntN(len(views)-from)
			s := &lua.Step{Cut: lua.Cut{Workspace: "ws", Epoch: epoch, To: int64(to), Posted: map[string]int64{field: views[to].posted}}, From: int64(from)}
			named := map[string]bool{}
			for i := from + 1; i <= to; i++ {
				id := changed[i]
				if _, is := views[to].open[id]; !is {
					s.Ended = append(s.Ended, id)
				} else {
					named[id] = true
				}
				for other, o := range views[i].open { // the lease that it was taken from
					if now, is := views[to].open[other]; is && o != views[i-1].open[other] {
						named[other] = now.lease || named[other]
					}
				}
			}
			for id := range named {
				o := views[to].open[id]
				s.Open = append(s.Open, lua.Entry{ID: id, Producer: "p1", Lease: o.lease, Amounts: []lua.Amount{{Field: field, Nano: o.left}}})
			}
			applied, _, _, err := b.Reconcile(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			if want := from <= at && at < to; applied != want {
				t.Fatalf("from %d to %d at %d: applied %v", from, to, at, applied)
			}
			if applied {
				at = to
				for id := range kept {
					if _, is := views[at].open[id]; !is {
						delete(kept, id)
					}
				}
			}
		}
		balances, entries := state(t, r.Client())
		var reserved, ofLeases, posted int64
		for id, text := range entries {
			var kind, producer, f string
			var cost, amount int64
			if _, err := fmt.Sscan(text, &kind, &cost, &producer, &f, &amount); err != nil {
				t.Fatalf("step %d: %s is %q", step, id, text)
			}
			switch kind {
			case "l":
				ofLeases += amount
				reserved += amount
			case "o":
				reserved += amount
			default:
				posted += cost
			}
		}
		var keptSum int64
		for _, cost := range kept {
			keptSum += cost
		}
		got := balances[field]
		if got[1] != reserved || lent(t, r, "b") != ofLeases || got[2] != views[at].posted && got != [3]int64{} || got[0] != got[2]+posted || posted != keptSum {
			t.Fatalf("step %d: %v, entries %d reserved (%d by leases, lent %d), %d posted of %d", step, got, reserved, ofLeases, lent(t, r, "b"), posted, keptSum)
		}
		var truth int64
		for _, o := range last().open {
			truth += o.left
		}
		if got[0]+got[1] < last().posted+truth {
			t.Fatalf("step %d: Redis counts %d and %d, the log %d and %d", step, got[0], got[1], last().posted, truth)
		}
		if n, _ := r.Client().HGet(t.Context(), keyspace.State("ws"), "n").Int(); n != len(entries) {
			t.Fatalf("step %d: %d counted, %d entries", step, n, len(entries))
		}
		if at == len(views)-1 && len(kept) == 0 && (got[1] != truth || len(entries) != len(last().open)) {
			t.Fatalf("step %d: Redis has %d reserved in %d entries, the log %d in %d", step, got[1], len(entries), truth, len(last().open))
		}
	}
}
