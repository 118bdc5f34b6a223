package call

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

type openAIBody struct {
	Error openAIError `json:"error"`
}

type openAIError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    Code    `json:"code"`
}

type anthropicBody struct {
	Type      string         `json:"type"`
	Error     anthropicError `json:"error"`
	RequestID string         `json:"request_id"`
}

type anthropicError struct {
	Type    string `json:"type"`
	Message string `json:"message"`
}

type geminiBody struct {
	Error geminiError `json:"error"`
}

type geminiError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Status  string `json:"status"`
}

type problemBody struct {
	Type      string `json:"type"`
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail"`
	Code      Code   `json:"code"`
	RequestID string `json:"request_id"`
}

// WriteError writes an error in the dialect: the only place that does. It returns the length of the body.
func WriteError(w http.ResponseWriter, d Dialect, requestID string, e *Error) int64 {
	spec, status := e.Code.Spec(), e.HTTPStatus()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Rateguard-Error", string(spec.Code))
	h.Set("X-Request-Id", requestID)
	if !spec.Retry {
		h.Set("X-Should-Retry", "false")
	}
	if e.RetryAfter > 0 {
		// Rounded up: a client that waits exactly this long is not too early.
		h.Set("Retry-After", strconv.FormatInt(ceil(e.RetryAfter, time.Second), 10))
		h.Set("Retry-After-Ms", strconv.FormatInt(ceil(e.RetryAfter, time.Millisecond), 10))
	}
	var body any
	switch d {
	case OpenAI:
		o := openAIError{Message: e.Text(), Type: spec.OpenAIType, Code: spec.Code}
		if e.Param != "" {
			o.Param = &e.Param
		}
		body = openAIBody{o}
	case Anthropic:
		body = anthropicBody{"error", anthropicError{spec.AnthropicType, e.Text()}, requestID}
	case Gemini:
		body = geminiBody{geminiError{status, e.Text(), spec.GeminiStatus}}
	case HTTP:
		h.Set("Content-Type", "application/problem+json")
		body = problemBody{"about:blank", statusTitle(status), status, e.Text(), spec.Code, requestID}
	}
	b, err := json.Marshal(body)
	if err != nil {
		b = []byte(`{"error":"internal error"}`) // impossible: the bodies hold strings and numbers
	}
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client may be gone: nothing can be done about it
	return int64(len(b))
}

func ceil(d, unit time.Duration) int64 { return int64((d + unit - 1) / unit) }
