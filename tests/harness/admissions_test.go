package harness_test

import (
	"fmt"
	"strings"
	"testing"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/tests/harness"
)

// listener is a test that only notes its errors.
type listener struct {
	testing.TB
	errors []string
}

func (l *listener) Helper() {}

func (l *listener) Errorf(format string, args ...any) {
	l.errors = append(l.errors, fmt.Sprintf(format, args...))
}

// script writes the records of producers.
type script struct {
	*harness.Admissions
	sequence map[string]uint64
	// leases are what reservations were taken from.
	leases map[string]string
}

func (s *script) write(producer string, e *rateguardv1.Event) {
	s.sequence[producer]++
	e.ProducerId, e.Sequence = producer, s.sequence[producer]
	s.Take(e)
}

func hold(budget string, amount, posted, reserved int64) *rateguardv1.Hold {
	return &rateguardv1.Hold{BudgetId: budget, AmountNanoUsd: amount, PostedNanoUsd: posted, ReservedNanoUsd: reserved, LimitNanoUsd: 1000}
}

func lease() *rateguardv1.ReservationOpened {
	return &rateguardv1.ReservationOpened{ReservationId: "l/lease", Lease: true, Epoch: 1, Op: 1, Holds: []*rateguardv1.Hold{hold("b", 500, 0, 500)}}
}

func taken(id string, amount int64) *rateguardv1.ReservationOpened {
	return &rateguardv1.ReservationOpened{ReservationId: id, LeaseId: "l/lease", Epoch: 1, BoundNanoUsd: &amount, Holds: []*rateguardv1.Hold{hold("b", amount, 0, 500)}}
}

func granted(id string, op uint64, h *rateguardv1.Hold) *rateguardv1.ReservationOpened {
	return &rateguardv1.ReservationOpened{ReservationId: id, Epoch: 1, Op: op, BoundNanoUsd: &h.AmountNanoUsd, Holds: []*rateguardv1.Hold{h}}
}

func outcome(id string, held, cost int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{ReservationId: id, CostNanoUsd: &cost, Holds: []*rateguardv1.Hold{hold("b", held, 0, 0)}}
}

func (s *script) open(producer string, all ...*rateguardv1.ReservationOpened) {
	for _, o := range all {
		s.leases[o.GetReservationId()] = o.GetLeaseId()
		s.write(producer, &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: o}})
	}
}

func (s *script) settle(producer string, o *rateguardv1.Outcome) {
	o.LeaseId = s.leases[o.GetReservationId()]
	s.write(producer, &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: o}}})
}

func (s *script) end(producer string, left int64) {
	s.write(producer, &rateguardv1.Event{Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{Outcome: outcome("l/lease", left, 0)}}})
}

func (s *script) close(producer string, ends ...*rateguardv1.Outcome) {
	for _, o := range ends {
		o.LeaseId = s.leases[o.GetReservationId()]
	}
	s.write("closer", &rateguardv1.Event{Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{
		ProducerId: producer, Mark: s.sequence[producer], Ends: ends,
	}}})
}

func TestLeasesAreCheckedByAPlainReader(t *testing.T) {
	changed := func(change func(o *rateguardv1.ReservationOpened)) func(s *script) {
		return func(s *script) {
			o := taken("r/1", 200)
			change(o)
			s.open("p", lease(), o)
		}
	}
	for _, test := range []struct {
		name     string
		write    func(s *script)
		says     string // in the one error; empty: there is none
		requests int
		posted   int64
		left     int
	}{
		{"open", func(s *script) { s.open("p", lease(), taken("r/1", 200)) }, "", 1, 0, 2},
		{"given back", func(s *script) {
			s.open("p", lease(), taken("r/1", 200))
			s.settle("p", outcome("r/1", 200, 50))
			s.end("p", 300)
		}, "", 1, 50, 0},
		{"charged, and then some of it told", func(s *script) {
			s.open("p", lease())
			s.close("p", outcome("l/lease", 500, 500))
			s.open("p", taken("r/1", 200))
			s.settle("p", outcome("r/1", 200, 50))
		}, "", 1, 350, 0},
		{"charged, and then all of it told", func(s *script) {
			s.open("p", lease())
			s.close("p", outcome("l/lease", 500, 500))
			s.open("p", taken("r/1", 200))
			s.settle("p", outcome("r/1", 200, 50))
			s.end("p", 300)
		}, "", 1, 50, 0},
		{"charged, and one opened whose end is lost", func(s *script) {
			s.open("p", lease())
			s.close("p", outcome("l/lease", 500, 500))
			s.open("p", taken("r/1", 200))
		}, "", 1, 500, 0},
		{"charged, and the rest told before one that was taken", func(s *script) {
			s.open("p", lease())
			s.close("p", outcome("l/lease", 500, 500))
			s.open("p", taken("r/1", 200))
			s.end("p", 300)
		}, "", 1, 200, 0},
		{"charged but for one that the closing knew", func(s *script) {
			s.open("p", lease(), taken("r/1", 200))
			s.close("p", outcome("l/lease", 300, 300), outcome("r/1", 200, 200))
		}, "", 1, 500, 0},
		{"a grant beside an open lease", func(s *script) {
			s.open("p", lease(), taken("r/1", 200))
			s.open("q", granted("r/2", 2, hold("b", 100, 0, 600)))
		}, "", 2, 0, 3},
		{"a grant that saw less than what is left of an open lease", func(s *script) {
			s.open("p", lease(), taken("r/1", 200))
			s.settle("p", outcome("r/1", 200, 50))
			s.open("q", granted("r/2", 2, hold("b", 100, 50, 399)))
		}, "are 450 at least", 2, 50, 2},
		{"a grant that saw less than what reservations of a lease cost", func(s *script) {
			s.open("p", lease(), taken("r/1", 200), taken("r/2", 100))
			s.settle("p", outcome("r/1", 200, 50))
			s.end("p", 200)
			s.open("q", granted("r/3", 2, hold("b", 100, 0, 249)))
		}, "are 250 at least", 3, 50, 2},
		{"a grant that saw less than what was charged", func(s *script) {
			s.open("p", lease())
			s.close("p", outcome("l/lease", 500, 500))
			s.open("q", granted("r/3", 2, hold("b", 100, 0, 599)))
		}, "are 600 at least", 1, 500, 1},
		{"a lease beyond the limit", func(s *script) {
			o := lease()
			o.Holds[0].PostedNanoUsd = 501
			s.open("p", o)
		}, "was admitted at 501 posted", 0, 0, 1},
		{"a lease with another grant's number", func(s *script) { s.open("p", lease(), granted("r/2", 1, hold("b", 100, 0, 600))) }, "are both grant 1", 1, 0, 2},
		{"more than it holds", func(s *script) { s.open("p", lease(), taken("r/1", 300), taken("r/2", 201)) }, "1 more were taken", 2, 0, 3},
		{"no such lease", func(s *script) { s.open("p", taken("r/1", 300)) }, "was not opened", 1, 0, 1},
		{"another producer", func(s *script) { s.open("p", lease()); s.open("q", taken("r/1", 300)) }, "and of p", 1, 0, 2},
		{"behind its end", func(s *script) { s.open("p", lease()); s.end("p", 500); s.open("p", taken("r/1", 300)) }, "behind its end", 1, 0, 1},
		{"before its opening", func(s *script) { s.open("p", taken("r/1", 300), lease()) }, "before its opening", 1, 0, 2},
		{"a number of its own", changed(func(o *rateguardv1.ReservationOpened) { o.Op = 2 }), "is grant 2", 1, 0, 2},
		{"another epoch", changed(func(o *rateguardv1.ReservationOpened) { o.Epoch = 2 }), "of epoch 2", 1, 0, 2},
		{"less than its bound", changed(func(o *rateguardv1.ReservationOpened) { o.Holds[0].AmountNanoUsd = 100 }), "its bound is 200", 1, 0, 2},
		{"another budget", changed(func(o *rateguardv1.ReservationOpened) { o.Holds[0].PeriodStartUnixUs = 1 }), "which holds false", 1, 0, 2},
		{"an end that does not name it", func(s *script) {
			s.open("p", lease(), taken("r/1", 200))
			delete(s.leases, "r/1")
			s.settle("p", outcome("r/1", 200, 50))
		}, "and its end says", 1, 50, 1},
		{"a budget more", changed(func(o *rateguardv1.ReservationOpened) { o.Holds = append(o.Holds, hold("b", 200, 0, 0)) }), "holds of 2 budgets", 1, 0, 2},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := &listener{TB: t}
			s := &script{harness.NewAdmissions(l), map[string]uint64{}, map[string]string{}}
			test.write(s)
			if got := s.Check(); got != test.requests {
				t.Errorf("%d requests were admitted, want %d", got, test.requests)
			}
			if posted, open := s.Posted("b"); posted != test.posted || open != test.left {
				t.Errorf("%d posted and %d open, want %d and %d", posted, open, test.posted, test.left)
			}
			errors := strings.Join(l.errors, "\n")
			if test.says == "" && errors != "" || !strings.Contains(errors, test.says) {
				t.Errorf("it found %q, want %q", errors, test.says)
			}
		})
	}
}
