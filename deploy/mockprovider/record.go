package mockprovider

import "time"

// Usage is what a provider would bill, in tokens.
type Usage struct {
	// Input is all input, cached and written to the cache included.
	Input      int64 `json:"input_tokens"`
	Cached     int64 `json:"cached_tokens"`
	CacheWrite int64 `json:"cache_write_tokens"`
	// CacheWrite1h is the part of CacheWrite with a lifetime of one hour.
	CacheWrite1h int64 `json:"cache_write_1h_tokens"`
	// Output is all output, reasoning included.
	Output    int64 `json:"output_tokens"`
	Reasoning int64 `json:"reasoning_tokens"`
}

// Record is one request as the provider saw it.
type Record struct {
	// Seq counts requests from 1, over restarts too when there is a journal.
	Seq uint64 `json:"seq"`
	// ID is the provider's own, sent as x-request-id (request-id for Anthropic).
	ID string `json:"id"`
	// RequestID, IdempotencyKey and TraceParent are the headers that the request carried.
	RequestID      string    `json:"request_id,omitempty"`
	IdempotencyKey string    `json:"idempotency_key,omitempty"`
	TraceParent    string    `json:"traceparent,omitempty"`
	ReceivedAt     time.Time `json:"received_at"`
	Provider       string    `json:"provider"`
	Method         string    `json:"method"`
	// Path is the provider's own, without the prefix that chose the dialect.
	Path      string `json:"path"`
	Model     string `json:"model,omitempty"`
	Stream    bool   `json:"stream"`
	Fault     string `json:"fault,omitempty"`
	BodyBytes int64  `json:"body_bytes"`
	// LeakedKey reports that one of the gateway's own keys came through.
	LeakedKey bool `json:"leaked_key,omitempty"`
	// Status is 0 when nothing was answered.
	Status int `json:"status"`
	// Usage is what was produced, and would be billed, when the request ended; all zero on errors.
	Usage Usage `json:"usage"`
	// UsageReported says that the usage was part of what was written.
	UsageReported bool `json:"usage_reported"`
	// Finished says that the whole answer was written and the connection did not complain.
	Finished bool `json:"finished"`
	// Ended says that the provider is done with the request, whole or not.
	Ended         bool  `json:"ended"`
	ResponseBytes int64 `json:"response_bytes"`
}
