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

// reservation is one that was opened at a time, with its id and its bound.
type reservation struct {
	id    string
	at    time.Time
	bound int64
}

func (r reservation) opening() *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: r.at.UnixMicro(), Body: &rateguardv1.Event_ReservationOpened{
		ReservationOpened: &rateguardv1.ReservationOpened{ReservationId: r.id, BoundNanoUsd: &r.bound},
	}}
}

func (r reservation) outcome(kind rateguardv1.OutcomeKind, cost int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{
		ReservationId: r.id, Revision: 1, Kind: kind, CostNanoUsd: &cost,
		Subject: &rateguardv1.Subject{OpenedAtUnixUs: r.at.UnixMicro()},
	}
}

// end returns the end of the reservation, which is told at another time.
func (r reservation) end(told time.Time, cost int64) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: told.UnixMicro(), Body: &rateguardv1.Event_CostSettled{
		CostSettled: &rateguardv1.CostSettled{Outcome: r.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, cost)},
	}}
}

// TestACostBelongsToTheMonthOfItsOpening has two workspaces, an end and a correction told in later months, and a closing that
// ends reservations of two months at once.
func TestACostBelongsToTheMonthOfItsOpening(t *testing.T) {
	var (
		december = month.AddDate(0, 1, 0)
		last     = reservation{"last", december.Add(-time.Microsecond), 10}
		first    = reservation{"first", december, 20}
		crashed  = reservation{"crashed", december.Add(time.Hour), 40}
		stale    = reservation{"stale", at, 80}
	)
	held := map[outcome.Key]balances.Reservation{}
	type sum struct{ Posted, Reserved, Open, Ended int64 }
	got := map[balances.Sum]sum{}
	apply := func(ws string, events ...*rateguardv1.Event) {
		for _, e := range events {
			for _, c := range balances.Project(held, runner.Record{Workspace: ws, Event: e}) {
				s := got[c.Sum]
				got[c.Sum] = sum{s.Posted + c.PostedNano, s.Reserved + c.ReservedNano, s.Open + c.Open, s.Ended + c.Ended}
			}
		}
	}
	correction := &rateguardv1.Event{OccurredAtUnixUs: december.AddDate(0, 2, 0).UnixMicro(), Body: &rateguardv1.Event_CostCorrected{
		CostCorrected: &rateguardv1.CostCorrected{Outcome: last.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, 5)},
	}}
	closing := &rateguardv1.Event{OccurredAtUnixUs: december.AddDate(0, 0, 1).UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{
		ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: "p", Ends: []*rateguardv1.Outcome{
			crashed.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, 30), stale.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, 70),
		}},
	}}
	apply("ws", last.opening(), first.opening(), crashed.opening(), stale.opening())
	apply("ws", last.end(december.Add(time.Minute), 7), first.end(december.Add(time.Minute), 11), correction, closing)
	apply("other", last.opening()) // the same id is another reservation there

	want := map[balances.Sum]sum{
		{Workspace: "ws", Scope: balances.ScopeTotal, PeriodStart: none}:     {Posted: 5 + 11 + 30 + 70, Ended: 4},
		{Workspace: "ws", Scope: balances.ScopeMonth, PeriodStart: month}:    {Posted: 5 + 70, Ended: 2},
		{Workspace: "ws", Scope: balances.ScopeMonth, PeriodStart: december}: {Posted: 11 + 30, Ended: 2},
		{Workspace: "other", Scope: balances.ScopeTotal, PeriodStart: none}:  {Reserved: 10, Open: 1},
		{Workspace: "other", Scope: balances.ScopeMonth, PeriodStart: month}: {Reserved: 10, Open: 1},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sums (-want +got):\n%s", diff)
	}
}
