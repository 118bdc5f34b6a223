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
			last := map[outcome.Key]ledger.Last{}
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
