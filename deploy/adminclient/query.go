package adminclient

import (
	"context"
	"encoding/json"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Request is one row of the request log.
type Request struct {
	ID               string    `json:"id"`
	Time             time.Time `json:"time"`
	KeyID            string    `json:"key_id"`
	Route            string    `json:"route"`
	Provider         string    `json:"provider"`
	Model            string    `json:"model"`
	Endpoint         string    `json:"endpoint"`
	Method           string    `json:"method"`
	Status           int       `json:"status"`
	Decision         string    `json:"decision"`
	Stream           bool      `json:"stream"`
	InputTokens      int64     `json:"input_tokens"`
	CachedTokens     int64     `json:"cached_tokens"`
	CacheWriteTokens int64     `json:"cache_write_tokens"`
	OutputTokens     int64     `json:"output_tokens"`
	ReasoningTokens  int64     `json:"reasoning_tokens"`
	// CostUSD is a decimal string; nil when the model has no price.
	CostUSD      *string `json:"cost_usd"`
	Estimated    bool    `json:"estimated"`
	PriceVersion string  `json:"price_version"`
	// Corrected says that cost, estimate and price are those of the ledger, which has learned more since the request was recorded.
	Corrected  bool         `json:"corrected"`
	LatencyMS  json.Number  `json:"latency_ms"`
	TTFTMS     *json.Number `json:"ttft_ms"`
	OverheadUS json.Number  `json:"overhead_us"`
	ClientIP   string       `json:"client_ip"`
	Country    string       `json:"country"`
}

// UsageRow is one group of the usage report; the fields it is grouped by are set.
type UsageRow struct {
	Route        string      `json:"route,omitempty"`
	Model        string      `json:"model,omitempty"`
	Endpoint     string      `json:"endpoint,omitempty"`
	Key          string      `json:"key,omitempty"`
	Status       json.Number `json:"status,omitempty"`
	Hour         string      `json:"hour,omitempty"`
	Day          string      `json:"day,omitempty"`
	Time         string      `json:"time,omitempty"`
	Requests     int64       `json:"requests"`
	Errors       int64       `json:"errors"`
	Denied       int64       `json:"denied"`
	InputTokens  int64       `json:"input_tokens"`
	CachedTokens int64       `json:"cached_tokens"`
	OutputTokens int64       `json:"output_tokens"`
	// CostUSD is a decimal string.
	CostUSD string      `json:"cost_usd"`
	P50MS   json.Number `json:"p50_ms"`
	P95MS   json.Number `json:"p95_ms"`
	P99MS   json.Number `json:"p99_ms"`
}

// Usage is a usage report.
type Usage struct {
	Data []UsageRow `json:"data"`
	// AsOf is the newest request that the report holds; Stale says that newer ones are known to exist.
	AsOf  *time.Time `json:"as_of"`
	Stale bool       `json:"stale"`
}

// Period bounds a question; a zero bound is left to the API.
type Period struct{ From, To time.Time }

func (p Period) values() url.Values {
	q := url.Values{}
	if !p.From.IsZero() {
		q.Set("from", p.From.UTC().Format(time.RFC3339Nano))
	}
	if !p.To.IsZero() {
		q.Set("to", p.To.UTC().Format(time.RFC3339Nano))
	}
	return q
}

// UsageQuery says what a usage report is about.
type UsageQuery struct {
	Period
	GroupBy  []string
	Interval string
}

// Usage returns the usage report of a workspace.
func (c *Client) Usage(ctx context.Context, workspace string, u UsageQuery) (Usage, error) {
	q := u.values()
	if len(u.GroupBy) > 0 {
		q.Set("group_by", strings.Join(u.GroupBy, ","))
	}
	if u.Interval != "" {
		q.Set("interval", u.Interval)
	}
	var out Usage
	err := c.Do(ctx, http.MethodGet, in(workspace, "usage"), q, nil, &out)
	return out, err
}

// Requests yields the request log of a workspace, newest first; filters are the query
// parameters of the API, such as model or status.
func (c *Client) Requests(ctx context.Context, workspace string, p Period, filters url.Values) iter.Seq2[Request, error] {
	q := p.values()
	for k, v := range filters {
		q[k] = v
	}
	return list[Request](ctx, c, in(workspace, "requests"), q)
}

// Request returns one request.
func (c *Client) Request(ctx context.Context, workspace, id string) (Request, error) {
	return call[Request](ctx, c, http.MethodGet, in(workspace, "requests", id), nil)
}

// Explanation is what Explain's document says that people read; the document has more.
type Explanation struct {
	// Why holds sentences.
	Why          []string      `json:"why"`
	Checks       []Check       `json:"checks"`
	Reservations []Reservation `json:"reservations"`
}

// Check is what a limit or budget saw when a request was decided, in its unit; a budget's is nano-USD.
type Check struct {
	ID           string `json:"id"`
	Kind         string `json:"kind"`
	Scope        string `json:"scope"`
	Subject      string `json:"subject"`
	Unit         string `json:"unit"`
	Limit        int64  `json:"limit"`
	WindowUS     int64  `json:"window_us"`
	Used         int64  `json:"used"`
	Remaining    int64  `json:"remaining"`
	Cost         int64  `json:"cost"`
	ResetAfterUS int64  `json:"reset_after_us"`
	RetryAfterUS int64  `json:"retry_after_us"`
	Denied       bool   `json:"denied"`
	// DecidedBy is "redis", "lease" or "local".
	DecidedBy string `json:"decided_by"`
	// Reserved, of a budget, is what open requests and leases held; Used is what was spent, and ResetAfterUS is until the period ends.
	Reserved    int64  `json:"reserved"`
	Enforcement string `json:"enforcement"`
}

// Reservation is the life of one attempt in the ledger.
type Reservation struct {
	ID string `json:"id"`
	// BoundUSD is a decimal string; nil when the call had no bound.
	BoundUSD *string `json:"bound_usd"`
	// OpenedAt is nil and Outcomes is empty until the ledger has an end.
	OpenedAt *time.Time           `json:"opened_at"`
	Outcomes []ReservationOutcome `json:"outcomes"`
}

// ReservationOutcome is one revision of a reservation's end.
type ReservationOutcome struct {
	Revision int    `json:"revision"`
	Kind     string `json:"kind"`
	// CostUSD is a decimal string; nil when the model has no price.
	CostUSD      *string   `json:"cost_usd"`
	Estimated    bool      `json:"estimated"`
	Reason       string    `json:"reason"`
	PriceVersion string    `json:"price_version"`
	Time         time.Time `json:"time"`
}

// Explain returns why a request was decided as it was, as the API's own document; it can be read as an Explanation.
func (c *Client) Explain(ctx context.Context, workspace, id string) (json.RawMessage, error) {
	return call[json.RawMessage](ctx, c, http.MethodGet, in(workspace, "requests", id, "explain"), nil)
}
