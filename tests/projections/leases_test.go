package projections_test

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections/balances"
	"github.com/rateguard/rateguard/projections/ledger"
	"github.com/rateguard/rateguard/projections/outcome"
	"github.com/rateguard/rateguard/projections/proof"
	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/topics"
)

// leaseSums are what fold and balances both show of a sum.
type leaseSums struct{ Posted, Reserved, Ended int64 }

// folded returns the sums of a state by scope and budget, without those that are zero.
func folded(s *rateguardv1.SpendState) map[string]leaseSums {
	out := map[string]leaseSums{}
	put := func(name string, x *rateguardv1.Sums) {
		if sums := (leaseSums{x.GetPostedNanoUsd(), x.GetReservedNanoUsd(), int64(x.GetEnded())}); sums != (leaseSums{}) {
			out[name] = sums
		}
	}
	put(balances.ScopeTotal, s.GetTotal())
	for _, m := range s.GetMonths() {
		put(balances.ScopeMonth, m.GetSums())
	}
	for _, b := range s.GetBudgets() {
		for _, p := range b.GetBalances()[0].GetPeriods() {
			put("budget "+b.GetBudgetId(), p.GetSums())
		}
	}
	return out
}

func nameOf(scope, budget string) string {
	if scope == balances.ScopeBudget {
		return "budget " + budget
	}
	return scope
}

// TestLeasesAreProjectedAsTheyAreFolded looks at the sums after each record of many schedules: what fold, balances and ledger show has to be equal.
func TestLeasesAreProjectedAsTheyAreFolded(t *testing.T) {
	t.Parallel()
	var charged, late, returned, lost int
	for seed := range uint64(300) {
		w := newLeaseWorld(seed)
		w.run(250)
		if seed%2 == 0 {
			w.finish()
		} else {
			w.deliver() // a plain reader takes for open what Redis knows to have ended
		}
		charged, late, returned, lost = charged+w.charged, late+w.late, returned+w.returned, lost+w.lost

		state := new(rateguardv1.SpendState)
		held, last := map[outcome.Key]balances.Reservation{}, map[outcome.Key]ledger.Row{}
		sums, spent := map[string]leaseSums{}, map[string]int64{}
		closed := map[string]bool{}
		reader := harness.NewAdmissions(t)
		for i, e := range w.log {
			if did := spend.Fold(state, e); !did.New || len(did.Notes) > 0 {
				t.Fatalf("seed %d, record %d: the schedule is not an honest one: %+v", seed, i, did)
			}
			reader.Take(e)
			rec := runner.Record{Workspace: w.workspace, Event: e, AfterClose: closed[e.GetProducerId()]}
			closed[e.GetProducerClosed().GetProducerId()] = true
			for _, c := range balances.Project(held, rec) {
				name := nameOf(c.Scope, c.BudgetID)
				s := sums[name]
				sums[name] = leaseSums{s.Posted + c.PostedNano, s.Reserved + c.ReservedNano, s.Ended + c.Ended}
			}
			for _, r := range ledger.Project(last, rec) {
				spent[balances.ScopeTotal] += r.DeltaNano
				for _, h := range r.Holds {
					spent["budget "+h.BudgetID] += r.DeltaNano
				}
			}
			maps.DeleteFunc(sums, func(_ string, s leaseSums) bool { return s == leaseSums{} })
			want := folded(state)
			if diff := cmp.Diff(want, sums); diff != "" {
				t.Fatalf("seed %d, record %d, %T: sums of the balances (-fold +got):\n%s", seed, i, e.GetBody(), diff)
			}
			for name, s := range want {
				if name != balances.ScopeMonth && spent[name] != s.Posted {
					t.Fatalf("seed %d, record %d, %T: the ledger has spent %d in %s, the fold posted %d", seed, i, e.GetBody(), spent[name], name, s.Posted)
				}
			}
			if posted, reserved := want["budget all"].Posted, want["budget all"].Reserved; posted+reserved > w.limit {
				t.Fatalf("seed %d, record %d: %d posted and %d reserved of %d", seed, i, posted, reserved, w.limit)
			}
		}
		reader.Check()
		posted, open := reader.Posted("all")
		if want := folded(state)["budget all"].Posted; posted != want || seed%2 == 0 && open > 0 {
			t.Errorf("seed %d: a plain reader finds %d posted and %d open, the fold posted %d", seed, posted, open, want)
		}
		if s := folded(state)["budget all"]; seed%2 == 0 && s.Reserved != 0 {
			t.Errorf("seed %d: everything has ended, and %d is reserved", seed, s.Reserved)
		}
	}
	if charged < 50 || late < 50 || returned < 50 || lost < 50 {
		t.Errorf("the schedules charged %d leases, %d reservations and %d leases surfaced late, and %d never ended: too few", charged, late, returned, lost)
	}
}

// TestStoresShowLeasesAsTheLogDoes follows logs of many workspaces into the stores, in several batches, and audits and proves the same logs.
func TestStoresShowLeasesAsTheLogDoes(t *testing.T) {
	r := newRig(t)
	r.start()
	var worlds []*leaseWorld
	for seed := range uint64(24) {
		w := newLeaseWorld(1000 + seed)
		w.run(400)
		if seed%2 == 0 {
			w.finish()
		}
		worlds = append(worlds, w)
		r.send(encoded(topics.PolicyHistory, w.workspace, &rateguardv1.Event{
			OccurredAtUnixUs: w.month().UnixMicro(), Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: w.policy()},
		}))
	}
	const parts = 4
	for part := range parts {
		for _, w := range worlds {
			n := len(w.log)
			for _, e := range w.log[n*part/parts : n*(part+1)/parts] {
				r.send(encoded(topics.Costs, w.workspace, e))
			}
		}
		r.caughtUp()
	}
	for _, w := range worlds {
		r.verifyLeases(w)
	}
	// What surfaced behind a charge makes a revision that says all else as the one before it.
	var surfaced, others int64
	if err := r.pg.QueryRow(t.Context(), `SELECT count(*), count(*) FILTER (WHERE l.request_id <> f.request_id OR l.policy_version <> f.policy_version OR l.holds <> f.holds
 OR l.opened_at <> f.opened_at OR l.kind <> CASE l.cost_nano WHEN 0 THEN 'voided' ELSE f.kind END OR l.estimated <> (l.cost_nano > 0) OR l.bound_nano IS NOT NULL)
 FROM ledger l JOIN ledger f USING (workspace, reservation_id) WHERE f.revision = 1 AND l.reason = 'a reservation that was taken from the lease ended later'`).Scan(&surfaced, &others); err != nil {
		t.Fatal(err)
	}
	equal(t, "revisions that say something else", others, 0)
	if surfaced < 10 {
		t.Errorf("only %d reservations ended behind the charge of their lease", surfaced)
	}
}

func encoded(topic topics.Topic, workspace string, e *rateguardv1.Event) *kgo.Record {
	e.Id, e.WorkspaceId = uuid.NewString(), workspace
	value, err := envelope.Encode(e)
	if err != nil {
		panic(err)
	}
	return &kgo.Record{Topic: topic.Name, Key: []byte(workspace), Value: value}
}

func (r *rig) verifyLeases(w *leaseWorld) {
	r.t.Helper()
	want := folded(w.state)
	got := map[string]leaseSums{}
	rows, err := r.pg.Query(r.t.Context(), "SELECT scope, budget_id, posted_nano::bigint, reserved_nano::bigint, ended_count FROM balances WHERE workspace = $1", w.workspace)
	if err != nil {
		r.t.Fatal(err)
	}
	var scope, budget string
	var s leaseSums
	if _, err := pgx.ForEachRow(rows, []any{&scope, &budget, &s.Posted, &s.Reserved, &s.Ended}, func() error {
		if s != (leaseSums{}) {
			got[nameOf(scope, budget)] = s
		}
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("%s: sums of the balances (-fold +got):\n%s", w.workspace, diff)
	}
	var spent, newest, estimated int64
	if err := r.pg.QueryRow(r.t.Context(), `SELECT sum(delta_nano)::bigint,
 (sum(cost_nano) FILTER (WHERE last))::bigint, count(*) FILTER (WHERE last AND estimated)
 FROM (SELECT *, revision = max(revision) OVER (PARTITION BY reservation_id) AS last FROM ledger WHERE workspace = $1) l`, w.workspace).Scan(&spent, &newest, &estimated); err != nil {
		r.t.Fatal(err)
	}
	equal(r.t, w.workspace+": sum of the ledger", spent, want[balances.ScopeTotal].Posted)
	equal(r.t, w.workspace+": sum of the newest revisions", newest, want[balances.ScopeTotal].Posted)
	equal(r.t, w.workspace+": estimates in the ledger", estimated, int64(w.state.GetTotal().GetEstimated()))

	log := proof.NewLog(r.cfg.Kafka)
	audit, err := log.Audit(r.t.Context(), w.workspace)
	if err != nil {
		r.t.Fatal(err)
	}
	if !audit.OK {
		r.t.Errorf("%s: an honest log breaks rules: %+v", w.workspace, audit.Data[0].Breaches)
	}
	for _, budget := range []string{"all", "month"} {
		p, err := log.Prove(r.t.Context(), proof.Question{Workspace: w.workspace, Budget: budget, At: w.now.Add(time.Second)})
		if err != nil {
			r.t.Fatal(err)
		}
		if !p.FoldAgrees || p.Compared == 0 {
			r.t.Errorf("%s: the proof of %s compared %d times: %s", w.workspace, budget, p.Compared, fmt.Sprint(p.Verdict))
		}
		s := want["budget "+budget]
		equal(r.t, w.workspace+": posted by the proof", int64(p.Sums.Posted), s.Posted)
		equal(r.t, w.workspace+": reserved by the proof", int64(p.Sums.Reserved), s.Reserved)
	}
}
