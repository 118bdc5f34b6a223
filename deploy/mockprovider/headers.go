package mockprovider

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// The limits that the headers claim; nothing is refused by them.
const (
	requestsPerMinute = 10_000
	tokensPerMinute   = 2_000_000
)

// minute counts the requests of the running minute for the limit headers.
type minute struct {
	mu    sync.Mutex // guards what follows
	start time.Time
	count int64
}

func (m *minute) take(now time.Time) (used int64, reset time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.start) >= time.Minute {
		m.start, m.count = now.Truncate(time.Minute), 0
	}
	m.count++
	return m.count, m.start.Add(time.Minute).Sub(now)
}

// limitHeaders writes the limit headers of the dialect.
func (c *call) limitHeaders() {
	if c.dialect != openAI && c.dialect != anthropic {
		return
	}
	now := time.Now()
	used, reset := c.p.minute.take(now)
	requests := strconv.FormatInt(max(0, requestsPerMinute-used), 10)
	tokens := strconv.FormatInt(max(0, tokensPerMinute-used*100), 10)
	h := c.w.Header()
	if c.dialect == anthropic {
		at := now.Add(reset).UTC().Format(time.RFC3339)
		for name, v := range map[string][2]string{
			"requests": {strconv.Itoa(requestsPerMinute), requests}, "tokens": {strconv.Itoa(tokensPerMinute), tokens},
		} {
			h.Set("Anthropic-Ratelimit-"+name+"-Limit", v[0])
			h.Set("Anthropic-Ratelimit-"+name+"-Remaining", v[1])
			h.Set("Anthropic-Ratelimit-"+name+"-Reset", at)
		}
		return
	}
	h.Set("X-Ratelimit-Limit-Requests", strconv.Itoa(requestsPerMinute))
	h.Set("X-Ratelimit-Limit-Tokens", strconv.Itoa(tokensPerMinute))
	h.Set("X-Ratelimit-Remaining-Requests", requests)
	h.Set("X-Ratelimit-Remaining-Tokens", tokens)
	h.Set("X-Ratelimit-Reset-Requests", reset.Round(time.Millisecond).String())
	h.Set("X-Ratelimit-Reset-Tokens", reset.Round(time.Millisecond).String())
}

// identify writes the provider's own request id.
func (c *call) identify() {
	h := c.w.Header()
	switch c.dialect {
	case anthropic:
		h.Set("Request-Id", c.record.ID)
	case openAI:
		h.Set("X-Request-Id", c.record.ID)
		h.Set("Openai-Version", "2020-10-01")
		h.Set("Openai-Organization", "mock")
	default:
		h.Set("X-Request-Id", c.record.ID)
	}
	h.Set("Server", "mockprovider")
}

func errorType(d dialect) string {
	if d == generic {
		return "application/problem+json"
	}
	return "application/json"
}

// errorBody is an error as the provider writes it.
func errorBody(d dialect, status int, message, id string) obj {
	switch d {
	case anthropic:
		return obj{"type": "error", "error": obj{"type": anthropicError(status), "message": message}, "request_id": id}
	case gemini:
		return obj{"error": obj{"code": status, "message": message, "status": geminiError(status)}}
	case generic:
		return obj{"type": "about:blank", "title": http.StatusText(status), "status": status, "detail": message}
	default:
		kind, code := openAIError(status)
		return obj{"error": obj{"message": message, "type": kind, "param": nil, "code": code}}
	}
}

// errorEvent is how a provider ends a stream that fails.
func errorEvent(d dialect, id string) (name string, body obj) {
	switch d {
	case anthropic:
		return "error", errorBody(d, 529, "Overloaded", id)
	case gemini:
		return "", errorBody(d, http.StatusServiceUnavailable, "The model is overloaded.", id)
	default:
		return "", errorBody(openAI, http.StatusInternalServerError, "The server had an error while processing your request.", id)
	}
}

func openAIError(status int) (kind string, code any) {
	switch status {
	case http.StatusUnauthorized:
		return "invalid_request_error", "invalid_api_key"
	case http.StatusNotFound:
		return "invalid_request_error", "model_not_found"
	case http.StatusTooManyRequests:
		return "requests", "rate_limit_exceeded"
	}
	if status >= 500 {
		return "server_error", nil
	}
	return "invalid_request_error", nil
}

func anthropicError(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "authentication_error"
	case http.StatusForbidden:
		return "permission_error"
	case http.StatusNotFound:
		return "not_found_error"
	case http.StatusRequestEntityTooLarge:
		return "request_too_large"
	case http.StatusTooManyRequests:
		return "rate_limit_error"
	case 529:
		return "overloaded_error"
	}
	if status >= 500 {
		return "api_error"
	}
	return "invalid_request_error"
}

func geminiError(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "UNAUTHENTICATED"
	case http.StatusForbidden:
		return "PERMISSION_DENIED"
	case http.StatusNotFound:
		return "NOT_FOUND"
	case http.StatusTooManyRequests:
		return "RESOURCE_EXHAUSTED"
	case http.StatusServiceUnavailable:
		return "UNAVAILABLE"
	}
	if status >= 500 {
		return "INTERNAL"
	}
	return "INVALID_ARGUMENT"
}
