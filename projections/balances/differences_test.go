package balances_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/projections/balances"
	"github.com/rateguard/rateguard/projections/outcome"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

var (
	at    = time.Date(2026, 11, 17, 10, 0, 0, 0, time.UTC)
	month = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	none  = time.Unix(0, 0).UTC()
)

func holds() []*rateguardv1.Hold {
	return []*rateguardv1.Hold{{BudgetId: "b", BudgetGeneration: 2, Balance: "k", PeriodStartUnixUs: at.UnixMicro(), AmountNanoUsd: 8}}
}

func opened() *rateguardv1.Event {
	bound := int64(10)
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_ReservationOpened{
		ReservationOpened: &rateguardv1.ReservationOpened{ReservationId: "r/1", BoundNanoUsd: &bound, Holds: holds()},
	}}
}

func settled(cost *int64) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.AddDate(0, 1, 0).UnixMicro(), Body: &rateguardv1.Event_CostSettled{
		CostSettled: &rateguardv1.CostSettled{Outcome: &rateguardv1.Outcome{
			ReservationId: "r/1", Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, CostNanoUsd: cost, Holds: holds(),
			Subject: &rateguardv1.Subject{OpenedAtUnixUs: at.UnixMicro()},
		}},
	}}
}

func nano(n int64) *int64 { return &n }

func TestSumsHoldTheDifferencesOfAbsoluteOutcomes(t *testing.T) {
	type sum struct{ Posted, Reserved, BudgetReserved, Open, Ended, Unpriced int64 }
	tests := []struct {
		name   string
		events []*rateguardv1.Event
		want   sum
	}{
		{"open", []*rateguardv1.Event{opened()}, sum{Reserved: 10, BudgetReserved: 8, Open: 1}},
		{"opened twice", []*rateguardv1.Event{opened(), opened()}, sum{Reserved: 10, BudgetReserved: 8, Open: 1}},
		{"ended", []*rateguardv1.Event{opened(), settled(nano(4))}, sum{Posted: 4, Ended: 1}},
		{"ended twice", []*rateguardv1.Event{opened(), settled(nano(4)), settled(nano(4))}, sum{Posted: 4, Ended: 1}},
		{"corrected", []*rateguardv1.Event{opened(), settled(nano(9)), settled(nano(4))}, sum{Posted: 4, Ended: 1}},
		{"unpriced", []*rateguardv1.Event{opened(), settled(nil)}, sum{Ended: 1, Unpriced: 1}},
		{"unpriced, then priced", []*rateguardv1.Event{opened(), settled(nil), settled(nano(4))}, sum{Posted: 4, Ended: 1}},
		{"priced, then unpriced", []*rateguardv1.Event{opened(), settled(nano(4)), settled(nil)}, sum{Ended: 1, Unpriced: 1}},
		{"ended without an opening", []*rateguardv1.Event{settled(nano(4)), opened()}, sum{Posted: 4, Ended: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			held := map[outcome.Key]balances.Reservation{}
			got := map[balances.Sum]sum{}
			for _, e := range test.events {
				for _, c := range balances.Project(held, runner.Record{Workspace: "ws", Event: e}) {
					s := got[c.Sum]
					got[c.Sum] = sum{s.Posted + c.PostedNano, s.Reserved + c.ReservedNano, 0, s.Open + c.Open, s.Ended + c.Ended, s.Unpriced + c.Unpriced}
				}
			}
			all := test.want
			all.BudgetReserved = 0
			budget := all
			budget.Reserved = test.want.BudgetReserved
			want := map[balances.Sum]sum{
				{Workspace: "ws", Scope: balances.ScopeTotal, PeriodStart: none}:                                                  all,
				{Workspace: "ws", Scope: balances.ScopeMonth, PeriodStart: month}:                                                 all,
				{Workspace: "ws", Scope: balances.ScopeBudget, BudgetID: "b", BudgetGeneration: 2, Balance: "k", PeriodStart: at}: budget,
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("sums (-want +got):\n%s", diff)
			}
		})
	}
}
