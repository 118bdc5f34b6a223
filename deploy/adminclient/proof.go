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
	ID string `json:"id"`
	// Lease: a proxy reserved for requests to come. HeldUSD is what it holds while it is open, without what was taken from a lease.
	Lease   bool   `json:"lease"`
	HeldUSD string `json:"held_usd"`
	Opened  *struct {
		At            time.Time `json:"at"`
		AmountUSD     string    `json:"amount_usd"`
		PriceVersion  string    `json:"price_version"`
		PolicyVersion int64     `json:"policy_version"`
		LeaseID       string    `json:"lease_id"`
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

// BudgetAudit is what people read of an audit; the API's document has more.
type BudgetAudit struct {
	OK       bool             `json:"ok"`
	Complete bool             `json:"complete"`
	Data     []WorkspaceAudit `json:"data"`
}

// WorkspaceAudit is what the log says of the budgets of one workspace.
type WorkspaceAudit struct {
	Workspace       string `json:"workspace"`
	Openings        int64  `json:"openings"`
	Leases          int64  `json:"leases"`
	TakenFromLeases int64  `json:"taken_from_leases"`
	Hard            int64  `json:"hard"`
	UnknownPolicy   int64  `json:"unknown_policy"`
	UnknownLeases   int64  `json:"unknown_leases"`
	Epochs          []struct {
		Epoch   int64 `json:"epoch"`
		LastOp  int64 `json:"last_op"`
		Missing int64 `json:"missing"`
		Gaps    []struct {
			From int64 `json:"from"`
			To   int64 `json:"to"`
		} `json:"gaps"`
	} `json:"epochs"`
	Broken   int64 `json:"broken"`
	Breaches []struct {
		Rule        string `json:"rule"`
		Reservation string `json:"reservation"`
		Budget      string `json:"budget"`
		Offset      int64  `json:"offset"`
		Detail      string `json:"detail"`
	} `json:"breaches"`
	Overran      int64  `json:"overran"`
	OverranByUSD string `json:"overran_by_usd"`
	Overruns     []struct {
		Reservation string `json:"reservation"`
		Offset      int64  `json:"offset"`
		ReservedUSD string `json:"reserved_usd"`
		CostUSD     string `json:"cost_usd"`
		Cause       string `json:"cause"`
	} `json:"overruns"`
	LowerViews int64  `json:"lower_views"`
	LowerByUSD string `json:"lower_by_usd"`
}

// AuditBudgets holds the log of a workspace, or of all where it is empty, against the rules of budgets. It returns the API's own document, which can be read as a BudgetAudit.
func (c *Client) AuditBudgets(ctx context.Context, workspace string) (json.RawMessage, error) {
	q := url.Values{}
	if workspace != "" {
		q.Set("workspace", workspace)
	}
	var out json.RawMessage
	err := c.Do(ctx, http.MethodGet, "/v1/budgets/audit", q, nil, &out)
	return out, err
}
