package proxy_test

import (
	"net/http"
	"strings"
	"testing"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Whatever a client's spelling, what goes upstream has the cap once, where the provider looks for it, and asks for the usage of a stream.
func TestNoSpellingKeepsTheCapOrTheUsageAway(t *testing.T) {
	for name, tc := range map[string]struct{ path, body, want, not string }{
		"unknown name":            {chatPath, `{"model":"gpt-4o-mini","MaxTokens":9,"messages":[]}`, `"max_completion_tokens":50`, ""},
		"escaped name, null":      {chatPath, `{"model":"gpt-4o-mini","max\u005ftokens":null,"messages":[]}`, `:50`, `null`},
		"usage, escaped":          {chatPath, `{"model":"gpt-4o-mini","max_tokens":1,"stream":true,"stream\u005foptions":{"include\u005fusage":false},"messages":[]}`, `true}`, `false`},
		"usage in other letters":  {chatPath, `{"model":"gpt-4o-mini","max_tokens":1,"stream":true,"Stream_options":{"include_usage":true},"messages":[]}`, `stream_options":{"include_usage":true},"model"`, ""},
		"escaped name, Gemini":    {geminiPath, `{"contents":[],"generation\u0043onfig":{"max\u004futputTokens":null}}`, `:50`, `null`},
		"other object, two names": {geminiPath, `{"contents":[],"generation_config":{"max_output_tokens":null}}`, `"max_output_tokens":50`, `maxOutputTokens`},
	} {
		t.Run(name, func(t *testing.T) {
			url, seen := recorder(t)
			r := newRig(t, rigConfig{upstream: url, settings: &rateguardv1.WorkspaceSettings{DefaultMaxOutputTokens: 50}})
			if got := r.post(t, tc.path, tc.body); got.status != http.StatusOK {
				t.Fatalf("%d %s", got.status, got.body)
			}
			_, body, _ := strings.Cut(seen.String(), `{"`)
			if !strings.Contains(body, tc.want) || tc.not != "" && strings.Contains(body, tc.not) || strings.Count(body, ":50") > 1 {
				t.Errorf("upstream saw {%q", body)
			}
		})
	}
}
