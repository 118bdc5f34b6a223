package forward

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/rateguard/rateguard/proxy/call"
)

// capOutput returns the body with the maximum of output tokens that the call is sent with: in place of those that it names, else under the
// name that its API has for it. The rest of the body keeps its bytes.
func capOutput(c *call.Call, body []byte) ([]byte, error) {
	parent := ""
	if c.Asked.API == call.GeminiGenerate {
		parent = "generationConfig"
		gjson.ParseBytes(body).ForEach(func(k, v gjson.Result) bool {
			var room [call.MaxCanonical]byte
			if string(call.Canonical(k.Str, &room)) == "generationconfig" && v.IsObject() {
				parent = k.Str
			}
			return true
		})
	}
	object := gjson.ParseBytes(body)
	if parent != "" {
		object = gjson.GetBytes(body, parent)
		parent += "."
	}
	var names []string
	maxima := call.Maxima(c.Asked.API, c.Route.Provider)
	object.ForEach(func(k, _ gjson.Result) bool {
		if slices.Contains(maxima, k.Str) {
			names = append(names, k.Str)
		}
		return true
	})
	if len(names) == 0 {
		names = maxima[:1]
	}
	for _, name := range names {
		var err error
		if body, err = sjson.SetRawBytes(body, parent+name, strconv.AppendInt(nil, c.Asked.Cap, 10)); err != nil {
			return nil, fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return body, nil
}
