package costs

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

func compare(a, b keyspace.BudgetPeriod) int {
	return cmp.Or(cmp.Compare(a.Budget, b.Budget), cmp.Compare(a.Generation, b.Generation), cmp.Compare(a.Balance, b.Balance), cmp.Compare(a.StartUS, b.StartUS))
}

// Posted returns what is posted to every budget period that the state holds, in nano-USD.
func (w *Workspace) Posted() map[keyspace.BudgetPeriod]int64 {
	posted := make(map[keyspace.BudgetPeriod]int64)
	for p, s := range w.sums() {
		posted[p] = s.GetPostedNanoUsd()
	}
	return posted
}

func (w *Workspace) sums() map[keyspace.BudgetPeriod]*rateguardv1.Sums {
	sums := make(map[keyspace.BudgetPeriod]*rateguardv1.Sums)
	for _, b := range w.State.GetBudgets() {
		for _, balance := range b.GetBalances() {
			for _, p := range balance.GetPeriods() {
				sums[keyspace.BudgetPeriod{
					Budget: b.GetBudgetId(), Generation: b.GetGeneration(), Balance: balance.GetBalance(), StartUS: p.GetStartUnixUs(),
				}] = p.GetSums()
			}
		}
	}
	return sums
}

// Whole returns an error when the open reservations are not those of the sums: records up to the table's row are still to be read, or
// in some budget period the sum of the holds is not what the state says is reserved. Then openings stand before what was read
// (retention, or an offset of Options.From that was too late); a reader from the partition's start sees all that is left.
func (w *Workspace) Whole() error {
	if w.behind != nil {
		return fmt.Errorf("sums are at offset %d, entries are behind it", w.applied)
	}
	held := make(map[keyspace.BudgetPeriod]int64)
	for _, r := range w.Open {
		for _, h := range r.Opened.GetHolds() {
			held[PeriodOf(h)] += r.Amount(h)
		}
	}
	var errs []error
	sums := w.sums()
	for _, p := range slices.SortedFunc(maps.Keys(sums), compare) {
		if reserved := sums[p].GetReservedNanoUsd(); reserved != held[p] {
			errs = append(errs, fmt.Errorf("budget %s, generation %d, balance %q, period %d: %d nano-USD reserved, open reservations hold %d",
				p.Budget, p.Generation, p.Balance, p.StartUS, reserved, held[p]))
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(held), compare) {
		if sums[p] == nil && !w.dropped(p) {
			errs = append(errs, fmt.Errorf("budget %s, generation %d, balance %q, period %d: open reservations hold %d nano-USD of a period without sums",
				p.Budget, p.Generation, p.Balance, p.StartUS, held[p]))
		}
	}
	return errors.Join(errs...)
}

// dropped reports whether the state has forgotten a period: what is opened for it later is in no sum.
func (w *Workspace) dropped(p keyspace.BudgetPeriod) bool {
	for _, b := range w.State.GetBudgets() {
		for _, balance := range b.GetBalances() {
			if b.GetBudgetId() == p.Budget && b.GetGeneration() == p.Generation && balance.GetBalance() == p.Balance {
				return balance.GetDroppedUntilUnixUs() != 0 && p.StartUS <= balance.GetDroppedUntilUnixUs()
			}
		}
	}
	return false
}

// PeriodOf returns the budget period that a hold is of.
func PeriodOf(h *rateguardv1.Hold) keyspace.BudgetPeriod {
	return keyspace.BudgetPeriod{Budget: h.GetBudgetId(), Generation: h.GetBudgetGeneration(), Balance: h.GetBalance(), StartUS: h.GetPeriodStartUnixUs()}
}
