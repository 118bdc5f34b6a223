package spend_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

const workspace = "ws_1"

func hold(amount int64, start time.Time) *rateguardv1.Hold {
	return &rateguardv1.Hold{BudgetId: "b1", BudgetGeneration: 1, PeriodStartUnixUs: start.UnixMicro(), AmountNanoUsd: amount}
}

func event(producer string, seq uint64, at time.Time, body *rateguardv1.Event) *rateguardv1.Event {
	body.ProducerId, body.Sequence, body.WorkspaceId, body.OccurredAtUnixUs = producer, seq, workspace, at.UnixMicro()
	return body
}

func opened(producer string, seq uint64, id string, bound int64) *rateguardv1.Event {
	return event(producer, seq, noon, &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
		ReservationId: id, BoundNanoUsd: proto.Int64(bound), Holds: []*rateguardv1.Hold{hold(bound, noon)},
		Subject: &rateguardv1.Subject{OpenedAtUnixUs: noon.UnixMicro()},
	}}})
}

func outcomeOf(id string, bound int64, cost *int64, estimated bool) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{
		ReservationId: id, Revision: 1, CostNanoUsd: cost, Estimated: estimated, BoundNanoUsd: proto.Int64(bound),
		Holds: []*rateguardv1.Hold{hold(bound, noon)}, Subject: &rateguardv1.Subject{OpenedAtUnixUs: noon.UnixMicro()},
	}
}

func settled(producer string, seq uint64, id string, bound, cost int64) *rateguardv1.Event {
	return event(producer, seq, noon, &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{
		Outcome: outcomeOf(id, bound, proto.Int64(cost), false),
	}}})
}

func voided(producer string, seq uint64, id string, bound int64) *rateguardv1.Event {
	return event(producer, seq, noon, &rateguardv1.Event{Body: &rateguardv1.Event_ReservationVoided{ReservationVoided: &rateguardv1.ReservationVoided{
		Outcome: outcomeOf(id, bound, proto.Int64(0), false),
	}}})
}

func corrected(seq uint64, id string, previous, cost *int64, previousEstimated bool) *rateguardv1.Event {
	o := outcomeOf(id, 100, cost, false)
	o.Revision = 2
	return event("control", seq, noon, &rateguardv1.Event{Body: &rateguardv1.Event_CostCorrected{CostCorrected: &rateguardv1.CostCorrected{
		Outcome: o, PreviousCostNanoUsd: previous, PreviousEstimated: previousEstimated,
	}}})
}

func closed(seq uint64, producer string, mark uint64, ends ...*rateguardv1.Outcome) *rateguardv1.Event {
	return event("closer", seq, noon, &rateguardv1.Event{Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{
		ProducerId: producer, Mark: mark, Ends: ends,
	}}})
}

func expired(id string, bound, cost int64) *rateguardv1.Outcome {
	return outcomeOf(id, bound, proto.Int64(cost), true)
}

// fold applies events to an empty state and returns it with the kinds of the notes.
func fold(events ...*rateguardv1.Event) (*rateguardv1.SpendState, string) {
	s := new(rateguardv1.SpendState)
	var kinds []string
	for _, e := range events {
		for _, n := range spend.Fold(s, e).Notes {
			kinds = append(kinds, n.Kind)
		}
	}
	return s, strings.Join(kinds, " ")
}

func TestFold(t *testing.T) {
	for name, test := range map[string]struct {
		events []*rateguardv1.Event
		want   *rateguardv1.Sums
		notes  string
	}{
		"open holds its bound": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100)},
			&rateguardv1.Sums{ReservedNanoUsd: 100, Opened: 1}, "",
		},
		"settled posts its cost and frees the bound": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), settled("p", 2, "r1", 100, 70)},
			&rateguardv1.Sums{PostedNanoUsd: 70, Opened: 1, Ended: 1}, "",
		},
		"a cost above the bound is posted whole": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), settled("p", 2, "r1", 100, 170)},
			&rateguardv1.Sums{PostedNanoUsd: 170, Opened: 1, Ended: 1}, "",
		},
		"voided costs nothing": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), voided("p", 2, "r1", 100)},
			&rateguardv1.Sums{Opened: 1, Ended: 1}, "",
		},
		"a repeat at another offset changes nothing": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), settled("p", 2, "r1", 100, 70), opened("p", 1, "r1", 100), settled("p", 2, "r1", 100, 70)},
			&rateguardv1.Sums{PostedNanoUsd: 70, Opened: 1, Ended: 1}, "",
		},
		"a hole is noted, applied over and filled once": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), opened("p", 4, "r3", 100), opened("p", 3, "r2", 100), opened("p", 3, "r2", 100), settled("p", 2, "r1", 100, 70)},
			&rateguardv1.Sums{PostedNanoUsd: 70, ReservedNanoUsd: 200, Opened: 3, Ended: 1}, "sequence_hole",
		},
		"producers are counted apart": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), opened("q", 1, "r2", 100)},
			&rateguardv1.Sums{ReservedNanoUsd: 200, Opened: 2}, "",
		},
		"a correction takes the difference": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), settled("p", 2, "r1", 100, 70), corrected(1, "r1", proto.Int64(70), proto.Int64(50), false)},
			&rateguardv1.Sums{PostedNanoUsd: 50, Opened: 1, Ended: 1, Corrected: 1}, "",
		},
		"closing ends what is open": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), opened("p", 2, "r2", 50), closed(1, "p", 2, expired("r1", 100, 100), expired("r2", 50, 50))},
			&rateguardv1.Sums{PostedNanoUsd: 150, Opened: 2, Ended: 2, Estimated: 2}, "",
		},
		"closing with another mark is ignored": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), closed(1, "p", 2, expired("r1", 100, 100))},
			&rateguardv1.Sums{ReservedNanoUsd: 100, Opened: 1}, "producer_closed_ignored",
		},
		"only the first closing counts": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), closed(1, "p", 1, expired("r1", 100, 100)), closed(2, "p", 1, expired("r1", 100, 100))},
			&rateguardv1.Sums{PostedNanoUsd: 100, Opened: 1, Ended: 1, Estimated: 1}, "producer_closed_ignored",
		},
		"a zombie's late end corrects, never a second cost": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), closed(1, "p", 1, expired("r1", 100, 100)), settled("p", 2, "r1", 100, 30)},
			&rateguardv1.Sums{PostedNanoUsd: 30, Opened: 1, Ended: 1, Corrected: 1}, "",
		},
		"a late end that agrees changes nothing": {
			[]*rateguardv1.Event{
				opened("p", 1, "r1", 100), closed(1, "p", 1, outcomeOf("r1", 100, proto.Int64(30), false)),
				settled("p", 2, "r1", 100, 30),
			},
			&rateguardv1.Sums{PostedNanoUsd: 30, Opened: 1, Ended: 1}, "",
		},
		"a closed producer's late reservation is a new one": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 100), closed(1, "p", 1, expired("r1", 100, 100)), opened("p", 2, "r2", 10), settled("p", 3, "r2", 10, 5)},
			&rateguardv1.Sums{PostedNanoUsd: 105, Opened: 2, Ended: 2, Estimated: 1}, "",
		},
		"a correction of a closed end is what its late end differs from": {
			[]*rateguardv1.Event{
				opened("p", 1, "r1", 100), closed(1, "p", 1, expired("r1", 100, 100)),
				corrected(1, "r1", proto.Int64(100), proto.Int64(40), true), settled("p", 2, "r1", 100, 30),
			},
			&rateguardv1.Sums{PostedNanoUsd: 30, Opened: 1, Ended: 1, Corrected: 2}, "",
		},
		"a producer that closes itself": {
			[]*rateguardv1.Event{
				opened("p", 1, "r1", 100),
				event("p", 2, noon, &rateguardv1.Event{Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{
					ProducerId: "p", Mark: 1, Ends: []*rateguardv1.Outcome{expired("r1", 100, 100)},
				}}}),
			},
			&rateguardv1.Sums{PostedNanoUsd: 100, Opened: 1, Ended: 1, Estimated: 1}, "",
		},
		"no price is counted, not invented": {
			[]*rateguardv1.Event{opened("p", 1, "r1", 0), event("p", 2, noon, &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{
				CostSettled: &rateguardv1.CostSettled{Outcome: outcomeOf("r1", 0, nil, false)},
			}})},
			&rateguardv1.Sums{Opened: 1, Ended: 1, Unpriced: 1}, "",
		},
		"sums stop at the end of int64": {
			[]*rateguardv1.Event{settled("p", 1, "r1", 0, 1<<63-1), settled("p", 2, "r2", 0, 1<<63-1)},
			&rateguardv1.Sums{PostedNanoUsd: 1<<63 - 1, Ended: 2}, "sum_overflow sum_overflow sum_overflow",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, notes := fold(test.events...)
			if !proto.Equal(s.GetTotal(), test.want) {
				t.Errorf("total: got %v, want %v", s.GetTotal(), test.want)
			}
			if got := s.GetMonths()[0]; got.GetMonth() != 202611 || !proto.Equal(got.GetSums(), test.want) {
				t.Errorf("month: got %v, want 202611 %v", got, test.want)
			}
			if got := s.GetBudgets()[0].GetBalances()[0].GetPeriods()[0].GetSums(); !proto.Equal(got, test.want) {
				t.Errorf("period: got %v, want %v", got, test.want)
			}
			if notes != test.notes {
				t.Errorf("notes: got %q, want %q", notes, test.notes)
			}
		})
	}
}

// Any interleaving of producers, with any repeats after the first, gives the same sums; within a producer the order is the log's.
func TestOrderAcrossProducersAndRepeatsDoNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		producers := rapid.IntRange(1, 4).Draw(t, "producers")
		queues := make([][]*rateguardv1.Event, producers)
		var inOrder []*rateguardv1.Event
		for p := range queues {
			name := fmt.Sprintf("p%d", p)
			var seq uint64
			for r := range rapid.IntRange(0, 6).Draw(t, "reservations") {
				id := fmt.Sprintf("%s/%d", name, r)
				bound := rapid.Int64Range(0, 1000).Draw(t, "bound")
				seq++
				queues[p] = append(queues[p], opened(name, seq, id, bound))
				if rapid.Bool().Draw(t, "ends") {
					seq++
					queues[p] = append(queues[p], settled(name, seq, id, bound, rapid.Int64Range(0, 2000).Draw(t, "cost")))
				}
			}
			inOrder = append(inOrder, queues[p]...)
		}
		want, _ := fold(inOrder...)
		got := new(rateguardv1.SpendState)
		var seen []*rateguardv1.Event
		for {
			left := slices.DeleteFunc(slices.Clone(queues), func(q []*rateguardv1.Event) bool { return len(q) == 0 })
			if len(left) == 0 {
				break
			}
			if len(seen) > 0 && rapid.IntRange(0, 2).Draw(t, "repeat") == 0 {
				spend.Fold(got, rapid.SampledFrom(seen).Draw(t, "repeated"))
				continue
			}
			p := rapid.IntRange(0, producers-1).Filter(func(p int) bool { return len(queues[p]) > 0 }).Draw(t, "producer")
			spend.Fold(got, queues[p][0])
			seen, queues[p] = append(seen, queues[p][0]), queues[p][1:]
		}
		if !proto.Equal(got, want) {
			t.Fatalf("got %v\nwant %v", got, want)
		}
	})
}

func TestFoldIsDeterministic(t *testing.T) {
	events := []*rateguardv1.Event{
		opened("q", 1, "r1", 100), opened("p", 1, "r2", 50), opened("p", 2, "r3", 50), settled("q", 2, "r1", 100, 70),
		closed(1, "p", 2, expired("r3", 50, 50), expired("r2", 50, 50)),
	}
	var first []byte
	for range 20 {
		s, _ := fold(events...)
		state, err := spend.Encode(s)
		if err != nil {
			t.Fatalf("encoding: %v", err)
		}
		if first == nil {
			first = state
		}
		if string(state) != string(first) {
			t.Fatal("the same events gave other bytes")
		}
	}
}

func TestFoldSaysWhatItDidWithAnEvent(t *testing.T) {
	s := new(rateguardv1.SpendState)
	for i, step := range []struct {
		event       *rateguardv1.Event
		isNew, took bool
	}{
		{opened("p", 1, "r1", 100), true, false},
		{opened("p", 1, "r1", 100), false, false},
		{opened("p", 3, "r3", 100), true, false},
		{opened("p", 2, "r2", 100), true, false},
		{opened("p", 2, "r2", 100), false, false},
		{closed(0, "p", 2, expired("r1", 100, 100)), true, false},
		{closed(0, "p", 3, expired("r1", 100, 100)), true, true},
		{closed(0, "p", 3, expired("r1", 100, 100)), true, false},
	} {
		if got := spend.Fold(s, step.event); got.New != step.isNew || got.Closed != step.took {
			t.Errorf("event %d: new %t, closed %t; want %t, %t", i, got.New, got.Closed, step.isNew, step.took)
		}
	}
}

// A year of hourly periods, a proxy restart a day, thousands of reservations left open by a crash: the state stays within its bound.
func TestStateStaysSmall(t *testing.T) {
	s := new(rateguardv1.SpendState)
	at := noon
	for hour := range 24 * 365 {
		p := fmt.Sprintf("01930000-0000-7000-8000-%012d", hour/24)
		seq := uint64(hour%24)*2 + 1
		for b := range 4 {
			o := opened(p, 0, fmt.Sprintf("r%d-%d", hour, b), 100)
			o.OccurredAtUnixUs, o.Sequence = at.UnixMicro(), 0
			o.GetReservationOpened().Subject.OpenedAtUnixUs = at.UnixMicro()
			o.GetReservationOpened().Holds = []*rateguardv1.Hold{{BudgetId: fmt.Sprintf("budget-%d", b), BudgetGeneration: 1, PeriodStartUnixUs: at.Truncate(time.Hour).UnixMicro(), AmountNanoUsd: 100}}
			c := settled(p, 0, "r", 100, 70)
			c.OccurredAtUnixUs = at.UnixMicro()
			c.GetCostSettled().Outcome.Holds = o.GetReservationOpened().Holds
			c.GetCostSettled().Outcome.Subject = o.GetReservationOpened().Subject
			if b == 0 {
				o.Sequence, c.Sequence = seq, seq+1
			}
			spend.Fold(s, o)
			spend.Fold(s, c)
		}
		at = at.Add(time.Hour)
	}
	for i := range 15_000 {
		e := opened("gone", uint64(i+1), fmt.Sprintf("open-%d", i), 1)
		e.OccurredAtUnixUs = at.UnixMicro()
		spend.Fold(s, e)
	}
	var ends []*rateguardv1.Outcome
	for i := range 15_000 {
		ends = append(ends, expired(fmt.Sprintf("open-%d", i), 1, 1))
	}
	c := closed(1, "gone", 15_000, ends...)
	c.OccurredAtUnixUs = at.UnixMicro()
	spend.Fold(s, c)
	late := settled("gone", 15_001, "open-14999", 1, 1)
	late.OccurredAtUnixUs = at.UnixMicro()
	notes := spend.Fold(s, late).Notes
	if len(notes) != 1 || notes[0].Kind != "late_end_unmatched" {
		t.Errorf("late end beyond the kept ones: got %v, want late_end_unmatched", notes)
	}
	if n := proto.Size(s); n > 64<<10 {
		t.Errorf("state has %d bytes, want at most 64 KiB", n)
	}
	if got := s.GetTotal(); got.GetOpened() != got.GetEnded() || got.GetReservedNanoUsd() != 0 {
		t.Errorf("total: got %v, want everything ended", got)
	}
}

func TestMarksOfClosedProducersAreForgottenAfterSevenDays(t *testing.T) {
	for name, test := range map[string]struct {
		after time.Duration
		held  bool
	}{
		"six days later":   {6 * 24 * time.Hour, true},
		"eight days later": {8 * 24 * time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			next := opened("q", 1, "r2", 1)
			next.OccurredAtUnixUs = noon.Add(test.after).UnixMicro()
			s, _ := fold(opened("p", 1, "r1", 100), closed(1, "p", 1, expired("r1", 100, 100)), next)
			held := slices.ContainsFunc(s.GetProducers(), func(p *rateguardv1.ProducerMark) bool { return p.GetProducerId() == "p" })
			if held != test.held {
				t.Errorf("mark held: got %v, want %v", held, test.held)
			}
		})
	}
}
