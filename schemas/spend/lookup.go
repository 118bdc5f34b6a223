package spend

import (
	"cmp"
	"slices"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Find returns the sums that a state holds of the budget period of a hold; nil where it holds none: nothing was counted for it yet, or the
// period was dropped.
func Find(s *rateguardv1.SpendState, h *rateguardv1.Hold) *rateguardv1.Sums {
	b := FindBalance(s, h)
	i, found := slices.BinarySearchFunc(b.GetPeriods(), h.GetPeriodStartUnixUs(), func(e *rateguardv1.PeriodSums, start int64) int {
		return cmp.Compare(e.GetStartUnixUs(), start)
	})
	if !found {
		return nil
	}
	return b.GetPeriods()[i].GetSums()
}

// FindBalance returns what a state holds of the balance of a hold, in all periods; nil where it holds nothing.
func FindBalance(s *rateguardv1.SpendState, h *rateguardv1.Hold) *rateguardv1.BalanceSums {
	i, found := findBudget(s, h)
	if !found {
		return nil
	}
	balances := s.GetBudgets()[i].GetBalances()
	j, found := slices.BinarySearchFunc(balances, h.GetBalance(), func(e *rateguardv1.BalanceSums, name string) int { return cmp.Compare(e.GetBalance(), name) })
	if !found {
		return nil
	}
	return balances[j]
}

func findBudget(s *rateguardv1.SpendState, h *rateguardv1.Hold) (int, bool) {
	return slices.BinarySearchFunc(s.GetBudgets(), h, func(e *rateguardv1.BudgetSums, h *rateguardv1.Hold) int {
		return cmp.Or(cmp.Compare(e.GetBudgetId(), h.GetBudgetId()), cmp.Compare(e.GetGeneration(), h.GetBudgetGeneration()))
	})
}
