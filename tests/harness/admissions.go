package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// period is one balance of a budget in one period.
type period struct {
	budget     string
	generation uint64
	balance    string
	start      int64
}

// Admissions is what the log shows of the budgets of a workspace. It is read by rules of its own: a record counts once by its producer's number, a
// reservation has the first end, and a later one of it replaces the cost.
type Admissions struct {
	tb      testing.TB
	opened  map[string]*rateguardv1.ReservationOpened
	holds   map[string][]*rateguardv1.Hold
	costs   map[string]int64
	limited int
}

// ReadAdmissions reads the costs topic to its end.
func (s *System) ReadAdmissions(tb testing.TB, workspace string) *Admissions {
	tb.Helper()
	a := &Admissions{tb: tb, opened: map[string]*rateguardv1.ReservationOpened{}, holds: map[string][]*rateguardv1.Hold{}, costs: map[string]int64{}}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.Config().Kafka.Seeds()...), kgo.ConsumeTopics(topics.Costs.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		tb.Fatalf("reading the log: %v", err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics.Costs.Name)
	if err != nil {
		tb.Fatalf("reading the log: %v", err)
	}
	var left int64
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	marks, closed := map[string]uint64{}, map[string]bool{}
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			tb.Fatalf("reading the log: %v", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			e, err := envelope.Decode(r.Value)
			if err != nil || string(r.Key) != workspace {
				return
			}
			if n := e.GetSequence(); n > 0 {
				if n <= marks[e.GetProducerId()] {
					return
				}
				marks[e.GetProducerId()] = n
			}
			a.take(e, marks, closed)
		})
	}
	return a
}

func (a *Admissions) take(e *rateguardv1.Event, marks map[string]uint64, closed map[string]bool) {
	end := func(o *rateguardv1.Outcome) {
		a.costs[o.GetReservationId()] = o.GetCostNanoUsd()
		a.holds[o.GetReservationId()] = o.GetHolds()
	}
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		a.opened[b.ReservationOpened.GetReservationId()] = b.ReservationOpened
	case *rateguardv1.Event_CostSettled:
		end(b.CostSettled.GetOutcome())
	case *rateguardv1.Event_ReservationVoided:
		end(b.ReservationVoided.GetOutcome())
	case *rateguardv1.Event_ReservationExpired:
		end(b.ReservationExpired.GetOutcome())
	case *rateguardv1.Event_ProducerClosed:
		c := b.ProducerClosed
		if c.GetMark() == marks[c.GetProducerId()] && !closed[c.GetProducerId()] {
			closed[c.GetProducerId()] = true
			for _, o := range c.GetEnds() {
				end(o)
			}
		}
	}
}

// grant is one hold of an admission.
type grant struct {
	id        string
	epoch, op uint64
	hold      *rateguardv1.Hold
}

// Check holds every admission to its limit: as its grant saw it, and by the sum of what was admitted before it, each at the least that it can have counted:
// what it cost, or less while it was open. Numbers of grants are unique in their epoch. It returns how many admissions there were.
func (a *Admissions) Check() int {
	a.tb.Helper()
	grants := map[period][]grant{}
	ops := map[[2]uint64]string{}
	for id, o := range a.opened {
		if len(o.GetHolds()) == 0 {
			continue
		}
		a.limited++
		if o.GetEpoch() == 0 {
			a.tb.Errorf("%s was opened without a grant", id)
		}
		n := [2]uint64{o.GetEpoch(), o.GetOp()}
		if other, twice := ops[n]; twice {
			a.tb.Errorf("%s and %s are both grant %d of epoch %d", id, other, n[1], n[0])
		}
		ops[n] = id
		for _, h := range o.GetHolds() {
			if h.GetPostedNanoUsd()+h.GetReservedNanoUsd() > h.GetLimitNanoUsd() {
				a.tb.Errorf("%s was admitted at %d posted and %d reserved of %d", id, h.GetPostedNanoUsd(), h.GetReservedNanoUsd(), h.GetLimitNanoUsd())
			}
			p := period{h.GetBudgetId(), h.GetBudgetGeneration(), h.GetBalance(), h.GetPeriodStartUnixUs()}
			grants[p] = append(grants[p], grant{id, o.GetEpoch(), o.GetOp(), h})
		}
	}
	for p, all := range grants {
		slices.SortFunc(all, func(a, b grant) int { return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.op, b.op)) })
		var before int64
		for _, g := range all {
			if seen := g.hold.GetPostedNanoUsd() + g.hold.GetReservedNanoUsd(); seen < before+g.hold.GetAmountNanoUsd() {
				a.tb.Errorf("%v: %s was admitted at %d, but what was admitted before it and its own %d are %d at least",
					p, g.id, seen, g.hold.GetAmountNanoUsd(), before+g.hold.GetAmountNanoUsd())
			}
			cost, ended := a.costs[g.id]
			if !ended {
				cost = g.hold.GetAmountNanoUsd()
			}
			before += min(cost, g.hold.GetAmountNanoUsd())
		}
	}
	return a.limited
}

// Posted returns what the log says that a budget has posted over all its balances and periods, and how many of its reservations are open.
func (a *Admissions) Posted(budget string) (posted int64, open int) {
	for id := range a.opened {
		if _, ended := a.costs[id]; !ended {
			open++
		}
	}
	for id, holds := range a.holds {
		for _, h := range holds {
			if h.GetBudgetId() == budget {
				posted += a.costs[id]
			}
		}
	}
	return posted, open
}

// Epochs returns the epochs under which something was admitted, ascending.
func (a *Admissions) Epochs() []uint64 {
	all := map[uint64]bool{}
	for _, o := range a.opened {
		if len(o.GetHolds()) > 0 {
			all[o.GetEpoch()] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// AwaitBalance waits until a budget with one balance is at rest: nothing is reserved, and what it has posted is what the log says. It returns that.
func (s *System) AwaitBalance(tb testing.TB, tenant *Tenant, budget string) int64 {
	tb.Helper()
	var posted int64
	Eventually(tb, time.Minute, func() error {
		a := s.ReadAdmissions(tb, tenant.ID)
		var open int
		if posted, open = a.Posted(budget); open > 0 {
			return fmt.Errorf("%d reservations are open", open)
		}
		b, err := s.Admin.Budget(tb.Context(), tenant.ID, budget)
		if err != nil {
			return err
		}
		if b.Balance == nil || b.Balance.Source != "live" {
			return fmt.Errorf("the balance is %+v", b.Balance)
		}
		if got, reserved := Nano(tb, &b.Balance.PostedUSD), Nano(tb, &b.Balance.ReservedUSD); got != posted || reserved != 0 {
			return fmt.Errorf("posted %d, reserved %d, and the log says %d", got, reserved, posted)
		}
		return nil
	})
	return posted
}
