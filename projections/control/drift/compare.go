package drift

import (
	"github.com/rateguard/rateguard/projections/control/mirror"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/spend"
)

// difference is one that was found, nano-USD, and where.
type difference struct {
	period keyspace.BudgetPeriod
	nano   int64
}

// differences are those of a comparison, above 0.
type differences map[keyspace.BudgetPeriod]int64

func (d differences) note(p keyspace.BudgetPeriod, a, b int64) {
	n := a - b
	if n = max(n, -n); n > d[p] {
		d[p] = n
	}
}

// compare holds what a store has as posted of each budget period against the table. A period that the table has dropped for its age it says
// nothing of; one that the store lacks is 0 there. skip names those that the store cannot tell apart.
func compare(state *rateguardv1.SpendState, posted map[keyspace.BudgetPeriod]int64, skip func(keyspace.BudgetPeriod) bool) differences {
	d := make(differences)
	for _, b := range state.GetBudgets() {
		for _, balance := range b.GetBalances() {
			for _, period := range balance.GetPeriods() {
				p := keyspace.BudgetPeriod{Budget: b.GetBudgetId(), Generation: b.GetGeneration(), Balance: balance.GetBalance(), StartUS: period.GetStartUnixUs()}
				if !skip(p) {
					d.note(p, posted[p], period.GetSums().GetPostedNanoUsd())
				}
			}
		}
	}
	for p, n := range posted {
		h := &rateguardv1.Hold{BudgetId: p.Budget, BudgetGeneration: p.Generation, Balance: p.Balance, PeriodStartUnixUs: p.StartUS}
		dropped := spend.FindBalance(state, h).GetDroppedUntilUnixUs()
		if spend.Find(state, h) == nil && (dropped == 0 || p.StartUS > dropped) && !skip(p) {
			d.note(p, n, 0)
		}
	}
	return d
}

// inside holds the balances in Redis against its reservations: posted is what the log has confirmed and the costs of those that are settled,
// reserved is what the open ones hold, and lent is what leases hold of that.
func inside(b *mirror.Budgets) differences {
	d := make(differences)
	for p, held := range b.Balances {
		d.note(p, held.Posted, held.Confirmed+b.Entries[p].Posted)
		d.note(p, held.Reserved, b.Entries[p].Reserved)
		d.note(p, held.Lent, b.Entries[p].Lent)
	}
	for p, held := range b.Entries {
		if _, there := b.Balances[p]; !there {
			d.note(p, 0, held.Posted+held.Reserved)
		}
	}
	return d
}

// confirmed returns what the log has shown, as Redis has it.
func confirmed(b *mirror.Budgets) map[keyspace.BudgetPeriod]int64 {
	all := make(map[keyspace.BudgetPeriod]int64, len(b.Balances))
	for p, held := range b.Balances {
		all[p] = held.Confirmed
	}
	return all
}

// none skips nothing.
func none(keyspace.BudgetPeriod) bool { return false }
