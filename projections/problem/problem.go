// Package problem holds the one error that a client of the admin and analytics API sees:
// application/problem+json. It stands apart because control and query both return it and
// neither may know the other's insides.
package problem

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// ContentType is the media type of every error body.
const ContentType = "application/problem+json"

// Codes that clients branch on.
const (
	InvalidRequest     = "invalid_request"
	InvalidAPIKey      = "invalid_api_key"
	APIKeyExpired      = "api_key_expired"
	APIKeyRevoked      = "api_key_revoked"
	InsufficientScope  = "insufficient_scope"
	NotFound           = "not_found"
	MethodNotAllowed   = "method_not_allowed"
	Conflict           = "conflict"
	PreconditionFailed = "precondition_failed"
	BodyTooLarge       = "body_too_large"
	StoreUnavailable   = "store_unavailable"
	Internal           = "internal"
)

// Field is what is wrong with one field of a request.
type Field struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Problem is an error with a status, as RFC 9457 writes it. Cause is logged and never shown.
type Problem struct { //nolint:errname // the name that RFC 9457 gives it
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Code      string  `json:"code"`
	Detail    string  `json:"detail,omitempty"`
	Errors    []Field `json:"errors,omitempty"`
	RequestID string  `json:"request_id,omitempty"`
	// Stale and AsOf are set where the analytics store does not answer: how far it had followed the log.
	Stale bool       `json:"stale,omitempty"`
	AsOf  *time.Time `json:"as_of,omitempty"`

	cause error
	allow string
}

// New returns a problem with the status' own title.
func New(status int, code, format string, args ...any) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Invalid returns a 400 that names each bad field; the detail repeats the first one.
func Invalid(fields ...Field) *Problem {
	p := New(http.StatusBadRequest, InvalidRequest, "invalid request")
	if len(fields) > 0 {
		p.Detail = fields[0].Field + ": " + fields[0].Message
	}
	p.Errors = fields
	return p
}

// InvalidField returns a 400 for one field.
func InvalidField(field, format string, args ...any) *Problem {
	return Invalid(Field{Field: field, Message: fmt.Sprintf(format, args...)})
}

// Missing returns the 404 of a thing that does not exist or is not the caller's.
func Missing(what, id string) *Problem {
	return New(http.StatusNotFound, NotFound, "there is no %s %.100q", what, id)
}

// Hidden returns a 500 that shows nothing of its cause.
func Hidden(cause error) *Problem {
	p := New(http.StatusInternalServerError, Internal, "internal error")
	p.cause = cause
	return p
}

// Unavailable returns a 503 for a store that does not answer.
func Unavailable(cause error, format string, args ...any) *Problem {
	p := New(http.StatusServiceUnavailable, StoreUnavailable, format, args...)
	p.cause = cause
	return p
}

// Allow names the methods of a 405.
func (p *Problem) Allow(methods string) *Problem {
	p.allow = methods
	return p
}

// Error returns the detail and the cause.
func (p *Problem) Error() string {
	if p.cause != nil {
		return p.Detail + ": " + p.cause.Error()
	}
	return p.Detail
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.cause }

// Write sends the problem; the only error is the connection's.
func (p *Problem) Write(w http.ResponseWriter) error {
	h := w.Header()
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	switch p.Status {
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="rateguard"`)
	case http.StatusServiceUnavailable:
		h.Set("Retry-After", "1")
	}
	if p.allow != "" {
		h.Set("Allow", p.allow)
	}
	w.WriteHeader(p.Status)
	return json.NewEncoder(w).Encode(p)
}
