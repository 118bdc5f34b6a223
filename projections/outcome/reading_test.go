package outcome_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/projections/outcome"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

const (
	settled = rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED
	voided  = rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED
	expired = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED
)

var at = time.Date(2026, 11, 17, 10, 0, 0, 0, time.UTC)

func nano(n int64) *int64 { return &n }

func end(kind rateguardv1.OutcomeKind, cost *int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{ReservationId: "r/1", Revision: 1, Kind: kind, CostNanoUsd: cost}
}

func settle(o *rateguardv1.Outcome) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: o}}}
}

func leaseEnded(o *rateguardv1.Outcome) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{Outcome: o}}}
}

func open(id string, bound int64, holds ...*rateguardv1.Hold) *rateguardv1.Event {
	return &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_ReservationOpened{
		ReservationOpened: &rateguardv1.ReservationOpened{ReservationId: id, BoundNanoUsd: &bound, Holds: holds},
	}}
}

func TestOutcomesOfEachEvent(t *testing.T) {
	o, p := end(settled, nano(1)), end(expired, nano(2))
	for name, test := range map[string]struct {
		event      *rateguardv1.Event
		want       []*rateguardv1.Outcome
		correction bool
		reason     string
	}{
		"settled":   {event: settle(o), want: []*rateguardv1.Outcome{o}},
		"voided":    {event: &rateguardv1.Event{Body: &rateguardv1.Event_ReservationVoided{ReservationVoided: &rateguardv1.ReservationVoided{Outcome: o}}}, want: []*rateguardv1.Outcome{o}},
		"expired":   {event: &rateguardv1.Event{Body: &rateguardv1.Event_ReservationExpired{ReservationExpired: &rateguardv1.ReservationExpired{Outcome: o}}}, want: []*rateguardv1.Outcome{o}},
		"lease":     {event: leaseEnded(o), want: []*rateguardv1.Outcome{o}},
		"closed":    {event: &rateguardv1.Event{Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{Ends: []*rateguardv1.Outcome{o, p}}}}, want: []*rateguardv1.Outcome{o, p}},
		"corrected": {&rateguardv1.Event{Body: &rateguardv1.Event_CostCorrected{CostCorrected: &rateguardv1.CostCorrected{Outcome: o, Reason: "why"}}}, []*rateguardv1.Outcome{o}, true, "why"},
		"opened":    {event: open("r/1", 1)},
		"nothing":   {event: &rateguardv1.Event{}},
	} {
		list, correction, reason := outcome.Of(test.event)
		same := len(list) == len(test.want)
		for i := range list {
			same = same && list[i] == test.want[i]
		}
		if !same || correction != test.correction || reason != test.reason {
			t.Errorf("%s: got %v, %v, %q", name, list, correction, reason)
		}
	}
}

func TestWhatCannotBeCounted(t *testing.T) {
	const most = 100_000 * 1_000_000_000
	late := settle(end(settled, nano(1)))
	late.OccurredAtUnixUs = math.MaxInt64
	early := open("r/1", 1)
	early.OccurredAtUnixUs = 0
	held := func(amount int64) *rateguardv1.Outcome {
		o := end(settled, nano(1))
		o.Holds = []*rateguardv1.Hold{{BudgetId: "b", AmountNanoUsd: amount}}
		return o
	}
	nameless, revised := end(settled, nano(1)), end(settled, nano(1))
	nameless.ReservationId, revised.Revision = "", 1<<20+1
	for name, test := range map[string]struct {
		event *rateguardv1.Event
		want  string // in the error; empty: none
	}{
		"a cost":                    {settle(end(settled, nano(most))), ""},
		"no price":                  {settle(end(settled, nil)), ""},
		"an opening":                {open("r/1", most), ""},
		"nothing to count, no time": {&rateguardv1.Event{}, ""},
		"a cost above the bound":    {settle(end(settled, nano(most+1))), "out of range"},
		"a cost below zero":         {settle(end(settled, nano(-1))), "out of range"},
		"an unknown kind":           {settle(end(99, nano(1))), "unknown kind 99"},
		"no kind":                   {settle(end(0, nano(1))), "unknown kind 0"},
		"the end of a lease":        {leaseEnded(end(voided, nano(0))), ""},
		"a lease without an id":     {leaseEnded(nameless), "no reservation id"},
		"a lease below zero":        {leaseEnded(held(-1)), "out of range"},
		"no reservation":            {settle(nameless), "no reservation id"},
		"a wild revision":           {settle(revised), "out of range"},
		"no outcome":                {settle(nil), "no reservation id"},
		"a hold below zero":         {settle(held(-1)), `hold of -1 nano-USD on budget "b"`},
		"an opening of nothing":     {open("", 1), "no id"},
		"a bound above the bound":   {open("r/1", most+1), "out of range"},
		"an opening's hold":         {open("r/1", 1, &rateguardv1.Hold{AmountNanoUsd: most + 1}), "out of range"},
		"a time far ahead":          {late, "time"},
		"an opening without a time": {early, "time"},
		"one of a closing's ends": {&rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{
			ProducerClosed: &rateguardv1.ProducerClosed{Ends: []*rateguardv1.Outcome{end(expired, nano(1)), end(expired, nano(-1))}},
		}}, "outcome 1"},
	} {
		err := outcome.Check(test.event)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s: got %v", name, err)
		case test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: got %v, want an error with %q", name, err, test.want)
		}
	}
}

func TestCostOfAnOutcome(t *testing.T) {
	for name, test := range map[string]struct {
		outcome *rateguardv1.Outcome
		kind    string
		want    *int64
	}{
		"settled":           {end(settled, nano(7)), "settled", nano(7)},
		"settled, unpriced": {end(settled, nil), "settled", nil},
		"expired, unpriced": {end(expired, nil), "expired", nil},
		"voided":            {end(voided, nil), "voided", nano(0)},
	} {
		if diff := cmp.Diff(test.want, outcome.Cost(test.outcome)); diff != "" || outcome.Kind(test.outcome) != test.kind {
			t.Errorf("%s: kind %q, cost (-want +got):\n%s", name, outcome.Kind(test.outcome), diff)
		}
	}
}

func TestValuesFitTheStores(t *testing.T) {
	long := strings.Repeat("x", 1000)
	got := outcome.Holds([]*rateguardv1.Hold{
		{BudgetId: "b\x00", BudgetGeneration: math.MaxUint64, Balance: long, PeriodStartUnixUs: at.UnixMicro(), AmountNanoUsd: 3},
		{BudgetId: "b", PeriodStartUnixUs: math.MinInt64},
	})
	if len(got) != 2 || got[0].BudgetID != "b\uFFFD" || got[0].BudgetGeneration != math.MaxInt64 || len(got[0].Balance) > 400 ||
		!got[0].PeriodStart.Equal(at) || got[0].AmountNano != 3 || !got[1].PeriodStart.Equal(time.Unix(0, 0)) {
		t.Errorf("holds: %+v", got)
	}
	if r := outcome.Revision(&rateguardv1.Outcome{}); r != 1 {
		t.Errorf("revision of none: %d", r)
	}
	if n := outcome.Attempt(&rateguardv1.Subject{Attempt: math.MaxUint32}); n != 1<<20 {
		t.Errorf("attempt: %d", n)
	}
	if a, b := outcome.KeyOf("ws", "r\x00"), outcome.KeyOf("ws", "r\uFFFD"); a != b {
		t.Errorf("keys: %+v, %+v", a, b)
	}
	e := &rateguardv1.Event{OccurredAtUnixUs: at.UnixMicro()}
	for us, want := range map[int64]time.Time{at.Add(-time.Hour).UnixMicro(): at.Add(-time.Hour), 0: at, math.MaxInt64: at} {
		if got := outcome.OpenedAt(e, &rateguardv1.Subject{OpenedAtUnixUs: us}); !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("opened at %d: got %v, want %v", us, got, want)
		}
	}
}
