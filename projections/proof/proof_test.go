package proof_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/projections/proof"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

func sums(p *proof.Proof) [4]int64 {
	return [4]int64{int64(p.Sums.Posted), int64(p.Sums.Reserved), p.Sums.Opened, p.Sums.Ended}
}

func ids(p *proof.Proof) string {
	var all []string
	for _, r := range p.Data {
		all = append(all, r.ID)
	}
	return strings.Join(all, " ")
}

// neighbour returns another workspace of the partition.
func neighbour() string {
	for n := 2; ; n++ {
		if other := fmt.Sprintf("ws_%d", n); hash.Partition([]byte(other), partitions) == hash.Partition([]byte(ws), partitions) {
			return other
		}
	}
}

// Every case is a log that the fold has a rule for; what was true is known by hand, and the fold has to show the same.
func TestSumsAreThoseOfTheFold(t *testing.T) {
	one, two, three := grant{producer: "p", id: id(1), amount: 100}, grant{producer: "p", id: id(2), amount: 50}, grant{producer: "q", id: id(3), amount: 10}
	for _, test := range []struct {
		name  string
		write func(s *script)
		want  [4]int64
		list  string
	}{
		{"open and settled", func(s *script) { s.open(one); s.open(two); s.settle(one, 70) }, [4]int64{70, 50, 2, 1}, "r1/1 r2/1"},
		{"a repeat counts once", func(s *script) {
			first := s.numbered("p", s.opening(one))
			s.write(topics.Costs, ws, first)
			s.write(topics.Costs, ws, first)
			s.settle(one, 70)
			s.write(topics.Costs, ws, first)
		}, [4]int64{70, 0, 1, 1}, "r1/1"},
		{"a record that fills a hole", func(s *script) {
			late := s.numbered("p", s.opening(one))
			s.open(two)
			s.write(topics.Costs, ws, late)
		}, [4]int64{0, 150, 2, 0}, "r1/1 r2/1"},
		{"a correction takes the difference", func(s *script) { s.open(one); s.settle(one, 70); s.correct(one, 70, 30) }, [4]int64{30, 0, 1, 1}, "r1/1"},
		{"a closing ends", func(s *script) {
			s.open(one)
			s.open(three)
			s.close("p", 1, s.outcome(one, 100))
		}, [4]int64{100, 10, 2, 1}, "r1/1 r3/1"},
		{"a closing with another mark ends nothing", func(s *script) {
			s.open(one)
			s.open(two)
			s.close("p", 1, s.outcome(one, 100))
		}, [4]int64{0, 150, 2, 0}, "r1/1 r2/1"},
		{"a second closing ends nothing", func(s *script) {
			s.open(one)
			s.open(three)
			s.close("p", 1, s.outcome(one, 100))
			s.close("p", 1, s.outcome(three, 10))
		}, [4]int64{100, 10, 2, 1}, "r1/1 r3/1"},
		{"the late end of what a closing ended is a correction", func(s *script) {
			s.open(one)
			s.close("p", 1, s.outcome(one, 100))
			s.settle(one, 30)
		}, [4]int64{30, 0, 1, 1}, "r1/1"},
		{"the late opening of what a closing ended", func(s *script) {
			s.open(two)
			unshipped := grant{producer: "p", id: id(9)}
			s.close("p", 1, s.outcome(two, 50), s.outcome(unshipped, 5))
			s.open(grant{producer: "p", id: id(9), amount: 40})
		}, [4]int64{55, 0, 1, 2}, "r2/1 r9/1"},
		{"another workspace and another period", func(s *script) {
			s.open(one)
			other := s.opening(two)
			other.GetReservationOpened().GetHolds()[0].PeriodStartUnixUs++
			s.write(topics.Costs, ws, s.numbered("p", other))
			s.write(topics.Costs, neighbour(), &rateguardv1.Event{ProducerId: "z", Sequence: 1, Body: s.opening(two).GetBody()})
		}, [4]int64{0, 100, 1, 0}, "r1/1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newScript(t)
			s.policy(1, 1000, nil)
			test.write(s)
			p := s.prove(nil)
			if got := sums(p); got != test.want {
				t.Errorf("posted, reserved, opened, ended: got %v, want %v", got, test.want)
			}
			if got := ids(p); got != test.list {
				t.Errorf("listed %q, want %q", got, test.list)
			}
			if !p.FoldAgrees || p.Compared == 0 || !p.Log.Complete {
				t.Errorf("the fold agrees: %t, compared %d times: %v", p.FoldAgrees, p.Compared, p.Verdict)
			}
		})
	}
}

// What is asked for is an instant: later records, and later policies, are as if they were not there.
func TestAnInstantIsProvedAndNotTheEndOfTheLog(t *testing.T) {
	s := newScript(t)
	s.policy(1, 1000, nil)
	one, two := grant{producer: "p", id: id(1), amount: 100, posted: 7, reserved: 100, limit: 1000}, grant{producer: "p", id: id(2), amount: 50}
	s.open(one)
	s.open(two)
	then := s.now.Add(-time.Millisecond)
	s.settle(one, 70)
	s.correct(one, 70, 60)
	s.policy(2, 90, func(b *rateguardv1.Budget) { b.Enforcement = "soft" })
	late := s.now

	p := s.prove(func(q *proof.Question) { q.At = then })
	if got := sums(p); got != [4]int64{0, 150, 2, 0} || p.Budget.PolicyVersion != 1 || p.Sums.Available != 850 {
		t.Errorf("before the end: %v of policy %d, %s available", got, p.Budget.PolicyVersion, p.Sums.Available)
	}
	if o := p.Data[0].Opened; o == nil || o.Amount != 100 || o.Posted != 7 || o.Reserved != 100 || o.Limit != 1000 || o.Epoch != 1 || o.Op != 1 || o.PriceVersion != "v1" || len(p.Data[0].Ends) != 0 {
		t.Errorf("the opening: %+v, %v", o, p.Data[0].Ends)
	}
	p = s.prove(func(q *proof.Question) { q.At = late })
	if got := sums(p); got != [4]int64{60, 50, 2, 1} || p.Budget.PolicyVersion != 2 || p.Budget.Enforcement != "soft" || p.Sums.Available != 0 {
		t.Errorf("after it: %v of policy %d", got, p.Budget.PolicyVersion)
	}
	ends := p.Data[0].Ends
	if len(ends) != 2 || *ends[0].Cost != 70 || ends[0].By != "producer" || *ends[1].Cost != 60 || ends[1].By != "correction" || ends[1].Revision != 2 || ends[1].Reason == "" {
		t.Errorf("the ends: %+v", ends)
	}
	if text := strings.Join(p.Verdict, " "); !strings.Contains(text, "$0.00000002 above the limit") {
		t.Errorf("verdict: %s", text)
	}
	p = s.prove(func(q *proof.Question) { q.Most = 1 })
	if ids(p) != "r1/1" || p.Omitted != 1 {
		t.Errorf("the largest: %s, %d omitted", ids(p), p.Omitted)
	}
}

// Redis and the log have clocks of their own, and not everything that Redis held gets into the log.
func TestARefusalIsComparedWithTheLog(t *testing.T) {
	s := newScript(t)
	s.policy(1, 1000, nil)
	one := grant{producer: "p", id: id(1), amount: 900}
	s.open(one)
	opened := s.now.Add(-time.Second)
	for _, test := range []struct {
		name     string
		decision proof.Decision
		by       string
		proved   bool
		says     string
	}{
		{"by the log", proof.Decision{At: opened, Reserved: 900, Needed: 101, Limit: 1000, Denied: true}, proof.ByLog, true, "The refusal is proved"},
		{"by another clock", proof.Decision{At: opened.Add(-time.Second), Reserved: 900, Needed: 101, Limit: 1000, Denied: true}, proof.ByClocks, true, "1s from Redis' time"},
		{"by what is not in the log", proof.Decision{At: opened, Reserved: 950, Needed: 100, Limit: 1000, Denied: true}, proof.ByUnshipped, false, "The log does not show it"},
		{"admitted", proof.Decision{At: opened, Reserved: 900, Needed: 900, Limit: 1000}, "", false, "did not refuse it"},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.decision.Request = "r2"
			p := s.prove(func(q *proof.Question) { q.At, q.Refusal = test.decision.At, &test.decision })
			if p.Refusal.ExplainedBy != test.by || p.Refusal.Proved != test.proved {
				t.Errorf("explained by %q, proved %t", p.Refusal.ExplainedBy, p.Refusal.Proved)
			}
			if !slices.ContainsFunc(p.Verdict, func(line string) bool { return strings.Contains(line, test.says) }) {
				t.Errorf("the verdict lacks %q: %q", test.says, p.Verdict)
			}
		})
	}
}

func TestWhatCannotBeProvedIsAProblem(t *testing.T) {
	s := newScript(t)
	s.policy(1, 1000, nil)
	for _, test := range []struct {
		name   string
		change func(*proof.Question)
		status int
	}{
		{"before the first policy", func(q *proof.Question) { q.At = start }, 404},
		{"no such budget", func(q *proof.Question) { q.Budget = "other" }, 404},
		{"a balance of an undivided budget", func(q *proof.Question) { q.Balance = "key_1" }, 400},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := proof.Question{Workspace: ws, Budget: "month", At: s.now}
			test.change(&q)
			_, err := s.log.Prove(t.Context(), q)
			if p, ok := err.(*problem.Problem); !ok || p.Status != test.status { //nolint:errorlint // it is returned as it is
				t.Errorf("got %v", err)
			}
		})
	}
	s.policy(2, 1000, func(b *rateguardv1.Budget) { b.Scope = "key" })
	if _, err := s.log.Prove(t.Context(), proof.Question{Workspace: ws, Budget: "month", At: s.now}); err == nil {
		t.Error("a divided budget without a balance was proved")
	}
	s.open(grant{producer: "p", id: id(1), amount: 5, balance: "key_1"})
	s.open(grant{producer: "p", id: id(2), amount: 6, balance: "key_2"})
	if p := s.prove(func(q *proof.Question) { q.Balance = "key_2" }); p.Sums.Reserved != money.Nano(6) {
		t.Errorf("reserved %s", p.Sums.Reserved)
	}
}
