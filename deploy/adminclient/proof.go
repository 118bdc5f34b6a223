package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// ProofQuery says what of a budget has to be proved. A zero At is now, or when Request was decided.
type ProofQuery struct {
	At      time.Time
	Balance string
	Request string
	// All lists every reservation and not the largest alone.
	All bool
}

// Proof is what people read of a budget's proof; the API's document has more.
type Proof struct {
	Verdict []string            `json:"verdict"`
	Data    []ProvedReservation `json:"data"`
	Omitted int                 `json:"omitted"`
}

// ProvedReservation is one reservation of the proved period; Opened is nil where the log has no opening.
type ProvedReservation struct {
	ID     string `json:"id"`
	Opened *struct {
		At            time.Time `json:"at"`
		AmountUSD     string    `json:"amount_usd"`
		PriceVersion  string    `json:"price_version"`
		PolicyVersion int64     `json:"policy_version"`
		Epoch         int64     `json:"epoch"`
		Op            int64     `json:"op"`
		PostedUSD     string    `json:"posted_usd"`
		ReservedUSD   string    `json:"reserved_usd"`
		LimitUSD      string    `json:"limit_usd"`
	} `json:"opened"`
	Ends []struct {
		At        time.Time `json:"at"`
		Revision  int       `json:"revision"`
		Kind      string    `json:"kind"`
		CostUSD   *string   `json:"cost_usd"`
		Estimated bool      `json:"estimated"`
		By        string    `json:"by"`
	} `json:"ends"`
}

// ProveBudget returns what a budget was at an instant, by the log, as the API's own document; it can be read as a Proof.
func (c *Client) ProveBudget(ctx context.Context, workspace, budget string, p ProofQuery) (json.RawMessage, error) {
	q := url.Values{}
	if !p.At.IsZero() {
		q.Set("at", p.At.UTC().Format(time.RFC3339Nano))
	}
	if p.Balance != "" {
		q.Set("balance", p.Balance)
	}
	if p.Request != "" {
		q.Set("request", p.Request)
	}
	if p.All {
		q.Set("limit", "all")
	}
	var out json.RawMessage
	err := c.Do(ctx, http.MethodGet, in(workspace, "budgets", budget, "proof"), q, nil, &out)
	return out, err
}
