package balances_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/projections/balances"
	"github.com/rateguard/rateguard/projections/outcome"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

const (
	leaseID = "l/lease"
	byCost  = rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED
	voided  = rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED
	expired = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED
)

func ofBudget(amount int64) []*rateguardv1.Hold {
	h := holds()
	h[0].AmountNanoUsd = amount
	return h
}

func opening(o *rateguardv1.ReservationOpened) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: o}}
}

// leased is the opening of a lease of 100, taken that of a reservation of it.
func leased() *rateguardv1.Event {
	return opening(&rateguardv1.ReservationOpened{ReservationId: leaseID, Lease: true, Holds: ofBudget(100)})
}

func taken(id string, bound int64) *rateguardv1.Event {
	return opening(&rateguardv1.ReservationOpened{ReservationId: id, LeaseId: leaseID, BoundNanoUsd: &bound, Holds: ofBudget(bound)})
}

func outcomeOf(id string, kind rateguardv1.OutcomeKind, held, cost int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{
		ReservationId: id, Revision: 1, Kind: kind, CostNanoUsd: &cost, Holds: ofBudget(held), Lease: id == leaseID,
		Subject: &rateguardv1.Subject{OpenedAtUnixUs: at.UnixMicro()},
	}
}

func settling(id string, held, cost int64) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_CostSettled{
		CostSettled: &rateguardv1.CostSettled{Outcome: outcomeOf(id, byCost, held, cost)},
	}}
}

// settlingOf is the end of what was taken from the lease.
func settlingOf(id string, held, cost int64) *rateguardv1.Event {
	e := settling(id, held, cost)
	e.GetCostSettled().GetOutcome().LeaseId = leaseID
	return e
}

func leaseEnded(left int64) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_LeaseEnded{
		LeaseEnded: &rateguardv1.LeaseEnded{Outcome: outcomeOf(leaseID, voided, left, 0)},
	}}
}

func closing(ends ...*rateguardv1.Outcome) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: "p", Ends: ends}}}
}

func TestALeaseIsReservedOfItsBudgetsAndIsNoRequest(t *testing.T) {
	type sum struct{ Posted, Reserved, Open, Ended int64 }
	for _, test := range []struct {
		name          string
		events        []*rateguardv1.Event
		total, budget sum
	}{
		{"open", []*rateguardv1.Event{leased()}, sum{}, sum{0, 100, 1, 0}},
		{"a reservation of it", []*rateguardv1.Event{leased(), taken("r/1", 30)}, sum{0, 30, 1, 0}, sum{0, 100, 2, 0}},
		{"one that has ended", []*rateguardv1.Event{leased(), taken("r/1", 30), settling("r/1", 30, 10)}, sum{10, 0, 0, 1}, sum{10, 70, 1, 1}},
		{"given back", []*rateguardv1.Event{leased(), taken("r/1", 30), leaseEnded(70)}, sum{0, 30, 1, 0}, sum{0, 30, 1, 1}},
		{"charged", []*rateguardv1.Event{leased(), taken("r/1", 30), closing(outcomeOf(leaseID, expired, 70, 70))}, sum{70, 30, 1, 0}, sum{70, 30, 1, 1}},
		{
			"a reservation behind the charge",
			[]*rateguardv1.Event{leased(), closing(outcomeOf(leaseID, expired, 100, 100)), taken("r/1", 30)},
			sum{100, 0, 0, 0},
			sum{100, 0, 0, 1},
		},
		{
			"and its cost",
			[]*rateguardv1.Event{leased(), closing(outcomeOf(leaseID, expired, 100, 100)), taken("r/1", 30), settlingOf("r/1", 30, 10)},
			sum{80, 0, 0, 1},
			sum{80, 0, 0, 2},
		},
		{
			"and the rest given back",
			[]*rateguardv1.Event{leased(), closing(outcomeOf(leaseID, expired, 100, 100)), taken("r/1", 30), settlingOf("r/1", 30, 10), leaseEnded(70)},
			sum{10, 0, 0, 1},
			sum{10, 0, 0, 2},
		},
		{
			"the rest given back before the reservation has ended",
			[]*rateguardv1.Event{leased(), closing(outcomeOf(leaseID, expired, 100, 100)), taken("r/1", 30), leaseEnded(70)},
			sum{30, 0, 0, 0},
			sum{30, 0, 0, 1},
		},
		{
			"and the reservation's cost behind that, said again",
			[]*rateguardv1.Event{
				leased(), closing(outcomeOf(leaseID, expired, 100, 100)), taken("r/1", 30), leaseEnded(70), settlingOf("r/1", 30, 10), taken("r/1", 30), settlingOf("r/1", 30, 10),
			},
			sum{10, 0, 0, 1},
			sum{10, 0, 0, 2},
		},
		{
			"a reservation that the closing ended with its lease",
			[]*rateguardv1.Event{
				leased(), taken("r/1", 30), closing(outcomeOf(leaseID, expired, 70, 70), settlingOf("r/1", 30, 30).GetCostSettled().GetOutcome()), settlingOf("r/1", 30, 10),
			},
			sum{80, 0, 0, 1},
			sum{80, 0, 0, 2},
		},
		{
			"a reservation that the closing ended with its lease, and whose opening is not known",
			[]*rateguardv1.Event{leased(), closing(outcomeOf(leaseID, expired, 70, 70), settlingOf("r/1", 30, 30).GetCostSettled().GetOutcome())},
			sum{100, 0, 0, 1},
			sum{100, 0, 0, 2},
		},
		{
			"a reservation that fills a hole behind the end",
			[]*rateguardv1.Event{leased(), leaseEnded(70), taken("r/1", 30), settling("r/1", 30, 10)},
			sum{10, 0, 0, 1},
			sum{10, 0, 0, 2},
		},
		{"a lease that the log lacks", []*rateguardv1.Event{taken("r/1", 30), settling("r/1", 30, 10)}, sum{10, 0, 0, 1}, sum{10, 0, 0, 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			held := map[outcome.Key]balances.Reservation{}
			got := map[string]sum{balances.ScopeTotal: {}, balances.ScopeMonth: {}}
			for _, e := range test.events {
				for _, c := range balances.Project(held, runner.Record{Workspace: "ws", Event: e}) {
					s := got[c.Scope]
					got[c.Scope] = sum{s.Posted + c.PostedNano, s.Reserved + c.ReservedNano, s.Open + c.Open, s.Ended + c.Ended}
				}
			}
			want := map[string]sum{balances.ScopeTotal: test.total, balances.ScopeMonth: test.total, balances.ScopeBudget: test.budget}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("sums (-want +got):\n%s", diff)
			}
		})
	}
}
