package proof_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/projections/proof"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// aLease holds 500 of a budget of 1000; ofLease is what a reservation of it may look like.
var (
	aLease  = grant{producer: "p", id: "l/lease", lease: true, amount: 500, reserved: 500, limit: 1000}
	ofLease = grant{producer: "p", id: id(1), from: "l/lease", amount: 200, reserved: 500, limit: 1000}
)

func taking(n int, amount int64) grant {
	g := ofLease
	g.id, g.amount = id(n), amount
	return g
}

func TestLeasesAreProved(t *testing.T) {
	for _, test := range []struct {
		name  string
		write func(s *script)
		want  [4]int64
		// held and costs are those of the list, by its order.
		list  string
		held  []int64
		by    string // who ended the first one last
		says  string
		costs int64 // of the first one
	}{
		{
			"open, and partly taken", func(s *script) {
				s.open(aLease)
				s.open(taking(1, 200))
				s.open(taking(2, 100))
				s.settle(taking(2, 100), 40)
			},
			[4]int64{40, 400, 3, 1},
			"l/lease r1/1 r2/1",
			[]int64{200, 200, 0},
			"", "$0.0000002 of what was reserved was held by 1 open lease:", 0,
		},
		{
			"given back", func(s *script) {
				s.open(aLease)
				s.open(taking(1, 200))
				s.endLease(aLease, 300)
			},
			[4]int64{0, 200, 2, 1},
			"r1/1 l/lease",
			[]int64{200, 0},
			"", "by 1 open reservations", 0,
		},
		{
			"charged by a closing", func(s *script) {
				s.open(aLease)
				s.open(taking(1, 200))
				s.close("p", 2, s.outcome(taking(1, 200), 200), s.leaseOutcome(aLease, 300, 300))
			},
			[4]int64{500, 0, 2, 2},
			"l/lease r1/1",
			[]int64{0, 0},
			"closing", "", 300,
		},
		{
			"a reservation behind the charge", func(s *script) {
				s.open(aLease)
				s.close("p", 1, s.leaseOutcome(aLease, 500, 500))
				s.open(taking(1, 200))
			},
			[4]int64{500, 0, 1, 1},
			"l/lease",
			[]int64{0},
			"closing", "", 500,
		},
		{
			"its end behind the charge", func(s *script) {
				s.open(aLease)
				s.close("p", 1, s.leaseOutcome(aLease, 500, 500))
				s.open(taking(1, 200))
				s.settle(taking(1, 200), 50)
			},
			[4]int64{350, 0, 2, 2},
			"l/lease r1/1",
			[]int64{0, 0},
			"reservation", "", 300,
		},
		{
			"its end by the next process on the folder", func(s *script) {
				s.open(aLease)
				s.close("p", 1, s.leaseOutcome(aLease, 500, 500))
				s.open(taking(1, 200))
				e := s.settling(taking(1, 200), 200)
				e.GetCostSettled().GetOutcome().OpenedBy = "p"
				s.write(topics.Costs, ws, s.numbered("q", e))
			},
			[4]int64{500, 0, 2, 2},
			"l/lease r1/1",
			[]int64{0, 0},
			"reservation", "", 300,
		},
		{
			"the end of the lease before that", func(s *script) {
				s.open(aLease)
				s.close("p", 1, s.leaseOutcome(aLease, 500, 500))
				s.open(taking(1, 200))
				s.endLease(aLease, 300)
			},
			[4]int64{200, 0, 1, 1},
			"l/lease",
			[]int64{0},
			"producer", "", 200,
		},
		{
			"everything behind the charge", func(s *script) {
				s.open(aLease)
				s.close("p", 1, s.leaseOutcome(aLease, 500, 500))
				s.open(taking(1, 200))
				s.settle(taking(1, 200), 50)
				s.endLease(aLease, 300)
			},
			[4]int64{50, 0, 2, 2},
			"r1/1 l/lease",
			[]int64{0, 0},
			"producer", "", 50,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScript(t)
			s.policy(1, 1000, nil)
			test.write(s)
			p := s.prove(nil)
			if got := sums(p); got != test.want {
				t.Errorf("posted, reserved, opened, ended: got %v, want %v", got, test.want)
			}
			var held []int64
			for _, r := range p.Data {
				held = append(held, int64(r.Held))
				if r.Lease != (r.ID == aLease.id) || r.Opened.LeaseID != map[bool]string{false: aLease.id}[r.Lease] {
					t.Errorf("%s: lease %t, of lease %q", r.ID, r.Lease, r.Opened.LeaseID)
				}
			}
			if ids(p) != test.list || !slices.Equal(held, test.held) {
				t.Errorf("listed %s, which hold %v; want %s and %v", ids(p), held, test.list, test.held)
			}
			if ends := p.Data[0].Ends; test.by != "" && (ends[len(ends)-1].By != test.by || int64(*ends[len(ends)-1].Cost) != test.costs) {
				t.Errorf("the ends of %s are %+v", p.Data[0].ID, ends)
			}
			if !p.FoldAgrees || p.Compared == 0 {
				t.Errorf("compared %d times: %v", p.Compared, p.Verdict)
			}
			if !strings.Contains(strings.Join(p.Verdict, " "), test.says) {
				t.Errorf("the verdict lacks %q: %q", test.says, p.Verdict)
			}
			if w := s.audit(); w.Broken != 0 || w.Leases != 1 || w.Epochs[0].Openings != 1 || w.Epochs[0].LastOp != 1 || w.Epochs[0].Missing != 0 {
				t.Errorf("the audit: %+v", w)
			}
		})
	}
}

// What a lease held at an instant is told without what was taken from it later.
func TestALeaseIsProvedAtItsInstant(t *testing.T) {
	s := newScript(t)
	s.policy(1, 1000, nil)
	s.open(aLease)
	then := s.now.Add(-1)
	s.open(taking(1, 200))
	s.endLease(aLease, 300)
	p := s.prove(func(q *proof.Question) { q.At = then })
	if got := sums(p); got != [4]int64{0, 500, 1, 0} || ids(p) != aLease.id || p.Data[0].Held != 500 {
		t.Errorf("%v, listed %s, which holds %s", got, ids(p), p.Data[0].Held)
	}
}

func TestGrantsSeeLeasesAsReserved(t *testing.T) {
	s := newScript(t)
	s.policy(1, 1000, nil)
	s.open(aLease)
	s.open(taking(1, 200))
	s.open(grant{producer: "q", id: id(2), amount: 300, reserved: 800, limit: 1000})
	s.settle(taking(1, 200), 50)
	s.endLease(aLease, 300)
	s.open(grant{producer: "p", id: id(3), amount: 100, posted: 50, reserved: 400, limit: 1000})
	if w := s.audit(); w.Broken != 0 || w.LowerViews != 0 || w.Taken != 1 || w.Hard != 4 || w.Epochs[0].LastOp != 3 {
		t.Errorf("the audit: %+v", w)
	}
	s.open(grant{producer: "p", id: id(4), amount: 100, posted: 0, reserved: 400, limit: 1000})
	if w := s.audit(); w.Broken+w.LowerViews != 1 {
		t.Errorf("a grant that did not see what a lease's reservation cost: %+v", w)
	}
}

// What ends as part of a lease's charge holds nothing: what its proxy holds otherwise still explains what a grant of another one saw.
func TestGrantsSeeWhatEndsInTheChargeOfALease(t *testing.T) {
	s := newScript(t)
	s.policy(1, 1000, nil)
	s.open(aLease)
	s.close("p", 1, s.leaseOutcome(aLease, 500, 500))
	s.open(grant{producer: "p", id: id(5), amount: 200, reserved: 700, limit: 1000}) // no closing knew it
	s.open(taking(1, 200))
	s.settle(taking(1, 200), 50)
	s.open(grant{producer: "q", id: id(2), amount: 100, posted: 350, reserved: 100, limit: 1000}) // it had ended, and the log does not show that yet
	if w := s.audit(); w.Broken != 0 || w.LowerViews != 1 || w.Taken != 1 {
		t.Errorf("the audit: %+v", w)
	}
}

func TestEachRuleOfLeasesIsSeenToBeBroken(t *testing.T) {
	with := func(change func(o *rateguardv1.ReservationOpened)) func(s *script) {
		return func(s *script) {
			s.open(aLease)
			e := s.opening(ofLease)
			change(e.GetReservationOpened())
			s.write(topics.Costs, ws, s.numbered("p", e))
		}
	}
	for _, test := range []struct {
		name, rule, detail string
		write              func(s *script)
	}{
		{"a number of its own", proof.RuleLease, "is grant 7 as well", with(func(o *rateguardv1.ReservationOpened) { o.Op = 7 })},
		{"another epoch", proof.RuleLease, "is of epoch 2", with(func(o *rateguardv1.ReservationOpened) { o.Epoch = 2 })},
		{"another budget", proof.RuleLease, "in a period that its lease", with(func(o *rateguardv1.ReservationOpened) { o.Holds[0].BudgetId = "other" })},
		{"another generation", proof.RuleLease, "in a period that its lease", with(func(o *rateguardv1.ReservationOpened) { o.Holds[0].BudgetGeneration = 2 })},
		{"another period", proof.RuleLease, "in a period that its lease", with(func(o *rateguardv1.ReservationOpened) { o.Holds[0].PeriodStartUnixUs++ })},
		{"another balance", proof.RuleLease, "in a period that its lease", with(func(o *rateguardv1.ReservationOpened) { o.Holds[0].Balance = "key_1" })},
		{"another limit", proof.RuleLease, "had a limit of $0.000002", with(func(o *rateguardv1.ReservationOpened) { o.Holds[0].LimitNanoUsd = 2000 })},
		{"fewer budgets", proof.RuleLease, "holds of 0 budgets", with(func(o *rateguardv1.ReservationOpened) { o.Holds = nil })},
		{"no bound", proof.RuleLease, "its bound is $0", with(func(o *rateguardv1.ReservationOpened) { o.BoundNanoUsd = nil })},
		{"less than its bound", proof.RuleLease, "takes $0.0000001", with(func(o *rateguardv1.ReservationOpened) { o.Holds[0].AmountNanoUsd = 100 })},
		{"another producer", proof.RuleLease, "another producer's", func(s *script) {
			s.open(aLease)
			g := ofLease
			g.producer = "q"
			s.open(g)
		}},
		{"more than it holds", proof.RuleLease, "$0.000000501 were taken", func(s *script) {
			s.open(aLease)
			s.open(taking(1, 300))
			s.open(taking(2, 201))
		}},
		{"behind its end", proof.RuleLease, "behind its end", func(s *script) {
			s.open(aLease)
			s.endLease(aLease, 500)
			s.open(ofLease)
		}},
		{"no such lease", proof.RuleLease, "the log does not have", func(s *script) { s.open(ofLease) }},
		{"an end that gives back too much", proof.RuleLease, "gives back $0.0000005", func(s *script) {
			s.open(aLease)
			s.open(ofLease)
			s.endLease(aLease, 500)
		}},
		{"an end that gives back too little", proof.RuleLease, "gives back $0.0000001", func(s *script) {
			s.open(aLease)
			s.endLease(aLease, 100)
		}},
		{"a lease with a bound", proof.RuleLease, "has a bound", func(s *script) {
			e := s.opening(aLease)
			e.GetReservationOpened().BoundNanoUsd = new(int64(500))
			s.write(topics.Costs, ws, s.numbered("p", e))
		}},
		{"a lease that was not granted", proof.RuleOps, "was not granted in Redis", func(s *script) {
			s.policy(1, 1000, func(b *rateguardv1.Budget) { b.Enforcement = "soft" })
			e := s.opening(aLease)
			e.GetReservationOpened().Epoch, e.GetReservationOpened().Op = 0, 0
			s.write(topics.Costs, ws, s.numbered("p", e))
		}},
		{"a lease without a number", proof.RuleOps, "has number 0", func(s *script) {
			e := s.opening(aLease)
			e.GetReservationOpened().Op = 0
			s.write(topics.Costs, ws, s.numbered("p", e))
		}},
		{"a lease with another grant's number", proof.RuleOps, "which another grant has", func(s *script) {
			s.open(aLease)
			s.open(grant{producer: "p", id: id(3), amount: 100, reserved: 600, limit: 1000, op: 1})
		}},
		{"a lease beyond the limit", proof.RuleLimit, "the limit of policy version 1", func(s *script) {
			g := aLease
			g.posted = 501
			s.open(g)
		}},
		{"a grant that did not see the lease", proof.RuleView, "less than the log shows", func(s *script) {
			s.open(aLease)
			s.open(ofLease)
			s.open(grant{producer: "p", id: id(3), amount: 100, reserved: 100, limit: 1000})
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScript(t)
			s.policy(1, 1000, nil)
			test.write(s)
			w := s.audit()
			if w.Broken != 1 || w.Breaches[0].Rule != test.rule || w.Breaches[0].Reservation == "" || !strings.Contains(w.Breaches[0].Detail, test.detail) {
				t.Errorf("%d breaches: %+v", w.Broken, w.Breaches)
			}
		})
	}
}

// What the log lacks is not a breach: its start may have been deleted by age, and records may fill their holes later.
func TestLeasesOfWhichTheLogLacksRecords(t *testing.T) {
	t.Run("the lease", func(t *testing.T) {
		s := newScript(t)
		s.policy(1, 1000, nil)
		s.seq["p"] = 5
		s.open(ofLease)
		if w := s.audit(); w.Broken != 0 || w.UnknownLeases != 1 {
			t.Errorf("the audit: %+v", w)
		}
	})
	t.Run("a reservation that fills a hole behind the end", func(t *testing.T) {
		s := newScript(t)
		s.policy(1, 1000, nil)
		s.open(aLease)
		late := s.numbered("p", s.opening(ofLease))
		s.endLease(aLease, 300)
		s.write(topics.Costs, ws, late)
		s.settle(ofLease, 20)
		if w := s.audit(); w.Broken != 0 {
			t.Errorf("the audit: %+v", w)
		}
		if p := s.prove(nil); !p.FoldAgrees || sums(p) != [4]int64{20, 0, 2, 2} {
			t.Errorf("%v: %v", sums(p), p.Verdict)
		}
	})
}
