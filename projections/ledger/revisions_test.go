package ledger_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/projections/ledger"
	"github.com/rateguard/rateguard/projections/outcome"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

var at = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)

func end(kind rateguardv1.OutcomeKind, revision uint32, cost *int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{
		ReservationId: "r/1", Revision: revision, Kind: kind, CostNanoUsd: cost,
		Subject: &rateguardv1.Subject{RequestId: "r", Attempt: 1, OpenedAtUnixUs: at.UnixMicro()},
	}
}

func settled(cost int64) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_CostSettled{
		CostSettled: &rateguardv1.CostSettled{Outcome: end(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, 1, &cost)},
	}}
}

func unpriced() *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_CostSettled{
		CostSettled: &rateguardv1.CostSettled{Outcome: end(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, 1, nil)},
	}}
}

func voided() *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_ReservationVoided{
		ReservationVoided: &rateguardv1.ReservationVoided{Outcome: end(rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, 1, nil)},
	}}
}

func closed(cost int64) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{
		ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: "p", Ends: []*rateguardv1.Outcome{
			end(rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, 1, &cost),
		}},
	}}
}

func corrected(revision uint32, cost int64) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_CostCorrected{
		CostCorrected: &rateguardv1.CostCorrected{Outcome: end(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, revision, &cost), Reason: "reprice"},
	}}
}

func TestReservationHasOneCostWhateverComes(t *testing.T) {
	type row struct {
		Revision int32
		Kind     string
		Delta    int64
		Reason   string
	}
	const late = "a later end of the same reservation"
	tests := []struct {
		name   string
		events []*rateguardv1.Event
		want   []row
	}{
		{"one end", []*rateguardv1.Event{settled(5)}, []row{{1, "settled", 5, ""}}},
		{"the same end twice", []*rateguardv1.Event{settled(5), settled(5)}, []row{{1, "settled", 5, ""}}},
		{"expired by a closing, settled late", []*rateguardv1.Event{closed(9), settled(5)}, []row{{1, "expired", 9, ""}, {2, "settled", -4, late}}},
		{"settled, then a closing that did not see it", []*rateguardv1.Event{settled(5), closed(9)}, []row{{1, "settled", 5, ""}, {2, "expired", 4, late}}},
		{"voided costs nothing", []*rateguardv1.Event{voided(), voided()}, []row{{1, "voided", 0, ""}}},
		{"unpriced, then repriced", []*rateguardv1.Event{unpriced(), corrected(2, 7)}, []row{{1, "settled", 0, ""}, {2, "settled", 7, "reprice"}}},
		{
			"correction of a corrected one",
			[]*rateguardv1.Event{settled(5), corrected(2, 7), corrected(3, 6)},
			[]row{{1, "settled", 5, ""}, {2, "settled", 2, "reprice"}, {3, "settled", -1, "reprice"}},
		},
		{
			"two corrections with one number",
			[]*rateguardv1.Event{settled(5), corrected(2, 7), corrected(2, 6)},
			[]row{{1, "settled", 5, ""}, {2, "settled", 2, "reprice"}, {3, "settled", -1, "reprice"}},
		},
		{"correction without an end", []*rateguardv1.Event{corrected(2, 7)}, []row{{2, "settled", 7, "reprice"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			last := map[outcome.Key]ledger.Row{}
			var got []row
			for _, e := range test.events {
				for _, r := range ledger.Project(last, runner.Record{Workspace: "ws", Event: e}) {
					got = append(got, row{r.Revision, r.Kind, r.DeltaNano, r.Reason})
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

const leaseID = "l/lease"

func lease(kind rateguardv1.OutcomeKind, cost int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{
		ReservationId: leaseID, Revision: 1, Kind: kind, CostNanoUsd: &cost, Lease: true, Estimated: cost > 0,
		Subject: &rateguardv1.Subject{RequestId: "l", OpenedAtUnixUs: at.UnixMicro(), PolicyVersion: 4},
		Holds:   []*rateguardv1.Hold{{BudgetId: "b", AmountNanoUsd: 100}},
	}
}

func leaseEnded(left int64) *rateguardv1.Event {
	o := lease(rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, 0)
	o.Holds[0].AmountNanoUsd = left
	return &rateguardv1.Event{OccurredAtUnixUs: at.Add(time.Minute).UnixMicro(), ProducerId: "p", Body: &rateguardv1.Event_LeaseEnded{
		LeaseEnded: &rateguardv1.LeaseEnded{Outcome: o},
	}}
}

func closedLease(kind rateguardv1.OutcomeKind, cost int64, others ...*rateguardv1.Outcome) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{
		ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: "p", Ends: append(others, lease(kind, cost))},
	}}
}

// settledOf is the end of a reservation of the lease.
func settledOf(held, cost int64) *rateguardv1.Event {
	e := settled(cost)
	e.OccurredAtUnixUs, e.ProducerId = at.Add(time.Minute).UnixMicro(), "p"
	o := e.GetCostSettled().GetOutcome()
	o.LeaseId, o.Holds = leaseID, []*rateguardv1.Hold{{BudgetId: "b", AmountNanoUsd: held}}
	return e
}

// byAnother is such an end that the next process on the folder writes.
func byAnother(e *rateguardv1.Event) *rateguardv1.Event {
	e.GetCostSettled().GetOutcome().OpenedBy = e.GetProducerId()
	return e
}

// taken is the opening of a reservation of the lease, which shows when it is shipped at last.
func taken(bound int64) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.Add(time.Minute).UnixMicro(), ProducerId: "p", Body: &rateguardv1.Event_ReservationOpened{
		ReservationOpened: &rateguardv1.ReservationOpened{
			ReservationId: "r/1", LeaseId: leaseID, BoundNanoUsd: &bound, Holds: []*rateguardv1.Hold{{BudgetId: "b", AmountNanoUsd: bound}},
		},
	}}
}

func firstOf(e *rateguardv1.Event) *rateguardv1.Outcome {
	if list, _, _ := outcome.Of(e); len(list) > 0 {
		return list[0]
	}
	return nil
}

func TestALeaseHasARowOnlyWhereItIsCharged(t *testing.T) {
	type row struct {
		ID       string
		Revision int32
		Kind     string
		Cost     int64
		Delta    int64
		Reason   string
	}
	const (
		late      = "a later end of the same reservation"
		told      = "a reservation that was taken from the lease ended later"
		returned  = "the rest of the lease was given back later"
		isExpired = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED
		isVoided  = rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED
	)
	charge := row{leaseID, 1, "expired", 100, 100, ""}
	for _, test := range []struct {
		name   string
		events []*rateguardv1.Event
		want   []row
	}{
		{"given back", []*rateguardv1.Event{taken(30), settledOf(30, 5), leaseEnded(70)}, []row{{"r/1", 1, "settled", 5, 5, ""}}},
		{"closed, and nothing can have been taken", []*rateguardv1.Event{closedLease(isVoided, 0)}, nil},
		{"charged", []*rateguardv1.Event{closedLease(isExpired, 100), taken(30)}, []row{charge}},
		{"charged and given back", []*rateguardv1.Event{closedLease(isExpired, 100), leaseEnded(100), leaseEnded(100)}, []row{charge, {leaseID, 2, "voided", 0, -100, returned}}},
		{
			"a reservation behind the charge",
			[]*rateguardv1.Event{closedLease(isExpired, 100), taken(30), settledOf(30, 5), leaseEnded(70)},
			[]row{charge, {leaseID, 2, "expired", 70, -30, told}, {"r/1", 1, "settled", 5, 5, ""}, {leaseID, 3, "voided", 0, -70, returned}},
		},
		{
			"one that ends behind its lease, and says so twice",
			[]*rateguardv1.Event{closedLease(isExpired, 100), taken(30), leaseEnded(70), settledOf(30, 5), settledOf(30, 5)},
			[]row{charge, {leaseID, 2, "expired", 30, -70, returned}, {leaseID, 3, "voided", 0, -30, told}, {"r/1", 1, "settled", 5, 5, ""}},
		},
		{
			"one that the next process on the folder ends",
			[]*rateguardv1.Event{closedLease(isExpired, 100), taken(30), byAnother(settledOf(30, 5))},
			[]row{charge, {leaseID, 2, "expired", 70, -30, told}, {"r/1", 1, "settled", 5, 5, ""}},
		},
		{
			"one of more than the charge",
			[]*rateguardv1.Event{closedLease(isExpired, 100), taken(130), settledOf(130, 5)},
			[]row{charge, {leaseID, 2, "voided", 0, -100, told}, {"r/1", 1, "settled", 5, 5, ""}},
		},
		{
			"one that the closing knew",
			[]*rateguardv1.Event{closedLease(isExpired, 100, settledOf(30, 9).GetCostSettled().GetOutcome()), taken(30), settledOf(30, 5)},
			[]row{{"r/1", 1, "settled", 9, 9, ""}, charge, {"r/1", 2, "settled", 5, -4, late}},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			last := map[outcome.Key]ledger.Row{}
			var got []row
			behind := false
			for _, e := range test.events {
				opener := firstOf(e).GetOpenedBy()
				indexes := map[int32]bool{}
				for _, r := range ledger.Project(last, runner.Record{Workspace: "ws", Event: e, AfterClose: behind && opener == ""}) {
					if indexes[r.Index] {
						t.Errorf("two rows of one record have index %d", r.Index)
					}
					indexes[r.Index] = true
					got = append(got, row{r.ReservationID, r.Revision, r.Kind, outcome.Value(r.CostNano), r.DeltaNano, r.Reason})
					if (r.Reason == told || r.Reason == returned) && (r.RequestID != "l" || r.PolicyVersion != 4 || !r.OpenedAt.Equal(at) || !r.OccurredAt.Equal(at.Add(time.Minute)) ||
						r.ProducerID != "p" || r.Estimated != (outcome.Value(r.CostNano) > 0) || len(r.Holds) != 1) {
						t.Errorf("the next revision of the lease is %+v", r)
					}
				}
				behind = behind || e.GetProducerClosed() != nil
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
		})
	}
}

// What a closing ended, or what came behind it, is apart, and stays so: its request's row may say anything. What a producer ended itself is not, whatever comes later.
func TestApartIsWhatAClosingEndedOrWhatCameBehindIt(t *testing.T) {
	for _, test := range []struct {
		name   string
		events []*rateguardv1.Event
		behind bool
		want   []bool
	}{
		{"settled", []*rateguardv1.Event{settled(5), corrected(2, 7)}, false, []bool{false, false}},
		{"settled, then a closing that did not see it", []*rateguardv1.Event{settled(5), closed(9)}, false, []bool{false, false}},
		{"closed", []*rateguardv1.Event{closed(9)}, false, []bool{true}},
		{"closed, settled late and corrected", []*rateguardv1.Event{closed(9), settled(5), corrected(3, 7)}, false, []bool{true, true, true}},
		{"behind a closing", []*rateguardv1.Event{settled(5)}, true, []bool{true}},
		{"a charged lease that gets smaller", []*rateguardv1.Event{closedLease(rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, 100), settledOf(30, 5)}, true, []bool{true, true, true}},
	} {
		t.Run(test.name, func(t *testing.T) {
			last := map[outcome.Key]ledger.Row{}
			var got []bool
			for _, e := range test.events {
				for _, r := range ledger.Project(last, runner.Record{Workspace: "ws", Event: e, AfterClose: test.behind}) {
					got = append(got, r.Apart)
				}
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("apart (-want +got):\n%s", diff)
			}
		})
	}
}
