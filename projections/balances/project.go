// Package balances projects the topic of costs into sums: what each budget period, each month and each
// workspace has posted and holds open. Events say absolute outcomes; the differences are made here.
package balances

import (
	"slices"
	"time"

	"github.com/rateguard/rateguard/projections/outcome"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

// Reservation is what the sums hold of one reservation, or of one lease: then Holds are what no reservation has taken of it.
type Reservation struct {
	Ended    bool
	Revision int32
	// BoundNano is in the open sums while the reservation is open, CostNano in the posted ones since it ended; nil counts as 0.
	BoundNano, CostNano *int64
	OpenedAt            time.Time
	Holds               []outcome.Hold
}

// Scopes of a sum.
const (
	ScopeBudget = "budget"
	ScopeMonth  = "month"
	ScopeTotal  = "total"
)

// Sum names one row of the table.
type Sum struct {
	Workspace, Scope, BudgetID string
	BudgetGeneration           int64
	Balance                    string
	PeriodStart                time.Time
}

// Change is what an event adds to a sum.
type Change struct {
	Sum
	PostedNano, ReservedNano int64
	Open, Ended, Unpriced    int64
}

// noPeriod is the period of sums without one.
var noPeriod = time.Unix(0, 0).UTC()

// Keys returns the reservations and leases that Project has to be given.
func Keys(rec runner.Record) []outcome.Key {
	var keys []outcome.Key
	add := func(reservation, lease string) {
		keys = append(keys, outcome.KeyOf(rec.Workspace, reservation))
		if lease != "" {
			keys = append(keys, outcome.KeyOf(rec.Workspace, lease))
		}
	}
	if o := rec.Event.GetReservationOpened(); o != nil {
		add(o.GetReservationId(), o.GetLeaseId())
		return keys
	}
	list, _, _ := outcome.Of(rec.Event)
	for _, o := range list {
		add(o.GetReservationId(), o.GetLeaseId())
	}
	return keys
}

// Project applies one record to the reservations in held and returns what it adds to the sums.
func Project(held map[outcome.Key]Reservation, rec runner.Record) []Change {
	if o := rec.Event.GetReservationOpened(); o != nil {
		return open(held, rec, o)
	}
	list, _, _ := outcome.Of(rec.Event)
	var out []Change
	for _, o := range list {
		out = append(out, end(held, rec, o)...)
	}
	return out
}

// open takes a reservation into the open sums. One that is known is a repeat, or was ended by a record that overtook it. One whose lease a closing has charged changes
// nothing before its end: what it may cost is in that charge, also where its end is lost with a disk.
func open(held map[outcome.Key]Reservation, rec runner.Record, o *rateguardv1.ReservationOpened) []Change {
	key := outcome.KeyOf(rec.Workspace, o.GetReservationId())
	if _, known := held[key]; known || charged(held, rec, o.GetLeaseId()) > 0 {
		return nil
	}
	r := Reservation{
		BoundNano: o.BoundNanoUsd, OpenedAt: outcome.OpenedAt(rec.Event, o.GetSubject()), Holds: outcome.Holds(o.GetHolds()),
	}
	held[key] = r
	all := changes(rec.Workspace, r, Change{Open: 1}, 1)
	if o.GetLease() {
		return all[wholes:] // it is no request
	}
	take(held, outcome.KeyOf(rec.Workspace, o.GetLeaseId()), r, all)
	return all
}

// charged is what is charged for a lease; 0 also where there is none.
func charged(held map[outcome.Key]Reservation, rec runner.Record, id string) int64 {
	if lease := held[outcome.KeyOf(rec.Workspace, id)]; id != "" && lease.Ended {
		return outcome.Value(lease.CostNano)
	}
	return 0
}

// take passes the holds of a reservation from its lease to it, and takes that off what its opening adds to the sums: what an open lease gives is reserved already.
func take(held map[outcome.Key]Reservation, key outcome.Key, r Reservation, all []Change) {
	lease, known := held[key]
	if !known || lease.Ended {
		return
	}
	lease.Holds = slices.Clone(lease.Holds)
	for i, h := range r.Holds {
		if j := slices.IndexFunc(lease.Holds, h.SamePeriod); j >= 0 {
			taken := min(h.AmountNano, lease.Holds[j].AmountNano)
			lease.Holds[j].AmountNano -= taken
			all[wholes+i].ReservedNano -= taken
		}
	}
	held[key] = lease
}

// end moves a reservation from the open sums to the posted ones; a later end or a correction changes the posted ones by the difference.
func end(held map[outcome.Key]Reservation, rec runner.Record, o *rateguardv1.Outcome) []Change {
	key := outcome.KeyOf(rec.Workspace, o.GetReservationId())
	r, known := held[key]
	cost := outcome.Cost(o)
	switch {
	case !known:
		r = Reservation{OpenedAt: outcome.OpenedAt(rec.Event, o.GetSubject()), Holds: outcome.Holds(o.GetHolds())}
	case r.Ended && rec.Event.GetLeaseEnded() != nil: // given back behind the charge
		left := outcome.Value(r.CostNano) - min(outcome.Value(r.CostNano), spend.HeldOfEach(o))
		cost = &left
	}
	delta := Change{PostedNano: outcome.Value(cost) - outcome.Value(r.CostNano), Unpriced: count(cost == nil) - count(r.Ended && r.CostNano == nil)}
	var sign int64
	if !r.Ended {
		delta.Ended = 1
		if known {
			delta.Open, sign = -1, -1
		}
	}
	if !known {
		delta.PostedNano -= uncharge(held, rec, o)
	}
	all := changes(rec.Workspace, r, delta, sign)
	if o.GetLease() { // it is no request, and only what is charged for it counts
		for i := range all[:wholes] {
			all[i].Open, all[i].Ended = 0, 0
		}
		if delta.PostedNano == 0 && delta.Unpriced == 0 {
			all = all[wholes:]
		}
	}
	r.Revision = max(outcome.Revision(o), r.Revision+1)
	r.Ended, r.CostNano = true, cost
	held[key] = r
	return all
}

// uncharge takes what a reservation, whose opening has changed nothing, took from its lease off what is charged for that, and returns it.
func uncharge(held map[outcome.Key]Reservation, rec runner.Record, o *rateguardv1.Outcome) int64 {
	if rec.Event.GetProducerClosed() != nil {
		return 0 // it has charged what was left without this one
	}
	charge := charged(held, rec, o.GetLeaseId())
	taken := min(charge, spend.HeldOfEach(o))
	if taken > 0 {
		key := outcome.KeyOf(rec.Workspace, o.GetLeaseId())
		lease, left := held[key], charge-taken
		lease.CostNano = &left
		held[key] = lease
	}
	return taken
}

// wholes is how many sums count whole requests, with or without budgets: the total and the month. They stand in front of those of the budgets.
const wholes = 2

// changes spreads a change over the sums that a reservation is part of; sign says whether its amounts are reserved (1), freed (-1) or neither (0).
func changes(workspace string, r Reservation, delta Change, sign int64) []Change {
	month := time.Date(r.OpenedAt.Year(), r.OpenedAt.Month(), 1, 0, 0, 0, 0, time.UTC)
	delta.ReservedNano = sign * outcome.Value(r.BoundNano)
	total, monthly := delta, delta
	total.Sum = Sum{Workspace: workspace, Scope: ScopeTotal, PeriodStart: noPeriod}
	monthly.Sum = Sum{Workspace: workspace, Scope: ScopeMonth, PeriodStart: month}
	out := []Change{total, monthly}
	for _, h := range r.Holds {
		c := delta
		c.ReservedNano = sign * h.AmountNano
		c.Sum = Sum{
			Workspace: workspace, Scope: ScopeBudget, BudgetID: h.BudgetID, BudgetGeneration: h.BudgetGeneration,
			Balance: h.Balance, PeriodStart: h.PeriodStart,
		}
		out = append(out, c)
	}
	return out
}

func count(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
