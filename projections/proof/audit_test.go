package proof_test

import (
	"fmt"
	"testing"

	"github.com/rateguard/rateguard/projections/proof"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

func (s *script) audit() *proof.WorkspaceAudit {
	s.t.Helper()
	a, err := s.log.Audit(s.t.Context(), ws)
	must(s.t, err)
	if len(a.Data) != 1 || !a.Complete {
		s.t.Fatalf("audited %d workspaces, complete %t", len(a.Data), a.Complete)
	}
	if a.OK != (a.Data[0].Broken == 0) {
		s.t.Errorf("ok %t with %d breaches", a.OK, a.Data[0].Broken)
	}
	return a.Data[0]
}

func TestHonestLogsBreakNoRule(t *testing.T) {
	for _, test := range []struct {
		name  string
		write func(s *script)
		// lower is how many grants saw less than the log shows, for a reason.
		lower int64
	}{
		{"one after the other", func(s *script) {
			one := grant{producer: "p", id: id(1), amount: 400, reserved: 400, limit: 1000}
			s.open(one)
			s.open(grant{producer: "p", id: id(2), amount: 600, reserved: 1000, limit: 1000})
			s.settle(one, 100)
			s.open(grant{producer: "p", id: id(3), amount: 300, posted: 100, reserved: 900, limit: 1000})
		}, 0},
		{"a later grant stands before an earlier one", func(s *script) {
			s.open(grant{producer: "p", id: id(2), amount: 600, reserved: 1000, limit: 1000, op: 2})
			s.open(grant{producer: "q", id: id(1), amount: 400, reserved: 400, limit: 1000, op: 1})
		}, 0},
		{"an end that Redis knew is still on its way", func(s *script) {
			one := grant{producer: "p", id: id(1), amount: 400, reserved: 400, limit: 1000}
			s.open(one)
			s.open(grant{producer: "q", id: id(2), amount: 900, posted: 10, reserved: 900, limit: 1000})
			s.settle(one, 10)
		}, 1},
		{"a correction that Redis has not seen", func(s *script) {
			one := grant{producer: "p", id: id(1), amount: 400, reserved: 400, limit: 1000}
			s.open(one)
			s.settle(one, 10)
			s.correct(one, 10, 300)
			s.open(grant{producer: "p", id: id(2), amount: 900, posted: 10, reserved: 900, limit: 1000})
		}, 1},
		{"a soft budget above its limit", func(s *script) {
			s.policy(2, 1000, func(b *rateguardv1.Budget) { b.Enforcement = "soft" })
			s.open(grant{producer: "p", id: id(1), amount: 4000, reserved: 4000, limit: 1000, policy: 2})
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScript(t)
			s.policy(1, 1000, nil)
			test.write(s)
			w := s.audit()
			if w.Broken != 0 || w.LowerViews != test.lower || w.Openings == 0 {
				t.Errorf("%d openings, %d lower views, breaches %+v", w.Openings, w.LowerViews, w.Breaches)
			}
		})
	}
}

func TestEachRuleIsSeenToBeBroken(t *testing.T) {
	honest := grant{producer: "p", id: id(1), amount: 400, reserved: 400, limit: 1000}
	with := func(change func(*grant)) grant {
		g := honest
		change(&g)
		return g
	}
	second := grant{producer: "p", id: id(2), amount: 100, reserved: 500, limit: 1000}
	for _, test := range []struct {
		rule  string
		write func(s *script)
	}{
		{proof.RuleLimit, func(s *script) { s.open(with(func(g *grant) { g.posted = 601 })) }},
		{proof.RulePolicy, func(s *script) { s.open(with(func(g *grant) { g.limit = 2000 })) }},
		{proof.RulePolicy, func(s *script) {
			e := s.opening(honest)
			e.GetReservationOpened().GetHolds()[0].BudgetGeneration = 2
			s.write(topics.Costs, ws, s.numbered("p", e))
		}},
		{proof.RuleBound, func(s *script) { s.open(with(func(g *grant) { g.bound = 399 })) }},
		{proof.RuleBound, func(s *script) {
			e := s.opening(honest)
			e.GetReservationOpened().BoundNanoUsd = nil
			s.write(topics.Costs, ws, s.numbered("p", e))
		}},
		{proof.RuleOps, func(s *script) { s.open(honest); second.op = 1; s.open(second) }},
		{proof.RuleOps, func(s *script) {
			e := s.opening(honest)
			e.GetReservationOpened().Op = 0
			s.write(topics.Costs, ws, s.numbered("p", e))
		}},
		{proof.RuleOps, func(s *script) {
			e := s.opening(honest)
			e.GetReservationOpened().Epoch = 0
			s.write(topics.Costs, ws, s.numbered("p", e))
		}},
		{proof.RuleView, func(s *script) {
			s.open(honest)
			s.open(grant{producer: "p", id: id(2), amount: 900, reserved: 900, limit: 1000})
		}},
	} {
		t.Run(test.rule, func(t *testing.T) {
			s := newScript(t)
			s.policy(1, 1000, nil)
			test.write(s)
			w := s.audit()
			if w.Broken != 1 || w.Breaches[0].Rule != test.rule || w.Breaches[0].Reservation == "" {
				t.Errorf("%d breaches: %+v", w.Broken, w.Breaches)
			}
		})
	}
}

func TestGapsAndOverrunsAreNamedAndBreakNothing(t *testing.T) {
	s := newScript(t)
	s.policy(1, 1000, nil)
	one := grant{producer: "p", id: id(1), amount: 10, reserved: 10, limit: 1000, op: 3}
	s.open(one)
	first := s.numbered("p", s.opening(grant{producer: "p", id: id(2), amount: 10, reserved: 20, limit: 1000, op: 6}))
	s.write(topics.Costs, ws, first)
	s.write(topics.Costs, ws, first)
	s.open(grant{producer: "p", id: id(3), amount: 10, reserved: 30, limit: 1000, op: 7})
	s.open(grant{producer: "p", id: id(4), amount: 10, reserved: 40, limit: 1000, epoch: 2, op: 1})
	s.settle(one, 25)
	s.open(grant{producer: "p", id: id(5), amount: 10, reserved: 50, limit: 1000, op: 2, epoch: 2, policy: 9})
	w := s.audit()
	if w.Broken != 0 || w.Unknown != 1 || w.Hard != 4 {
		t.Errorf("%d hard holds, %d of unknown policies, breaches %+v", w.Hard, w.Unknown, w.Breaches)
	}
	want := "[{1 3 7 4 [{1 2} {4 5}]} {2 2 2 0 []}]"
	if got := fmt.Sprint(w.Epochs); got != want {
		t.Errorf("epochs: got %s, want %s", got, want)
	}
	if w.Overran != 1 || w.OverranBy != 15 || w.Overruns[0].Reservation != id(1) || w.Overruns[0].Cause != "provider billed beyond the bound" {
		t.Errorf("overruns: %d, %+v", w.Overran, w.Overruns)
	}
}

func TestTheWholeLogIsAudited(t *testing.T) {
	s := newScript(t)
	for _, workspace := range []string{"ws_1", "ws_2", "ws_3", "ws_4"} {
		s.write(topics.Costs, workspace, s.opening(grant{producer: "p", id: id(1), amount: 10}))
	}
	a, err := s.log.Audit(t.Context(), "")
	must(t, err)
	if len(a.Data) != 4 || !a.OK || len(a.Log) != partitions {
		t.Errorf("audited %d workspaces of %d partitions, ok %t", len(a.Data), len(a.Log), a.OK)
	}
}
