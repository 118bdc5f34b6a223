package adminclient

import (
	"context"
	"net/http"
	"time"
)

// Match says which calls a limit or budget counts; an empty field matches all.
type Match struct {
	Route string `json:"route,omitempty"`
	Model string `json:"model,omitempty"`
	Key   string `json:"key,omitempty"`
}

// Budget is how much the calls of a workspace may cost in a period. USD is a decimal string. Balance is there when the budget is read back
// and has one for all.
type Budget struct {
	Name           string    `json:"name"`
	Scope          string    `json:"scope"`
	Match          Match     `json:"match"`
	USD            string    `json:"usd"`
	Period         string    `json:"period"`
	Timezone       string    `json:"timezone"`
	Enforcement    string    `json:"enforcement"`
	AlertAt        []float64 `json:"alert_at"`
	OnStoreFailure string    `json:"on_store_failure"`
	Mode           string    `json:"mode"`
	LeasePercent   int       `json:"lease_percent,omitempty"`
	Generation     int64     `json:"generation,omitempty"`
	Version        int64     `json:"version,omitempty"`
	Balance        *Balance  `json:"balance,omitempty"`
}

// PutBudget is what a budget is set to; empty fields are left to the API.
type PutBudget struct {
	Scope          string    `json:"scope,omitempty"`
	Match          *Match    `json:"match,omitempty"`
	USD            string    `json:"usd"`
	Period         string    `json:"period,omitempty"`
	Timezone       string    `json:"timezone,omitempty"`
	Enforcement    string    `json:"enforcement,omitempty"`
	AlertAt        []float64 `json:"alert_at,omitempty"`
	OnStoreFailure string    `json:"on_store_failure,omitempty"`
	Mode           string    `json:"mode,omitempty"`
	LeasePercent   int       `json:"lease_percent,omitempty"`
}

// Balance is how much of a budget is spent in the period that holds. Amounts are decimal strings of USD; Subject is the key, route or
// model whose balance it is, empty where there is one for all.
type Balance struct {
	Subject      string     `json:"subject,omitempty"`
	LimitUSD     string     `json:"limit_usd"`
	PostedUSD    string     `json:"posted_usd"`
	ReservedUSD  string     `json:"reserved_usd"`
	AvailableUSD string     `json:"available_usd"`
	PeriodStart  *time.Time `json:"period_start"`
	PeriodEnd    *time.Time `json:"period_end"`
	Source       string     `json:"source"`
	AsOf         *time.Time `json:"as_of"`
}

// Budgets lists the budgets of a workspace.
func (c *Client) Budgets(ctx context.Context, workspace string) ([]Budget, error) {
	return gather(list[Budget](ctx, c, in(workspace, "budgets"), nil))
}

// Budget returns one budget with its balance.
func (c *Client) Budget(ctx context.Context, workspace, name string) (Budget, error) {
	return call[Budget](ctx, c, http.MethodGet, in(workspace, "budgets", name), nil)
}

// PutBudget makes or changes a budget.
func (c *Client) PutBudget(ctx context.Context, workspace, name string, b PutBudget) (Budget, error) {
	return call[Budget](ctx, c, http.MethodPut, in(workspace, "budgets", name), b)
}

// DeleteBudget deletes a budget.
func (c *Client) DeleteBudget(ctx context.Context, workspace, name string) error {
	return c.Do(ctx, http.MethodDelete, in(workspace, "budgets", name), nil, nil, nil)
}

// Balances lists the balances of a budget: one for each key, route or model that had a call in the period, or the one that it has.
func (c *Client) Balances(ctx context.Context, workspace, budget string) ([]Balance, error) {
	return gather(list[Balance](ctx, c, in(workspace, "budgets", budget, "balances"), nil))
}
