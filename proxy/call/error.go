package call

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Code is the name of an error in x-rateguard-error and in the rows of requests.
type Code string

// The errors that a client can get from us.
const (
	InvalidAPIKey       Code = "invalid_api_key"
	APIKeyExpired       Code = "api_key_expired"
	APIKeyRevoked       Code = "api_key_revoked"
	RouteNotAllowed     Code = "route_not_allowed"
	ModelNotAllowed     Code = "model_not_allowed"
	InsufficientScope   Code = "insufficient_scope"
	RouteNotFound       Code = "route_not_found"
	InvalidRequest      Code = "invalid_request"
	PriceUnknown        Code = "price_unknown"
	CostUnbounded       Code = "cost_unbounded"
	BodyTooLarge        Code = "body_too_large"
	RateLimitExceeded   Code = "rate_limit_exceeded"
	BudgetExceeded      Code = "budget_exceeded"
	BudgetContention    Code = "budget_contention"
	StoreUnavailable    Code = "store_unavailable"
	UpstreamUnreachable Code = "upstream_unreachable"
	UpstreamTimeout     Code = "upstream_timeout"
	Internal            Code = "internal"
)

// StatusClientGone is logged for a client that left before its answer was complete.
const StatusClientGone = 499

// Spec is one row of the error table.
type Spec struct {
	Code   Code
	Status int
	// Retry says whether the same request may succeed later; SDKs are told with x-should-retry.
	Retry bool
	// Message is the default text.
	Message string
	// The type of the error in each dialect.
	OpenAIType    string
	AnthropicType string
	GeminiStatus  string
}

// Table is the one table of errors: code, status, retryable, names in the dialects.
var Table = []Spec{
	{InvalidAPIKey, 401, false, "The API key is missing or unknown.", "invalid_request_error", "authentication_error", "UNAUTHENTICATED"},
	{APIKeyExpired, 401, false, "The API key has expired.", "invalid_request_error", "authentication_error", "UNAUTHENTICATED"},
	{APIKeyRevoked, 401, false, "The API key was revoked.", "invalid_request_error", "authentication_error", "UNAUTHENTICATED"},
	{RouteNotAllowed, 403, false, "This API key may not use this route.", "invalid_request_error", "permission_error", "PERMISSION_DENIED"},
	{ModelNotAllowed, 403, false, "This API key may not use this model.", "invalid_request_error", "permission_error", "PERMISSION_DENIED"},
	{InsufficientScope, 403, false, "This API key lacks the scope invoke.", "invalid_request_error", "permission_error", "PERMISSION_DENIED"},
	{RouteNotFound, 404, false, "There is no such route in this workspace.", "invalid_request_error", "not_found_error", "NOT_FOUND"},
	{InvalidRequest, 400, false, "The request is malformed.", "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"},
	{PriceUnknown, 400, false, "A hard budget applies and the model has no price.", "invalid_request_error", "invalid_request_error", "FAILED_PRECONDITION"},
	{CostUnbounded, 400, false, "A hard budget applies and the cost of this call has no bound.", "invalid_request_error", "invalid_request_error", "FAILED_PRECONDITION"},
	{BodyTooLarge, 413, false, "The request body is too large.", "invalid_request_error", "request_too_large", "INVALID_ARGUMENT"},
	{RateLimitExceeded, 429, true, "A rate limit is exceeded.", "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED"},
	{BudgetExceeded, 402, false, "A budget is exceeded.", "insufficient_quota", "billing_error", "RESOURCE_EXHAUSTED"},
	{BudgetContention, 429, true, "A budget is held by requests that are still open.", "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED"},
	{StoreUnavailable, 503, true, "A store that this request needs is not available.", "server_error", "overloaded_error", "UNAVAILABLE"},
	{UpstreamUnreachable, 502, true, "The upstream could not be reached.", "server_error", "api_error", "UNAVAILABLE"},
	{UpstreamTimeout, 504, true, "The upstream did not answer in time.", "server_error", "api_error", "DEADLINE_EXCEEDED"},
	{Internal, 500, true, "internal error", "server_error", "api_error", "INTERNAL"},
}

var byCode = func() map[Code]Spec {
	m := make(map[Code]Spec, len(Table))
	for _, s := range Table {
		m[s.Code] = s
	}
	return m
}()

// Spec returns the row of the code; of an unknown one that of Internal.
func (c Code) Spec() Spec {
	if s, ok := byCode[c]; ok {
		return s
	}
	return byCode[Internal]
}

// ErrAborted says that the answer has begun and cannot be completed: the connection is cut, so that the
// client sees that it did not get everything.
var ErrAborted = errors.New("answer was cut")

// Error is what a client gets to see. The cause is logged and never shown.
type Error struct {
	Code Code
	// Message replaces the table's text when it is set.
	Message string
	// Param names the field of the body at fault; may be empty.
	Param string
	// Status replaces the table's when it is not zero.
	Status int
	// RetryAfter is sent, rounded up, when it is not zero.
	RetryAfter time.Duration
	Cause      error
}

// Fail returns an error of the code with its cause, which may be nil.
func Fail(code Code, cause error) *Error { return &Error{Code: code, Cause: cause} }

// Error returns the code, the message and the cause, for logs.
func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %v", e.Code, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Text())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// Text returns the message that the client sees.
func (e *Error) Text() string {
	if e.Message != "" {
		return e.Message
	}
	return e.Code.Spec().Message
}

// HTTPStatus returns the status that the client sees.
func (e *Error) HTTPStatus() int {
	if e.Status != 0 {
		return e.Status
	}
	return e.Code.Spec().Status
}

// AsError returns what the client gets for any error: an *Error as it is, every other as Internal.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Code: Internal, Cause: err}
}

// statusTitle returns the title of a problem+json.
func statusTitle(status int) string {
	if t := http.StatusText(status); t != "" {
		return t
	}
	return "Error"
}
