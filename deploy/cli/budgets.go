package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/money"
)

var budgetColumns = []column[adminclient.Budget]{
	{"budget", func(b adminclient.Budget) string { return b.Name }},
	{"scope", func(b adminclient.Budget) string { return b.Scope }},
	{"match", func(b adminclient.Budget) string { return matchText(b.Match) }},
	{"usd", func(b adminclient.Budget) string { return b.USD }},
	{"period", func(b adminclient.Budget) string {
		if b.Period == "total" {
			return b.Period
		}
		return fmt.Sprintf("%s, %s", b.Period, b.Timezone)
	}},
	{"enforcement", func(b adminclient.Budget) string { return b.Enforcement }},
	{"mode", func(b adminclient.Budget) string { return modeText(b.Mode, b.LeasePercent) }},
	{"posted", ofBudget(func(b adminclient.Balance) string { return b.PostedUSD })},
	{"reserved", ofBudget(func(b adminclient.Balance) string { return b.ReservedUSD })},
	{"available", ofBudget(func(b adminclient.Balance) string { return b.AvailableUSD })},
	{"until", ofBudget(func(b adminclient.Balance) string { return stampAt(b.PeriodEnd) })},
	{"store fails", func(b adminclient.Budget) string { return b.OnStoreFailure }},
}

// ofBudget shows a part of a balance, where the budget has one.
func ofBudget(text func(adminclient.Balance) string) func(adminclient.Budget) string {
	return func(b adminclient.Budget) string {
		if b.Balance == nil {
			return ""
		}
		return text(*b.Balance)
	}
}

var balanceColumns = []column[adminclient.Balance]{
	{"subject", func(b adminclient.Balance) string { return b.Subject }},
	{"limit", func(b adminclient.Balance) string { return b.LimitUSD }},
	{"posted", func(b adminclient.Balance) string { return b.PostedUSD }},
	{"reserved", func(b adminclient.Balance) string { return b.ReservedUSD }},
	{"available", func(b adminclient.Balance) string { return b.AvailableUSD }},
	{"from", func(b adminclient.Balance) string { return stampAt(b.PeriodStart) }},
	{"until", func(b adminclient.Balance) string { return stampAt(b.PeriodEnd) }},
	{"source", func(b adminclient.Balance) string { return b.Source }},
	{"as of", func(b adminclient.Balance) string { return stampAt(b.AsOf) }},
}

func (a *app) budgets() *cobra.Command {
	return a.group("budgets", "Manage the budgets of a workspace and see what is left of them", append(stored[adminclient.Budget]{
		name: "budget", columns: budgetColumns,
		list: (*adminclient.Client).Budgets, get: (*adminclient.Client).Budget, remove: (*adminclient.Client).DeleteBudget,
	}.commands(a), a.setBudget(), a.balances(), a.proveBudget(), a.auditBudgets(), a.declareLost())...)
}

func (a *app) balances() *cobra.Command {
	return a.command("balances BUDGET", "List the balances of a budget, one for each key, route or model that it divides", 1, func(ctx context.Context, args []string) error {
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		all, err := c.Balances(ctx, ws, args[0])
		if err != nil {
			return err
		}
		return many(a, all, balanceColumns)
	})
}

func (a *app) setBudget() *cobra.Command {
	var b adminclient.PutBudget
	var match adminclient.Match
	cmd := a.command("set BUDGET", "Make or change a budget", 1, func(ctx context.Context, args []string) error {
		if usd, err := money.ParseUSD(b.USD); err != nil || usd <= 0 {
			return usagef("--usd is required, a positive decimal amount such as 10.00")
		}
		if b.LeasePercent < 0 {
			return usagef("--lease-percent %d is negative", b.LeasePercent)
		}
		if match != (adminclient.Match{}) {
			b.Match = &match
		}
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		budget, err := c.PutBudget(ctx, ws, args[0], b)
		if err != nil {
			return err
		}
		return one(a, budget, budgetColumns)
	})
	f := cmd.Flags()
	f.StringVar(&b.USD, "usd", "", "how much the calls of a period may cost, with up to nine decimals")
	f.StringVar(&b.Scope, "scope", "", "workspace, key, route or model: what has a balance of its own where there is no match (default workspace)")
	f.StringVar(&match.Route, "match-route", "", "count only calls of this route")
	f.StringVar(&match.Model, "match-model", "", "count only calls of these models, with *")
	f.StringVar(&match.Key, "match-key", "", "count only calls of this key id")
	f.StringVar(&b.Period, "period", "", "hour, day, week, month or total (default month)")
	f.StringVar(&b.Timezone, "timezone", "", "where periods begin, for example Europe/Berlin (default UTC)")
	f.StringVar(&b.Enforcement, "enforcement", "", "hard: refuse what does not fit; soft: count and alert (default hard)")
	f.Float64SliceVar(&b.AlertAt, "alert-at", nil, "multiples of the limit at which an alert is raised (default 0.5,0.8,1)")
	f.StringVar(&b.OnStoreFailure, "on-store-failure", "", "closed or open, while Redis does not answer (default closed; open for a soft budget)")
	f.StringVar(&b.Mode, "mode", "", "strict: ask Redis for each call; leased: proxies reserve in advance (default strict)")
	f.IntVar(&b.LeasePercent, "lease-percent", 0, "how much of a leased budget's limit proxies may hold for calls to come (default 5)")
	return cmd
}
