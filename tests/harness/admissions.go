package harness

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

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
	tb     testing.TB
	marks  map[string]uint64
	closed map[string]bool
	opened map[string]admission
	holds  map[string][]*rateguardv1.Hold
	costs  map[string]int64
	// leases are those that have an end, whether the log has their openings or not.
	leases map[string]bool
	// returned has the numbers of the records by which producers gave their leases back.
	returned map[string]uint64
	// ignored is how many closings did not count: their producer had written behind what they knew of, or was closed already.
	ignored int
	// late are reservations from leases that a closing had charged before they were opened: until they end they are in that charge.
	late map[string]bool
}

// admission is an opening with who wrote it, and its number among the writer's records.
type admission struct {
	*rateguardv1.ReservationOpened
	producer string
	sequence uint64
}

// NewAdmissions returns what an empty log shows.
func NewAdmissions(tb testing.TB) *Admissions {
	return &Admissions{
		tb: tb, marks: map[string]uint64{}, closed: map[string]bool{}, opened: map[string]admission{}, holds: map[string][]*rateguardv1.Hold{},
		costs: map[string]int64{}, leases: map[string]bool{}, returned: map[string]uint64{}, late: map[string]bool{},
	}
}

// ReadAdmissions reads the costs topic to its end.
func (s *System) ReadAdmissions(tb testing.TB, workspace string) *Admissions {
	tb.Helper()
	a := NewAdmissions(tb)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 2*time.Minute)
	defer cancel()
	err := s.ReadLog(ctx, func(r *kgo.Record) {
		if e, err := envelope.Decode(r.Value); err == nil && string(r.Key) == workspace {
			a.Take(e)
		}
	}, topics.Costs.Name)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// Take reads the next event of the workspace.
func (a *Admissions) Take(e *rateguardv1.Event) {
	if n := e.GetSequence(); n > 0 {
		if n <= a.marks[e.GetProducerId()] {
			return
		}
		a.marks[e.GetProducerId()] = n
	}
	end := func(o *rateguardv1.Outcome) {
		if opened, known := a.opened[o.GetReservationId()]; known && o.GetLeaseId() != opened.GetLeaseId() {
			a.tb.Errorf("%s was taken from lease %q, and its end says %q", o.GetReservationId(), opened.GetLeaseId(), o.GetLeaseId())
		}
		if a.late[o.GetReservationId()] {
			delete(a.late, o.GetReservationId())
			a.lessen(a.opened[o.GetReservationId()].GetLeaseId(), o)
		}
		a.costs[o.GetReservationId()] = o.GetCostNanoUsd()
		a.holds[o.GetReservationId()] = o.GetHolds()
		if o.GetLease() {
			a.leases[o.GetReservationId()] = true
		}
	}
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		a.open(admission{b.ReservationOpened, e.GetProducerId(), e.GetSequence()})
	case *rateguardv1.Event_CostSettled:
		end(b.CostSettled.GetOutcome())
	case *rateguardv1.Event_ReservationVoided:
		end(b.ReservationVoided.GetOutcome())
	case *rateguardv1.Event_ReservationExpired:
		end(b.ReservationExpired.GetOutcome())
	case *rateguardv1.Event_LeaseEnded:
		if o := b.LeaseEnded.GetOutcome(); a.costs[o.GetReservationId()] > 0 {
			a.lessen(o.GetReservationId(), o)
		} else {
			end(o)
		}
		a.returned[b.LeaseEnded.GetOutcome().GetReservationId()] = e.GetSequence()
	case *rateguardv1.Event_ProducerClosed:
		c := b.ProducerClosed
		if c.GetMark() == a.marks[c.GetProducerId()] && !a.closed[c.GetProducerId()] {
			a.closed[c.GetProducerId()] = true
			for _, o := range c.GetEnds() {
				end(o)
			}
		} else {
			a.ignored++
		}
	}
}

// open takes an opening.
func (a *Admissions) open(o admission) {
	_, known := a.costs[o.GetReservationId()]
	_, ended := a.costs[o.GetLeaseId()]
	a.late[o.GetReservationId()] = ended && !known && a.closed[o.producer]
	a.opened[o.GetReservationId()] = o
}

// lessen takes what an outcome holds of each budget off what a closing has charged for a lease: a reservation that had taken it tells its own cost, or the lease was given
// back.
func (a *Admissions) lessen(lease string, o *rateguardv1.Outcome) {
	if len(o.GetHolds()) > 0 {
		a.costs[lease] = max(0, a.costs[lease]-o.GetHolds()[0].GetAmountNanoUsd())
	}
}

// grant is one hold of an admission.
type grant struct {
	id        string
	epoch, op uint64
	hold      *rateguardv1.Hold
}

// Check holds every admission to its limit: as its grant saw it, and by the sum of what was admitted before it, each at the least that it can have counted:
// what it cost, or less while it was open. A lease is an admission; what is taken from it has to be within it. Numbers of grants are unique in their epoch.
// It returns how many requests were admitted, with a grant of their own or by a lease.
func (a *Admissions) Check() int {
	a.tb.Helper()
	grants := map[period][]grant{}
	ops := map[[2]uint64]string{}
	taken := map[string][]admission{}
	requests := 0
	for id, o := range a.opened {
		if len(o.GetHolds()) == 0 {
			continue
		}
		if !o.GetLease() {
			requests++
		}
		if o.GetEpoch() == 0 {
			a.tb.Errorf("%s was opened without a grant", id)
		}
		if o.GetLeaseId() != "" {
			taken[o.GetLeaseId()] = append(taken[o.GetLeaseId()], o)
			continue
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
			grants[periodOf(h)] = append(grants[periodOf(h)], grant{id, o.GetEpoch(), o.GetOp(), h})
		}
	}
	for lease, all := range taken {
		a.checkTaken(lease, all)
	}
	for p, all := range grants {
		slices.SortFunc(all, func(a, b grant) int { return cmp.Or(cmp.Compare(a.epoch, b.epoch), cmp.Compare(a.op, b.op)) })
		var before int64
		for _, g := range all {
			if seen := g.hold.GetPostedNanoUsd() + g.hold.GetReservedNanoUsd(); seen < before+g.hold.GetAmountNanoUsd() {
				a.tb.Errorf("%v: %s was admitted at %d, but what was admitted before it and its own %d are %d at least",
					p, g.id, seen, g.hold.GetAmountNanoUsd(), before+g.hold.GetAmountNanoUsd())
			}
			before += a.least(g.id, g.hold.GetAmountNanoUsd(), taken[g.id])
		}
	}
	return requests
}

func periodOf(h *rateguardv1.Hold) period {
	return period{h.GetBudgetId(), h.GetBudgetGeneration(), h.GetBalance(), h.GetPeriodStartUnixUs()}
}

// least is what an admission of an amount counted at least at all times: what it cost, or all of it where it has not ended; of a lease that of all that was
// taken from it, and what is charged for the rest.
func (a *Admissions) least(id string, amount int64, taken []admission) int64 {
	var sum int64
	left := amount
	for _, o := range taken {
		if a.late[o.GetReservationId()] {
			continue // it is in what is charged
		}
		b := o.GetHolds()[0].GetAmountNanoUsd()
		sum += a.least(o.GetReservationId(), b, nil)
		left -= b
	}
	if cost, ended := a.costs[id]; ended {
		left = min(left, cost)
	}
	return sum + max(0, left)
}

// checkTaken holds what was taken from a lease to it.
func (a *Admissions) checkTaken(id string, all []admission) {
	a.tb.Helper()
	lease, there := a.opened[id]
	if !there || !lease.GetLease() {
		a.tb.Errorf("%d reservations are of lease %s, which was not opened", len(all), id)
		return
	}
	room := map[period]int64{}
	for _, h := range lease.GetHolds() {
		room[periodOf(h)] = h.GetAmountNanoUsd()
	}
	for _, o := range all {
		if o.producer != lease.producer || o.GetEpoch() != lease.GetEpoch() || o.GetOp() != 0 {
			a.tb.Errorf("%s of %s is grant %d of epoch %d, and its lease %s is of epoch %d and of %s", o.GetReservationId(), o.producer, o.GetOp(), o.GetEpoch(),
				id, lease.GetEpoch(), lease.producer)
		}
		if end, returned := a.returned[id]; o.sequence < lease.sequence || returned && o.sequence > end {
			a.tb.Errorf("%s was taken from lease %s before its opening or behind its end", o.GetReservationId(), id)
		}
		if len(o.GetHolds()) != len(lease.GetHolds()) {
			a.tb.Errorf("%s holds of %d budgets, its lease %s of %d", o.GetReservationId(), len(o.GetHolds()), id, len(lease.GetHolds()))
		}
		for _, h := range o.GetHolds() {
			left, lent := room[periodOf(h)]
			if !lent || h.GetAmountNanoUsd() != o.GetBoundNanoUsd() {
				a.tb.Errorf("%s takes %d of %v from lease %s, which holds %t of it, and its bound is %d", o.GetReservationId(), h.GetAmountNanoUsd(), periodOf(h), id, lent, o.GetBoundNanoUsd())
			}
			room[periodOf(h)] = left - h.GetAmountNanoUsd()
		}
	}
	for p, left := range room {
		if left < 0 {
			a.tb.Errorf("%v: %d more were taken from lease %s than it holds", p, -left, id)
		}
	}
}

// Posted returns what the log says that a budget has posted over all its balances and periods, and how many reservations and leases are open and reserve something.
func (a *Admissions) Posted(budget string) (posted int64, open int) {
	for id := range a.opened {
		if _, ended := a.costs[id]; !ended && !a.late[id] {
			open++
		}
	}
	for _, n := range a.Periods(budget) {
		posted += n
	}
	return posted, open
}

// Periods returns what the log says that a budget with one balance has posted in each of its periods, by their starts in µs; a budget without periods has one, which starts at 0.
func (a *Admissions) Periods(budget string) map[int64]int64 {
	all := map[int64]int64{}
	for id, holds := range a.holds {
		for _, h := range holds {
			if h.GetBudgetId() == budget {
				all[h.GetPeriodStartUnixUs()] += a.costs[id]
			}
		}
	}
	return all
}

// Opened reports whether a reservation or a lease was.
func (a *Admissions) Opened(id string) bool { _, opened := a.opened[id]; return opened }

// Open returns how many requests, and how many leases, have no end.
func (a *Admissions) Open() (requests, leases int) {
	for id, o := range a.opened {
		switch _, ended := a.costs[id]; {
		case ended:
		case o.GetLease():
			leases++
		default:
			requests++
		}
	}
	return requests, leases
}

// Requests returns how many requests were admitted.
func (a *Admissions) Requests() (n int) {
	for _, o := range a.opened {
		if !o.GetLease() {
			n++
		}
	}
	return n
}

// Charged returns for how many leases something is charged now.
func (a *Admissions) Charged() (leases int) {
	for id := range a.leases {
		if a.costs[id] > 0 {
			leases++
		}
	}
	return leases
}

// Ignored returns how many closings did not count, because their producer had written behind what they knew of, or was closed already.
func (a *Admissions) Ignored() int { return a.ignored }

// Leased returns how many requests were admitted by a lease.
func (a *Admissions) Leased() (n int) {
	for _, o := range a.opened {
		if o.GetLeaseId() != "" {
			n++
		}
	}
	return n
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

// AwaitBalance waits until a budget with one balance is at rest: nothing is reserved, and what it has posted in the period that holds is what the log says. It returns what it has
// posted in all periods.
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
		var start int64
		if b.Balance.PeriodStart != nil {
			start = b.Balance.PeriodStart.UnixMicro()
		}
		want := a.Periods(budget)[start]
		if got, reserved := Nano(tb, &b.Balance.PostedUSD), Nano(tb, &b.Balance.ReservedUSD); got != want || reserved != 0 {
			return fmt.Errorf("posted %d, reserved %d in the period that starts at %d, and the log says %d", got, reserved, start, want)
		}
		return nil
	})
	return posted
}
