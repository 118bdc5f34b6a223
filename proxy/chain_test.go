package proxy_test

import (
	"bytes"
	"flag"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/spool"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

var update = flag.Bool("update", false, "rewrite the goldens")

const chatBody = `{"model":"gpt-4o-mini","max_tokens":100,"messages":[{"role":"user","content":"hello"}]}`

const chatAnswer = `{"id":"c1","object":"chat.completion","model":"gpt-4o-mini","choices":[{"index":0,"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":1000,"completion_tokens":10,"total_tokens":1010,"prompt_tokens_details":{"cached_tokens":0}}}`

func answerJSON(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(body))
	}
}

// Which status wins, and what of it stands in the log.
func TestChainDecides(t *testing.T) {
	past := time.Now().Add(-time.Hour).UnixMicro()
	keys := map[string]*rateguardv1.KeyRecord{
		"rg_expired": {ExpiresAtUnixUs: past},
		"rg_revoked": {RevokedAtUnixUs: past},
		// Revoked and expired: revoked is said, since it is the stronger word.
		"rg_both":   {RevokedAtUnixUs: past, ExpiresAtUnixUs: past},
		"rg_scoped": {Scopes: []string{"read:usage"}},
		"rg_invoke": {Scopes: []string{"read:usage", "invoke"}},
		"rg_routes": {Routes: []string{"anthropic"}},
		"rg_models": {Models: []string{"gpt-4*", "text-?"}},
	}
	const mini = "/v1/chat/completions"
	cases := []struct {
		name, key, path, body string
		status                int
		code                  string
		// frames are the appends: "open end", "plain" or none.
		frames string
	}{
		{"served", goodKey, mini, chatBody, 200, "", "open end"},
		{"served by name", goodKey, "/openai" + mini, chatBody, 200, "", "open end"},
		{"no key", "", mini, chatBody, 401, "invalid_api_key", ""},
		{"unknown key", "rg_nobody", mini, chatBody, 401, "invalid_api_key", ""},
		{"unknown key wins over malformed body", "rg_nobody", mini, "{", 401, "invalid_api_key", ""},
		{"expired", "rg_expired", mini, chatBody, 401, "api_key_expired", ""},
		{"revoked", "rg_revoked", mini, chatBody, 401, "api_key_revoked", ""},
		{"revoked and expired", "rg_both", mini, chatBody, 401, "api_key_revoked", ""},
		{"scopes without invoke", "rg_scoped", mini, chatBody, 403, "insufficient_scope", "plain"},
		{"scopes with invoke", "rg_invoke", mini, chatBody, 200, "", "open end"},
		{"route not in the key's list", "rg_routes", mini, chatBody, 403, "route_not_allowed", "plain"},
		{"no such route", goodKey, "/nowhere/v1/x", chatBody, 404, "route_not_found", "plain"},
		{"no such route wins over a forbidden one", "rg_routes", "/nowhere/v1/x", chatBody, 404, "route_not_found", "plain"},
		{"model in the key's list", "rg_models", mini, chatBody, 200, "", "open end"},
		{"model not in the key's list", "rg_models", mini, strings.Replace(chatBody, "gpt-4o-mini", "o3", 1), 403, "model_not_allowed", "plain"},
		{"no model for a key with a list", "rg_models", "/v1/anything", `{}`, 403, "model_not_allowed", "plain"},
		{"malformed JSON", goodKey, mini, `{"model":"gpt-4o-mini",`, 400, "invalid_request", "plain"},
		{"array", goodKey, mini, `[]`, 400, "invalid_request", "plain"},
		{"empty", goodKey, mini, ``, 400, "invalid_request", "plain"},
		{"nested too deep", goodKey, mini, `{"model":"m","x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}`, 400, "invalid_request", "plain"},
		{"model twice", goodKey, mini, `{"model":"cheap","model":"dear"}`, 400, "invalid_request", "plain"},
		{"model twice in other spelling", goodKey, mini, `{"model":"cheap","MODEL":"dear"}`, 400, "invalid_request", "plain"},
		{"model twice, escaped", goodKey, mini, `{"model":"cheap","mod\u0065l":"dear"}`, 400, "invalid_request", "plain"},
		{"no model", goodKey, mini, `{"messages":[]}`, 400, "invalid_request", "plain"},
		{"model no string", goodKey, mini, `{"model":7}`, 400, "invalid_request", "plain"},
		{"stream no boolean", goodKey, mini, `{"model":"m","stream":"yes"}`, 400, "invalid_request", "plain"},
		{"negative tokens", goodKey, mini, `{"model":"m","max_tokens":-1}`, 400, "invalid_request", "plain"},
		{"fraction of a token", goodKey, mini, `{"model":"m","max_tokens":1.5}`, 400, "invalid_request", "plain"},
		{"null limits", goodKey, mini, `{"model":"m","max_tokens":null,"n":null,"stream":null}`, 200, "", "open end"},
		{"out of the base URL", goodKey, "/openai/v1/%2e%2e/%2e%2e/admin", `{}`, 400, "invalid_request", "plain"},
		{"unknown path", goodKey, "/v1/brand-new", `not json`, 200, "", "open end"},
		{"model without price", goodKey, mini, `{"model":"nobody-sells-this"}`, 200, "", "open end"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigConfig{upstream: upstreamFunc(t, answerJSON(chatAnswer))})
			for text, k := range keys {
				r.addKey(t, text, k)
			}
			auth := "Bearer " + tc.key
			if tc.key == "" {
				auth = ""
			}
			got := r.post(t, tc.path, tc.body, "Authorization", auth)
			if got.status != tc.status || got.header.Get("X-Rateguard-Error") != tc.code {
				t.Errorf("got %d %q (%s), want %d %q", got.status, got.header.Get("X-Rateguard-Error"), got.body, tc.status, tc.code)
			}
			var kinds []string
			for _, f := range r.log.all() {
				kinds = append(kinds, f.kind)
			}
			if s := strings.Join(kinds, " "); s != tc.frames {
				t.Errorf("frames: got %q, want %q", s, tc.frames)
			}
			if tc.frames == "" {
				return
			}
			row := r.log.row(t)
			if row.GetErrorCode() != tc.code || int(row.GetStatus()) != tc.status {
				t.Errorf("row: got %d %q, want %d %q", row.GetStatus(), row.GetErrorCode(), tc.status, tc.code)
			}
			if id := got.header.Get("X-Request-Id"); id != row.GetRequestId() || len(id) != 36 || id[14] != '7' {
				t.Errorf("x-request-id: got %q, row has %q", id, row.GetRequestId())
			}
		})
	}
}

func TestKeyIsFoundInEveryPlace(t *testing.T) {
	cases := map[string]struct {
		path   string
		header []string
	}{
		"bearer":         {"/v1/chat/completions", []string{"Authorization", "bearer " + goodKey}},
		"x-api-key":      {"/v1/chat/completions", []string{"Authorization", "", "x-api-key", goodKey}},
		"api-key":        {"/v1/chat/completions", []string{"Authorization", "", "api-key", goodKey}},
		"x-goog-api-key": {"/v1/chat/completions", []string{"Authorization", "", "x-goog-api-key", goodKey}},
		"query":          {"/v1beta/models/gemini-2.0-flash:generateContent?a=1&key=" + goodKey + "&b=2", []string{"Authorization", ""}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var seen string
			r := newRig(t, rigConfig{upstream: upstreamFunc(t, func(w http.ResponseWriter, req *http.Request) {
				var b bytes.Buffer
				_ = req.Header.Write(&b)
				seen = req.URL.String() + b.String()
				answerJSON(chatAnswer)(w, req)
			})})
			if got := r.post(t, tc.path, chatBody, tc.header...); got.status != 200 {
				t.Fatalf("got %d %s", got.status, got.body)
			}
			if strings.Contains(seen, goodKey) {
				t.Errorf("the client's key reached the upstream: %s", seen)
			}
			if !strings.Contains(seen, upstreamSecret) {
				t.Errorf("the route's credential did not reach the upstream: %s", seen)
			}
			if name == "query" && !strings.Contains(seen, "?a=1&b=2") {
				t.Errorf("the rest of the query changed: %s", seen)
			}
		})
	}
}

// A full log refuses before anything is sent.
func TestNothingIsSentThatTheLogDoesNotHold(t *testing.T) {
	sent := false
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, func(w http.ResponseWriter, req *http.Request) {
		sent = true
		answerJSON(chatAnswer)(w, req)
	})})
	r.log.refuse = spool.ErrFull
	got := r.post(t, "/v1/chat/completions", chatBody)
	if got.status != 503 || got.header.Get("X-Rateguard-Error") != "store_unavailable" || got.header.Get("Retry-After") == "" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	if sent {
		t.Error("the upstream saw a request that the log does not hold")
	}
	if row := r.log.row(t); row.GetDecision() != rateguardv1.Decision_DECISION_DENIED || row.GetCostNanoUsd() != 0 {
		t.Errorf("row: %v", row)
	}
}

var requestID = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)

// The bytes of errors, in each dialect.
func TestErrorsSpeakTheDialect(t *testing.T) {
	for name, tc := range map[string]struct{ path, key, body string }{
		"openai_unknown_key":     {"/v1/chat/completions", "rg_nobody", chatBody},
		"anthropic_unknown_key":  {"/v1/messages", "rg_nobody", chatBody},
		"gemini_unknown_key":     {"/v1beta/models/x:generateContent", "rg_nobody", chatBody},
		"http_unknown_key":       {"/http/x", "rg_nobody", chatBody},
		"openai_malformed":       {"/v1/chat/completions", goodKey, `{"model":7}`},
		"anthropic_malformed":    {"/v1/messages", goodKey, `{`},
		"gemini_malformed":       {"/v1beta/models/x:generateContent", goodKey, `{`},
		"http_too_large":         {"/http/x", goodKey, strings.Repeat("x", 5000)},
		"openai_too_large":       {"/v1/chat/completions", goodKey, strings.Repeat("x", 5000)},
		"anthropic_unreachable":  {"/v1/messages", goodKey, chatBody},
		"gemini_unreachable":     {"/v1beta/models/x:generateContent", goodKey, chatBody},
		"http_unreachable":       {"/http/x", goodKey, "x"},
		"openai_route_not_found": {"/nowhere/v1/x", goodKey, chatBody},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{upstream: "http://127.0.0.1:1", maxBody: 4096})
			got := r.post(t, tc.path, tc.body, "Authorization", "Bearer "+tc.key)
			var b bytes.Buffer
			for _, h := range []string{"Content-Type", "X-Rateguard-Error", "X-Should-Retry", "Retry-After"} {
				if v := got.header.Get(h); v != "" {
					b.WriteString(h + ": " + v + "\n")
				}
			}
			b.WriteString(http.StatusText(got.status) + "\n" + requestID.ReplaceAllString(got.body, "<id>") + "\n")
			path := filepath.Join("testdata", "errors", name)
			if *update {
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, b.Bytes()) {
				t.Errorf("got\n%s\nwant\n%s", b.Bytes(), want)
			}
		})
	}
}
