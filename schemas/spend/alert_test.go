package spend_test

import (
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

// terms are what a policy says of the budget b1.
type terms struct {
	version    uint64
	limit      int64
	thresholds []uint32
	hard       bool
}

var tenth = terms{version: 1, limit: 1000, thresholds: []uint32{500, 800, 1000}, hard: true}

// under returns the event as granted under the terms: with them in all its holds.
func under(p terms, e *rateguardv1.Event) *rateguardv1.Event {
	outcomes := append([]*rateguardv1.Outcome{
		e.GetCostSettled().GetOutcome(), e.GetReservationVoided().GetOutcome(), e.GetReservationExpired().GetOutcome(), e.GetCostCorrected().GetOutcome(),
	}, e.GetProducerClosed().GetEnds()...)
	give := func(subject *rateguardv1.Subject, holds []*rateguardv1.Hold) {
		subject.PolicyVersion = p.version
		for _, h := range holds {
			h.LimitNanoUsd, h.AlertPermille, h.Hard = p.limit, p.thresholds, p.hard
		}
	}
	for _, o := range outcomes {
		if o != nil {
			give(o.GetSubject(), o.GetHolds())
		}
	}
	if o := e.GetReservationOpened(); o != nil {
		give(o.GetSubject(), o.GetHolds())
	}
	return e
}

// raised folds events and returns the alerts of each that has some, as "event: threshold or cause at posted/limit".
func raised(s *rateguardv1.SpendState, events ...*rateguardv1.Event) []string {
	var out []string
	for i, e := range events {
		for _, a := range spend.Fold(s, e).Alerts {
			what := fmt.Sprint(a.Permille)
			if a.Overrun() {
				what = "overrun " + string(a.Cause)
			}
			out = append(out, fmt.Sprintf("%d: %s at %d/%d", i, what, a.PostedNano, a.LimitNano))
		}
	}
	return out
}

func TestThresholdsAreAlertedOnce(t *testing.T) {
	raisedTo := func(limit int64) terms { return terms{2, limit, tenth.thresholds, true} }
	soft := terms{1, 1000, []uint32{1000, 1500}, false}
	huge := terms{1, 1<<63 - 1, []uint32{999, 1000, 10_000}, true}
	unstated := settled("p", 2, "r2", 0, 900)
	unstated.GetCostSettled().Outcome.Holds = []*rateguardv1.Hold{hold(0, noon)}
	for name, test := range map[string]struct {
		events []*rateguardv1.Event
		want   []string
	}{
		"below the first: none":    {[]*rateguardv1.Event{under(tenth, settled("p", 1, "r1", 500, 499))}, nil},
		"exactly at one":           {[]*rateguardv1.Event{under(tenth, settled("p", 1, "r1", 500, 500))}, []string{"0: 500 at 500/1000"}},
		"an opening tells nothing": {[]*rateguardv1.Event{under(tenth, opened("p", 1, "r1", 1000))}, nil},
		"several at once, each its own": {
			[]*rateguardv1.Event{under(tenth, settled("p", 1, "r1", 1000, 1000))},
			[]string{"0: 500 at 1000/1000", "0: 800 at 1000/1000", "0: 1000 at 1000/1000"},
		},
		"one after the other": {
			[]*rateguardv1.Event{under(tenth, settled("p", 1, "r1", 600, 600)), under(tenth, settled("p", 2, "r2", 100, 100)), under(tenth, settled("p", 3, "r3", 200, 200))},
			[]string{"0: 500 at 600/1000", "2: 800 at 900/1000"},
		},
		"a repeat raises nothing": {
			[]*rateguardv1.Event{under(tenth, settled("p", 1, "r1", 600, 600)), under(tenth, settled("p", 1, "r1", 600, 600))},
			[]string{"0: 500 at 600/1000"},
		},
		"down and up again raises nothing": {
			[]*rateguardv1.Event{
				under(tenth, settled("p", 1, "r1", 600, 600)), under(tenth, corrected(1, "r1", proto.Int64(600), proto.Int64(100), false)),
				under(tenth, settled("p", 2, "r2", 500, 500)),
			},
			[]string{"0: 500 at 600/1000"},
		},
		"a correction crosses": {
			[]*rateguardv1.Event{under(tenth, settled("p", 1, "r1", 400, 400)), under(tenth, corrected(1, "r1", proto.Int64(400), proto.Int64(850), false))},
			[]string{"1: 500 at 850/1000", "1: 800 at 850/1000"},
		},
		"a closing crosses at its ends": {
			[]*rateguardv1.Event{
				under(tenth, opened("p", 1, "r1", 500)), under(tenth, opened("p", 2, "r2", 300)),
				under(tenth, closed(1, "p", 2, expired("r1", 500, 500), expired("r2", 300, 300))),
			},
			[]string{"2: 500 at 500/1000", "2: 800 at 800/1000"},
		},
		"a closing that is ignored raises nothing": {
			[]*rateguardv1.Event{under(tenth, opened("p", 1, "r1", 500)), under(tenth, closed(1, "p", 7, expired("r1", 500, 500)))}, nil,
		},
		"a late end after its closing crosses by its difference": {
			[]*rateguardv1.Event{
				under(tenth, opened("p", 1, "r1", 500)), under(tenth, closed(1, "p", 1, expired("r1", 500, 400))), under(tenth, settled("p", 2, "r1", 500, 500)),
			},
			[]string{"2: 500 at 500/1000"},
		},
		"a raised limit un-alerts nothing": {
			[]*rateguardv1.Event{under(tenth, settled("p", 1, "r1", 600, 600)), under(raisedTo(2000), settled("p", 2, "r2", 500, 500))},
			[]string{"0: 500 at 600/1000"},
		},
		"an end of an older policy is held against the newer limit": {
			[]*rateguardv1.Event{
				under(tenth, opened("p", 1, "r1", 900)), under(raisedTo(5000), opened("p", 2, "r2", 900)), under(tenth, settled("p", 3, "r1", 900, 900)),
			}, nil,
		},
		"a lowered limit is told with the next outcome": {
			[]*rateguardv1.Event{
				under(tenth, settled("p", 1, "r1", 600, 600)), under(tenth, opened("p", 2, "r2", 100)), under(raisedTo(500), opened("p", 3, "r3", 0)),
				under(tenth, voided("p", 4, "r2", 100)),
			},
			[]string{"0: 500 at 600/1000", "3: 800 at 600/500", "3: 1000 at 600/500", "3: overrun limit_lowered at 600/500"},
		},
		"a cost above the bound": {
			[]*rateguardv1.Event{under(tenth, settled("p", 1, "r1", 1000, 1001)), under(tenth, settled("p", 2, "r2", 10, 10))},
			[]string{"0: 500 at 1001/1000", "0: 800 at 1001/1000", "0: 1000 at 1001/1000", "0: overrun cost_above_bound at 1001/1000"},
		},
		"a corrected price": {
			[]*rateguardv1.Event{
				under(terms{1, 1000, nil, true}, settled("p", 1, "r1", 1000, 1000)),
				under(terms{1, 1000, nil, true}, corrected(1, "r1", proto.Int64(1000), proto.Int64(1500), false)),
			},
			[]string{"1: overrun correction at 1500/1000"},
		},
		"the last of several within its bound": {
			[]*rateguardv1.Event{under(terms{1, 1000, nil, true}, settled("p", 1, "r1", 100, 950)), under(terms{1, 1000, nil, true}, settled("p", 2, "r2", 100, 100))},
			[]string{"1: overrun  at 1050/1000"},
		},
		"a soft budget has thresholds alone": {
			[]*rateguardv1.Event{under(soft, settled("p", 1, "r1", 100, 1200))}, []string{"0: 1000 at 1200/1000"},
		},
		"amounts at the end of int64": {
			[]*rateguardv1.Event{under(huge, settled("p", 1, "r1", 1<<63-1, 1<<63-2)), under(huge, settled("p", 2, "r2", 1, 1))},
			[]string{"0: 999 at 9223372036854775806/9223372036854775807", "1: 1000 at 9223372036854775807/9223372036854775807"},
		},
		"a large sum of a small limit": {
			[]*rateguardv1.Event{under(terms{1, 1, []uint32{10_000}, false}, settled("p", 1, "r1", 1, 1<<63-1))}, []string{"0: 10000 at 9223372036854775807/1"},
		},
		"holds that state nothing": {[]*rateguardv1.Event{under(tenth, opened("p", 1, "r1", 10)), unstated, settled("q", 1, "r3", 100, 500)}, nil},
		"what such holds added is told with the next outcome": {
			[]*rateguardv1.Event{under(tenth, opened("p", 1, "r1", 10)), unstated, under(tenth, settled("p", 3, "r1", 10, 0))},
			[]string{"2: 500 at 900/1000", "2: 800 at 900/1000"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := raised(new(rateguardv1.SpendState), test.events...)
			if !slices.Equal(got, test.want) {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
}

// Periods, balances and generations have their own alerts; of the next period they come again.
func TestEachPeriodAlertsByItself(t *testing.T) {
	s := new(rateguardv1.SpendState)
	seq := uint64(0)
	end := func(change func(h *rateguardv1.Hold)) *rateguardv1.Event {
		seq++
		e := under(tenth, settled("p", seq, "r", 500, 500))
		change(e.GetCostSettled().GetOutcome().GetHolds()[0])
		return e
	}
	for name, change := range map[string]func(h *rateguardv1.Hold){
		"first":          func(*rateguardv1.Hold) {},
		"next period":    func(h *rateguardv1.Hold) { h.PeriodStartUnixUs = noon.Add(time.Hour).UnixMicro() },
		"balance":        func(h *rateguardv1.Hold) { h.Balance = "key_1" },
		"generation":     func(h *rateguardv1.Hold) { h.BudgetGeneration = 2 },
		"another budget": func(h *rateguardv1.Hold) { h.BudgetId = "b2" },
	} {
		if got, want := raised(s, end(change)), []string{"0: 500 at 500/1000"}; !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// A closing that takes many balances over their thresholds at once raises a bounded number of alerts, and the others with their next outcome.
func TestOneEventRaisesABoundedNumberOfAlerts(t *testing.T) {
	const balances = 100
	of := func(balance int, o *rateguardv1.Outcome) *rateguardv1.Outcome {
		o.Holds[0].Balance = fmt.Sprintf("key_%03d", balance)
		return o
	}
	var ends []*rateguardv1.Outcome
	for b := range balances {
		ends = append(ends, of(b, expired(fmt.Sprint(b), 500, 500)))
	}
	s := new(rateguardv1.SpendState)
	did := spend.Fold(s, under(tenth, closed(1, "p", 0, ends...)))
	if len(did.Alerts) != 64 || len(did.Notes) != 1 || did.Notes[0].Kind != "budget_alerts_postponed" {
		t.Fatalf("got %d alerts, notes %v", len(did.Alerts), did.Notes)
	}
	for b := range balances {
		e := under(tenth, settled("q", uint64(b+1), "r", 0, 0))
		of(b, e.GetCostSettled().GetOutcome())
		if got, want := len(raised(s, e)), map[bool]int{true: 1}[b >= 64]; got != want {
			t.Errorf("balance %d: %d alerts with its next outcome, want %d", b, got, want)
		}
	}
}

// What the log says of one budget period, by an oracle that keeps every reservation and computes in big numbers: each threshold that posted had
// reached after an outcome is alerted once, at the first such outcome, under repeats, corrections, closings and changes of the policy.
func TestEachCrossingIsAlertedExactlyOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOracle()
		s := new(rateguardv1.SpendState)
		var seen []*rateguardv1.Event
		got := map[string]int{}
		for i := range rapid.IntRange(1, 60).Draw(t, "steps") {
			e := o.next(t)
			if len(seen) > 0 && rapid.IntRange(0, 3).Draw(t, "repeat") == 0 {
				if again := spend.Fold(s, rapid.SampledFrom(seen).Draw(t, "repeated")); len(again.Alerts) > 0 {
					t.Fatalf("step %d: a repeat raised %v", i, again.Alerts)
				}
			}
			for _, a := range spend.Fold(s, proto.CloneOf(e)).Alerts {
				key := fmt.Sprint(a.Permille)
				if got[key]++; !o.due[key] || got[key] > 1 {
					t.Fatalf("step %d: alert %s at %d of %d, raised %d times; due %v", i, key, a.PostedNano, a.LimitNano, got[key], o.due)
				}
			}
			seen = append(seen, e)
			if len(got) != len(o.due) {
				t.Fatalf("step %d: alerted %v, due %v (posted %d, limit %d)", i, got, o.due, o.posted(), o.terms.limit)
			}
		}
		if p := s.GetBudgets(); len(p) > 0 && p[0].GetBalances()[0].GetPeriods()[0].GetSums().GetPostedNanoUsd() != o.posted() {
			t.Fatalf("posted: got %v, want %d", p, o.posted())
		}
	})
}

// oracle makes the log of one producer after the other and knows what is due.
type oracle struct {
	terms    terms
	producer int
	seq      uint64
	control  uint64
	open     []string         // of the present producer
	granted  map[string]terms // by reservation
	cost     map[string]int64 // of what has ended
	ended    []string
	due      map[string]bool
}

func newOracle() *oracle {
	return &oracle{terms: tenth, granted: map[string]terms{}, cost: map[string]int64{}, due: map[string]bool{}}
}

func (o *oracle) name() string { return fmt.Sprintf("p%d", o.producer) }

func (o *oracle) posted() int64 {
	var sum int64
	for _, c := range o.cost {
		sum += c
	}
	return sum
}

// end notes the cost of a reservation and what is due then.
func (o *oracle) end(id string, cost int64) {
	o.cost[id] = cost
	if !slices.Contains(o.ended, id) {
		o.ended = append(o.ended, id)
	}
	posted := o.posted()
	if posted <= 0 {
		return
	}
	for _, threshold := range o.granted[id].thresholds {
		at := big.NewRat(o.terms.limit*int64(threshold), 1000)
		if new(big.Rat).SetInt64(posted).Cmp(at) >= 0 {
			o.due[fmt.Sprint(threshold)] = true
		}
	}
	if o.granted[id].hard && posted > o.terms.limit {
		o.due["0"] = true
	}
}

// next draws an event. A new policy comes with an opening, as nothing else shows it.
func (o *oracle) next(t *rapid.T) *rateguardv1.Event {
	cost := rapid.Int64Range(0, 400)
	switch what := rapid.IntRange(0, 9).Draw(t, "what"); {
	case what <= 3 && len(o.open) > 0:
		id := o.open[0]
		o.open = o.open[1:]
		o.seq++
		e := under(o.granted[id], settled(o.name(), o.seq, id, 200, cost.Draw(t, "cost")))
		o.end(id, e.GetCostSettled().GetOutcome().GetCostNanoUsd())
		return e
	case what == 4 && len(o.ended) > 0:
		id := rapid.SampledFrom(o.ended).Draw(t, "corrected")
		before, after := o.cost[id], cost.Draw(t, "corrected to")
		o.control++
		e := under(o.granted[id], corrected(o.control, id, &before, &after, false))
		if before != after {
			o.end(id, after)
		}
		return e
	case what == 5 && o.seq > 0:
		var ends []*rateguardv1.Outcome
		mark, name := o.seq, o.name()
		var closing []string
		closing, o.open = o.open, nil
		e := closed(0, name, mark)
		for _, id := range closing {
			end := under(o.granted[id], closed(0, name, mark, expired(id, 200, 200))).GetProducerClosed().GetEnds()
			ends = append(ends, end...)
		}
		e.GetProducerClosed().Ends = ends
		e.Sequence, o.control = o.control+1, o.control+1
		e.ProducerId = "control"
		for _, id := range closing {
			o.end(id, 200)
		}
		o.producer, o.seq = o.producer+1, 0
		return e
	case what == 6:
		o.terms = terms{
			version: o.terms.version + 1, limit: rapid.Int64Range(1, 3000).Draw(t, "limit"), hard: o.terms.hard,
			thresholds: slices.Compact(slices.Sorted(slices.Values(rapid.SliceOfN(rapid.Uint32Range(1, 3000), 0, 4).Draw(t, "thresholds")))),
		}
	}
	id := fmt.Sprintf("%s/%d", o.name(), o.seq)
	o.granted[id], o.open = o.terms, append(o.open, id)
	o.seq++
	return under(o.terms, opened(o.name(), o.seq, id, 200))
}

func TestAlertsOfAYearOfPeriodsLeaveTheStateSmall(t *testing.T) {
	s := new(rateguardv1.SpendState)
	ten := terms{1, 1 << 40, []uint32{100, 200, 300, 400, 500, 600, 700, 800, 900, 1000}, true}
	for hour := range 24 * 60 {
		at := noon.Add(time.Duration(hour) * time.Hour)
		for b := range 4 {
			e := under(ten, settled("p", 0, strings.Repeat("r", 40), 1<<40, 1<<41))
			e.OccurredAtUnixUs = at.UnixMicro()
			o := e.GetCostSettled().GetOutcome()
			o.Subject.OpenedAtUnixUs = at.UnixMicro()
			o.Holds[0].BudgetId, o.Holds[0].PeriodStartUnixUs = fmt.Sprintf("budget-%d", b), at.UnixMicro()
			if n := len(spend.Fold(s, e).Alerts); n != 11 {
				t.Fatalf("hour %d: %d alerts, want 11", hour, n)
			}
		}
	}
	if n := proto.Size(s); n > 24<<10 {
		t.Errorf("state has %d bytes", n)
	}
}
