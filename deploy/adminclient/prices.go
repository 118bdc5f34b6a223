package adminclient

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Rates are prices by unit, decimal strings of USD: tokens by the million, audio by the hour, everything else by the piece.
type Rates struct {
	PerMillion map[string]string `json:"usd_per_million,omitempty"`
	PerHour    map[string]string `json:"usd_per_hour,omitempty"`
	PerUnit    map[string]string `json:"usd_per_unit,omitempty"`
}

// PriceTier is the prices of calls with more than so many input tokens, where they are others.
type PriceTier struct {
	AboveInputTokens int64 `json:"above_input_tokens"`
	Rates
}

// CurrentPrice is the price that is in force. Source is "catalogue" or "override".
type CurrentPrice struct {
	Version string `json:"version"`
	Source  string `json:"source"`
	Rates
	Tiers []PriceTier `json:"tiers,omitempty"`
}

// ModelPrice is what a model costs now; Price is nil where it has none, and Refused may say why.
type ModelPrice struct {
	Provider      string        `json:"provider"`
	Model         string        `json:"model"`
	ContextWindow int64         `json:"context_window,omitempty"`
	Refused       string        `json:"refused,omitempty"`
	Price         *CurrentPrice `json:"price"`
}

// PriceOverride is a price of an operator's own from an instant on: prices, or the catalogue's again.
type PriceOverride struct {
	EffectiveFrom time.Time `json:"effective_from"`
	Rates
	Catalogue bool `json:"catalogue,omitempty"`
	Backdated bool `json:"backdated,omitempty"`
}

// Price is a model with all of its prices.
type Price struct {
	ModelPrice
	CatalogueModel string          `json:"catalogue_model,omitempty"`
	Catalogue      *CurrentPrice   `json:"catalogue"`
	Overrides      []PriceOverride `json:"overrides"`
	Version        int64           `json:"version,omitempty"`
}

// RepriceQuery says which costs are computed again. A zero To is now; empty strings are all.
type RepriceQuery struct {
	From      time.Time  `json:"from"`
	To        *time.Time `json:"to,omitempty"`
	Workspace string     `json:"workspace,omitempty"`
	Provider  string     `json:"provider,omitempty"`
	Model     string     `json:"model,omitempty"`
	DryRun    bool       `json:"dry_run"`
	Reason    string     `json:"reason,omitempty"`
}

// RepriceCounts are the numbers of a difference. Kept are the costs that cannot be computed again.
type RepriceCounts struct {
	Requests      int64  `json:"requests"`
	Changed       int64  `json:"changed"`
	Kept          int64  `json:"kept"`
	CostUSD       string `json:"cost_usd"`
	NewCostUSD    string `json:"new_cost_usd"`
	DifferenceUSD string `json:"difference_usd"`
}

// RepriceRow is the difference of one workspace and model.
type RepriceRow struct {
	Workspace string `json:"workspace"`
	Provider  string `json:"provider"`
	Model     string `json:"model"`
	RepriceCounts
}

// Reprice is a dry run, or a run: "planned", "running", "done" or "failed".
type Reprice struct {
	ID         string     `json:"id,omitempty"`
	DryRun     bool       `json:"dry_run"`
	State      string     `json:"state,omitempty"`
	Error      string     `json:"error,omitempty"`
	From       time.Time  `json:"from"`
	To         time.Time  `json:"to"`
	Reason     string     `json:"reason,omitempty"`
	AsOf       *time.Time `json:"as_of,omitempty"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
	RepriceCounts
	Data []RepriceRow `json:"data"`
}

// Ended reports whether nothing more will come of a run.
func (r Reprice) Ended() bool { return r.State == "done" || r.State == "failed" }

func priceOf(provider, model string) string {
	return "/v1/prices/" + url.PathEscape(provider) + "/" + url.PathEscape(model)
}

// Prices lists what the models cost now: all, or those of a provider and of a name, which may end with *.
func (c *Client) Prices(ctx context.Context, provider, model string) ([]ModelPrice, error) {
	q := url.Values{"limit": {"1000"}}
	for name, v := range map[string]string{"provider": provider, "model": model} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return gather(list[ModelPrice](ctx, c, "/v1/prices", q))
}

// Price returns a model with all of its prices.
func (c *Client) Price(ctx context.Context, provider, model string) (Price, error) {
	return call[Price](ctx, c, http.MethodGet, priceOf(provider, model), nil)
}

// PutPrice sets the overrides of a model.
func (c *Client) PutPrice(ctx context.Context, provider, model string, overrides []PriceOverride) (Price, error) {
	return call[Price](ctx, c, http.MethodPut, priceOf(provider, model), map[string]any{"overrides": overrides})
}

// DeletePrice gives a model back to the catalogue; the answer says from when on.
func (c *Client) DeletePrice(ctx context.Context, provider, model string) (Price, error) {
	return call[Price](ctx, c, http.MethodDelete, priceOf(provider, model), nil)
}

// StartReprice computes costs again: what would change, or a run that corrects them.
func (c *Client) StartReprice(ctx context.Context, q RepriceQuery) (Reprice, error) {
	q.Reason = strings.TrimSpace(q.Reason)
	return call[Reprice](ctx, c, http.MethodPost, "/v1/reprice", q)
}

// Reprice returns how far a run is.
func (c *Client) Reprice(ctx context.Context, id string) (Reprice, error) {
	return call[Reprice](ctx, c, http.MethodGet, "/v1/reprice/"+url.PathEscape(id), nil)
}
