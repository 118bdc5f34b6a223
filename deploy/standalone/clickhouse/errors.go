package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"regexp"
	"strings"
)

var codePattern = regexp.MustCompile(`Code:\s*(\d+)\.`)

// errorText gives every error the form that ClickHouse's clients parse.
func errorText(err error) string {
	var failed *queryError
	if errors.As(err, &failed) {
		text := strings.TrimSpace(failed.text)
		if i := strings.Index(text, "Code: "); i > 0 {
			text = text[i:]
		}
		if codePattern.MatchString(text) {
			return text
		}
		return "Code: 1001. DB::Exception: " + text + " (STD_EXCEPTION)"
	}
	switch {
	case errors.Is(err, errClosed):
		return "Code: 236. DB::Exception: " + err.Error() + ". (ABORTED)"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "Code: 394. DB::Exception: Query was cancelled: " + err.Error() + ". (QUERY_WAS_CANCELLED)"
	default:
		return "Code: 1002. DB::Exception: " + err.Error() + " (UNKNOWN_EXCEPTION)"
	}
}

func errorCode(text string) string {
	m := codePattern.FindStringSubmatch(text)
	if m == nil {
		return "1002"
	}
	return m[1]
}

// statusOf maps a code as ClickHouse's HTTP interface does for the common ones.
func statusOf(text string) int {
	switch errorCode(text) {
	case "516":
		return http.StatusUnauthorized
	case "497":
		return http.StatusForbidden
	case "60", "81", "46", "47":
		return http.StatusNotFound
	case "62", "53", "6", "26", "27", "36", "38", "41", "69", "72", "115", "117", "456", "457":
		return http.StatusBadRequest
	case "48":
		return http.StatusNotImplemented
	case "241", "202":
		return http.StatusServiceUnavailable
	case "159":
		return http.StatusRequestTimeout
	default:
		return http.StatusInternalServerError
	}
}

// newTag marks the error block of one response, so that data cannot pass for one.
func newTag() string {
	var raw [8]byte
	_, _ = rand.Read(raw[:])
	return hex.EncodeToString(raw[:])
}
