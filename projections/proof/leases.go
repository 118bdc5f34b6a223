package proof

import (
	"fmt"
	"slices"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/spend"
)

// mostEnded is how many leases that have ended an auditor keeps, to tell what comes behind their ends: closed proxies may ship late.
const mostEnded = 4096

// lease is a lease that the log shows.
type lease struct {
	opening
	// taken is what reservations have taken of each of its budgets.
	taken int64
	// end is the sequence of its producer's LeaseEnded; 0 where none has come.
	end uint64
	// ended: it is among those that are let go of when there are too many.
	ended bool
}

// leases are those of one workspace.
type leases struct {
	all   map[string]*lease
	ended []string
}

func newLeases() leases { return leases{all: make(map[string]*lease)} }

// close notes that a lease has ended, by whomever.
func (l *leases) close(id string) {
	held := l.all[id]
	if held == nil || held.ended {
		return
	}
	held.ended = true
	if l.ended = append(l.ended, id); len(l.ended) > mostEnded {
		delete(l.all, l.ended[0])
		l.ended = l.ended[1:]
	}
}

// lent takes the opening of a lease.
func (a *auditor) lent(o opening) {
	a.Leases++
	if o.BoundNanoUsd != nil || o.GetLeaseId() != "" {
		a.breach(Breach{Rule: RuleLease, Reservation: o.GetReservationId(), Offset: o.offset, Detail: "is a lease, and has a bound or a lease of its own"})
	}
	held := &lease{opening: o}
	a.leases.all[o.GetReservationId()] = held
	if spend.EndedByClosing(a.state, o.producer, o.GetReservationId()) == spend.ClosingEnded {
		a.leases.close(o.GetReservationId())
	}
}

// takenFrom checks what is taken from a lease. The lease's grant kept to the limits, and whatever keeps to the lease does so by that.
func (a *auditor) takenFrom(o opening) {
	a.Taken++
	breach := func(format string, args ...any) {
		a.breach(Breach{Rule: RuleLease, Reservation: o.GetReservationId(), Offset: o.offset, Detail: fmt.Sprintf(format, args...)})
	}
	if o.GetOp() != 0 {
		breach("was taken from lease %s, and is grant %d as well", o.GetLeaseId(), o.GetOp())
	}
	held := a.leases.all[o.GetLeaseId()]
	switch {
	case held == nil && len(spend.Producer(a.state, o.producer).GetHoles()) > 0:
		a.UnknownLeases++
		return
	case held == nil:
		breach("names lease %s, which the log does not have", o.GetLeaseId())
		return
	case held.producer != o.producer:
		breach("names lease %s, which is another producer's", o.GetLeaseId())
		return
	case held.GetEpoch() != o.GetEpoch():
		breach("is of epoch %d, its lease %s of epoch %d", o.GetEpoch(), o.GetLeaseId(), held.GetEpoch())
	case held.end != 0 && o.sequence > held.end:
		breach("was taken from lease %s behind its end", o.GetLeaseId())
	}
	if !a.within(o, held, breach) {
		return
	}
	held.taken += o.GetHolds()[0].GetAmountNanoUsd()
	if lent := held.GetHolds()[0].GetAmountNanoUsd(); held.taken > lent {
		breach("lease %s holds %s of each budget, and %s were taken with it", o.GetLeaseId(), usd(money.Nano(lent)), usd(money.Nano(held.taken)))
	}
}

// within checks that a reservation holds one amount, its bound, of each budget period of its lease, by the limits of the lease's grant.
func (a *auditor) within(o opening, held *lease, breach func(string, ...any)) bool {
	if len(o.GetHolds()) == 0 || len(o.GetHolds()) != len(held.GetHolds()) {
		breach("holds of %d budgets, its lease %s of %d", len(o.GetHolds()), o.GetLeaseId(), len(held.GetHolds()))
		return false
	}
	for _, h := range o.GetHolds() {
		i := slices.IndexFunc(held.GetHolds(), func(l *rateguardv1.Hold) bool {
			return l.GetBudgetId() == h.GetBudgetId() && l.GetBudgetGeneration() == h.GetBudgetGeneration() && l.GetBalance() == h.GetBalance() &&
				l.GetPeriodStartUnixUs() == h.GetPeriodStartUnixUs()
		})
		if i < 0 {
			breach("holds of budget %s in a period that its lease %s does not hold of", h.GetBudgetId(), o.GetLeaseId())
			return false
		}
		if a.isHard(held.opening, h) {
			a.Hard++
		}
		switch amount := h.GetAmountNanoUsd(); {
		case amount < 0 || o.BoundNanoUsd == nil || amount != o.GetBoundNanoUsd():
			breach("takes %s of budget %s from lease %s and its bound is %s", usd(money.Nano(amount)), h.GetBudgetId(), o.GetLeaseId(), usd(money.Nano(o.GetBoundNanoUsd())))
			return false
		case h.GetLimitNanoUsd() != held.GetHolds()[i].GetLimitNanoUsd():
			breach("says that budget %s had a limit of %s, and the grant of its lease %s one of %s", h.GetBudgetId(), usd(money.Nano(h.GetLimitNanoUsd())),
				o.GetLeaseId(), usd(money.Nano(held.GetHolds()[i].GetLimitNanoUsd())))
			return false
		}
	}
	return true
}

// leaseEnded checks the end of a lease by its producer.
func (a *auditor) leaseEnded(e *rateguardv1.Event, offset int64) {
	o := e.GetLeaseEnded().GetOutcome()
	held := a.leases.all[o.GetReservationId()]
	if held == nil || held.end != 0 {
		return
	}
	held.end = e.GetSequence()
	a.leases.close(o.GetReservationId())
	if len(spend.Producer(a.state, e.GetProducerId()).GetHoles()) > 0 {
		return // what it gave may be missing
	}
	for _, h := range o.GetHolds() {
		if lent := held.GetHolds()[0].GetAmountNanoUsd(); h.GetAmountNanoUsd() != lent-held.taken {
			a.breach(Breach{
				Rule: RuleLease, Reservation: o.GetReservationId(), Budget: h.GetBudgetId(), Offset: offset,
				Detail: fmt.Sprintf("gives back %s, and %s of its %s were taken", usd(money.Nano(h.GetAmountNanoUsd())), usd(money.Nano(held.taken)), usd(money.Nano(lent))),
			})
			return
		}
	}
}
