package intake

import (
	"mime"
	"net/http"
	"strings"

	"github.com/rateguard/rateguard/proxy/call"
)

// asItIs refuses a body that its headers say to be something else than the bytes that are read here: compressed, or in another alphabet. A text can be
// made that is a request both ways.
func asItIs(h http.Header) error {
	for _, v := range h["Content-Encoding"] {
		if v = strings.TrimSpace(v); v != "" && !strings.EqualFold(v, "identity") {
			return &call.Error{Code: call.InvalidRequest, Message: "The request body is encoded; send it without Content-Encoding."}
		}
	}
	types := h["Content-Type"]
	if len(types) > 1 {
		return &call.Error{Code: call.InvalidRequest, Message: "The request has several Content-Types."}
	}
	if len(types) == 0 || !strings.Contains(strings.ToLower(types[0]), "charset") {
		return nil
	}
	_, params, err := mime.ParseMediaType(types[0])
	if charset := params["charset"]; err != nil || !strings.EqualFold(charset, "utf-8") && !strings.EqualFold(charset, "utf8") && !strings.EqualFold(charset, "us-ascii") {
		return &call.Error{Code: call.InvalidRequest, Message: "The request body must be UTF-8."}
	}
	return nil
}
