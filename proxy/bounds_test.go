package proxy_test

import (
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/intake"
	"github.com/rateguard/rateguard/proxy/quote"
	"github.com/rateguard/rateguard/schemas/price"
)

type catalogue struct{}

func (catalogue) Prices() *price.Catalogue { return price.Default() }

// request is one call as a client of a provider's route makes it.
type request struct {
	// provider is the catalogue's; its dialect follows unless it is OpenAI's.
	provider, path, body string
	headers              []string
}

// quoted takes a request to where budgets reserve for it.
func quoted(t *testing.T, r request) (*call.Call, error) {
	t.Helper()
	dialect := call.OpenAI
	switch r.provider {
	case "anthropic":
		dialect = call.Anthropic
	case "google":
		dialect = call.Gemini
	}
	req := httptest.NewRequestWithContext(t.Context(), "POST", r.path, strings.NewReader(r.body))
	for i := 0; i < len(r.headers); i += 2 {
		req.Header.Add(r.headers[i], r.headers[i+1])
	}
	c := &call.Call{
		Writer: httptest.NewRecorder(), Request: req, Start: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), RouteID: "r", Path: req.URL.EscapedPath(),
		Key: &call.Key{Invoke: true}, Workspace: &call.Workspace{Routes: map[string]*call.Route{"r": {ID: "r", Dialect: dialect, Provider: r.provider}}},
	}
	last := quote.New(catalogue{}, prometheus.NewRegistry(), call.HandlerFunc(func(*call.Call) error { return nil }))
	return c, intake.New(intake.Config{MaxBody: 32 << 20}, last).Serve(c)
}

const (
	chatPath      = "/v1/chat/completions"
	responsesPath = "/v1/responses"
	messagesPath  = "/v1/messages"
	geminiPath    = "/v1beta/models/gemini-2.5-flash:generateContent"
)

// Each request makes its provider bill what stands beside it, if it is served at all. Whoever holds a hard budget must have reserved that.
func TestNoRequestIsBilledAboveItsBound(t *testing.T) {
	t.Parallel()
	const hi = `"messages":[{"role":"user","content":"hi"}]`
	form := func(parts ...string) string {
		return "--b\r\nContent-Disposition: form-data; " + strings.Join(parts, "\r\n--b\r\nContent-Disposition: form-data; ") + "\r\n--b--\r\n"
	}
	for name, tc := range map[string]struct {
		request
		// billed of the model is what the provider may honestly report; a zero usage is of a call that has fees which stand in no price list.
		model  string
		billed price.Usage
	}{
		"maximum by a name that the API does not know": {
			request{provider: "together", path: chatPath, body: `{"model":"mistralai/Mistral-7B-Instruct-v0.2","max_output_tokens":1,` + hi + `}`},
			"mistralai/Mistral-7B-Instruct-v0.2",
			price.Usage{InputTokens: 8, OutputTokens: 4096},
		},
		"maximum in other letters": {
			request{provider: "deepseek", path: chatPath, body: `{"model":"deepseek-chat","MAX_TOKENS":1,` + hi + `}`},
			"deepseek-chat",
			price.Usage{InputTokens: 8, OutputTokens: 8192},
		},
		"maximum by a name that the provider does not know": {
			request{provider: "deepseek", path: chatPath, body: `{"model":"deepseek-chat","max_completion_tokens":1,` + hi + `}`},
			"deepseek-chat",
			price.Usage{InputTokens: 8, OutputTokens: 8192},
		},
		"maximum in an object of another API": {
			request{provider: "openai", path: chatPath, body: `{"model":"gpt-4o","generationConfig":{"max_tokens":1},` + hi + `}`},
			"gpt-4o",
			price.Usage{InputTokens: 8, OutputTokens: 16_384},
		},
		"model in an object of another API": {
			request{provider: "openai", path: chatPath, body: `{"model":"gpt-5-pro","max_tokens":9,"generationConfig":{"model":"gpt-4o-mini"},` + hi + `}`},
			"gpt-5-pro",
			price.Usage{InputTokens: 8, OutputTokens: 9},
		},
		"model of the path": {
			request{provider: "azure", path: "/openai/deployments/gpt-5-pro/chat/completions", body: `{"model":"gpt-4o-mini","max_tokens":900,` + hi + `}`},
			"gpt-5-pro",
			price.Usage{InputTokens: 8, OutputTokens: 900},
		},
		"many prompts": {
			request{provider: "openai", path: "/v1/completions", body: `{"model":"gpt-3.5-turbo-instruct","max_tokens":1000,"n":2,"prompt":["a","b","c"]}`},
			"gpt-3.5-turbo-instruct",
			price.Usage{InputTokens: 3, OutputTokens: 6000},
		},
		"many prompts of tokens": {
			request{provider: "openai", path: "/v1/completions", body: `{"prompt":[[1],[2]],"model":"gpt-3.5-turbo-instruct","max_tokens":1000}`},
			"gpt-3.5-turbo-instruct",
			price.Usage{InputTokens: 2, OutputTokens: 2000},
		},
		"cache that is written unasked": {
			request{provider: "openai", path: chatPath, body: `{"model":"gpt-6-sol","max_completion_tokens":1,"messages":[{"role":"user","content":"` + strings.Repeat("!", 5000) + `"}]}`},
			"gpt-6-sol",
			price.Usage{InputTokens: 5000, CacheWriteTokens: 5000, OutputTokens: 1},
		},
		"hour of a cache in escaped digits": {
			request{provider: "anthropic", path: messagesPath, body: `{"model":"claude-sonnet-4-6","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":"` +
				strings.Repeat("!", 5000) + `","cache_control":{"type":"ephemeral","ttl":"\u0031h"}}]}]}`},
			"claude-sonnet-4-6",
			price.Usage{InputTokens: 5000, CacheWriteTokens: 5000, CacheWrite1hTokens: 5000, OutputTokens: 1},
		},
		"bytes that are no text": {
			request{provider: "openai", path: chatPath, body: `{"model":"gpt-4o","max_tokens":1,"messages":[{"role":"user","content":"` + strings.Repeat("\xff", 5000) + `"}]}`},
			"gpt-4o",
			price.Usage{InputTokens: 15_000, OutputTokens: 1},
		},
		"predicted output that is rejected": {
			request{provider: "openai", path: chatPath, body: `{"model":"gpt-4o","max_tokens":10,"prediction":{"type":"content","content":"` + strings.Repeat("ab ", 3000) + `"},` + hi + `}`},
			"gpt-4o",
			price.Usage{InputTokens: 8, OutputTokens: 3010},
		},
		"thinking beyond the maximum": {
			request{provider: "anthropic", path: messagesPath, body: `{"model":"claude-sonnet-4-6","max_tokens":10,"thinking":{"type":"enabled","budget_tokens":9000},` + hi + `}`},
			"claude-sonnet-4-6",
			price.Usage{InputTokens: 30, OutputTokens: 9010},
		},
		"documents in a window of a million": {
			request{
				provider: "anthropic", path: messagesPath, headers: []string{"Anthropic-Beta", "x,context-1m-2025-08-07"},
				body: `{"model":"claude-sonnet-4-5","max_tokens":10,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"url","url":"https://x"}}]}]}`,
			},
			"claude-sonnet-4-5",
			price.Usage{InputTokens: 1_000_000, OutputTokens: 10},
		},
		"the prompt of the provider": {
			request{provider: "x-ai", path: chatPath, body: `{"model":"grok-4","max_completion_tokens":1,` + hi + `}`},
			"grok-4",
			price.Usage{InputTokens: 700, OutputTokens: 1},
		},

		"priority":                  {request: request{provider: "openai", path: chatPath, body: `{"model":"gpt-5","max_completion_tokens":9,"service_tier":"priority",` + hi + `}`}},
		"priority in other letters": {request: request{provider: "openai", path: chatPath, body: `{"model":"gpt-5","max_completion_tokens":9,"service_t\u0069er":"Priority",` + hi + `}`}},
		"fast mode":                 {request: request{provider: "anthropic", path: messagesPath, body: `{"model":"claude-opus-4-6","max_tokens":9,"speed":"fast",` + hi + `}`}},
		"one country":               {request: request{provider: "anthropic", path: messagesPath, body: `{"model":"claude-opus-4-6","max_tokens":9,"inference_geo":"us",` + hi + `}`}},
		"compaction": {request: request{
			provider: "anthropic", path: messagesPath,
			body: `{"model":"claude-opus-4-6","max_tokens":9,"context_management":{"edits":[{"type":"compact_20260112"}]},` + hi + `}`,
		}},
		"answer for later":              {request: request{provider: "x-ai", path: chatPath, body: `{"model":"grok-4","max_tokens":9,"deferred":true,` + hi + `}`}},
		"live search":                   {request: request{provider: "x-ai", path: chatPath, body: `{"model":"grok-4","max_tokens":9,"search_parameters":{"mode":"on"},` + hi + `}`}},
		"plugins":                       {request: request{provider: "openrouter", path: chatPath, body: `{"model":"openai/gpt-4o","max_tokens":9,"plugins":[{"id":"web"}],` + hi + `}`}},
		"preset":                        {request: request{provider: "openrouter", path: chatPath, body: `{"model":"openai/gpt-4o","max_tokens":9,"preset":"p",` + hi + `}`}},
		"dearer seller":                 {request: request{provider: "openrouter", path: chatPath, body: `{"model":"openai/gpt-4o","max_tokens":9,"provider":{"order":["x"]},` + hi + `}`}},
		"model that searches by itself": {request: request{provider: "openai", path: chatPath, body: `{"model":"gpt-4o-search-preview","max_tokens":9,` + hi + `}`}},
		"Google search":                 {request: request{provider: "google", path: geminiPath, body: `{"contents":[],"generationConfig":{"maxOutputTokens":9},"tools":[{"googleSearch":{}}]}`}},
		"Google search, no list":        {request: request{provider: "google", path: geminiPath, body: `{"contents":[],"generationConfig":{"maxOutputTokens":9},"tools":{"google_search":{}}}`}},
		"Google maps":                   {request: request{provider: "google", path: geminiPath, body: `{"contents":[],"generationConfig":{"maxOutputTokens":9},"tools":[{"functionDeclarations":[]},{"googleMaps":{}}]}`}},
		"web search":                    {request: request{provider: "openai", path: responsesPath, body: `{"model":"gpt-5.3","max_output_tokens":9,"input":"x","tools":[{"type":"web_search"}]}`}},
		"container":                     {request: request{provider: "openai", path: responsesPath, body: `{"model":"gpt-4o","max_output_tokens":9,"input":"x","tools":[{"type":"function"},{"type":"code_interpreter","container":{"type":"auto"}}]}`}},
		"images":                        {request: request{provider: "openai", path: responsesPath, body: `{"model":"gpt-4o","max_output_tokens":9,"input":"x","tools":[{"type":"image_generation"}]}`}},
		"tools of another server":       {request: request{provider: "openai", path: responsesPath, body: `{"model":"gpt-4o","max_output_tokens":9,"input":"x","tools":[{"type":"mcp","server_url":"https://x"}]}`}},
		"tools in the input": {request: request{
			provider: "openai", path: responsesPath,
			body: `{"model":"gpt-4o","max_output_tokens":9,"tools":[],"input":[{"type":"additional_tools","tools":[{"t\u0079pe":"code_interpreter"}]}]}`,
		}},
		"tools in a namespace": {request: request{
			provider: "openai", path: responsesPath,
			body: `{"model":"gpt-4o","max_output_tokens":9,"input":"x","tools":[{"type":"namespace","tools":[{"type":"code_interpreter"}]}]}`,
		}},
		"type twice": {request: request{
			provider: "openai", path: responsesPath,
			body: `{"model":"gpt-4o","max_output_tokens":9,"input":"x","tools":[{"type":"function","type":"code_interpreter"}]}`,
		}},
		"code execution":   {request: request{provider: "anthropic", path: messagesPath, body: `{"model":"claude-opus-4-6","max_tokens":9,"tools":[{"type":"code_execution_20250825","name":"code_execution"}],` + hi + `}`}},
		"servers of tools": {request: request{provider: "anthropic", path: messagesPath, body: `{"model":"claude-opus-4-6","max_tokens":9,"mcp_servers":[{"type":"url","url":"https://x"}],` + hi + `}`}},
		"stored prompt":    {request: request{provider: "openai", path: responsesPath, body: `{"model":"gpt-5.3","max_output_tokens":9,"prompt":{"id":"p"}}`}},
		"compressed":       {request: request{provider: "openai", path: chatPath, headers: []string{"Content-Encoding", "deflate"}, body: `{"model":"gpt-4o","max_tokens":9,` + hi + `}`}},
		"other alphabet":   {request: request{provider: "openai", path: chatPath, headers: []string{"Content-Type", "application/json; charset=UTF-7"}, body: `{"model":"gpt-4o","max_tokens":9,` + hi + `}`}},
		"two types":        {request: request{provider: "openai", path: chatPath, headers: []string{"Content-Type", "application/json", "Content-Type", "text/plain"}, body: `{"model":"gpt-4o","max_tokens":9,` + hi + `}`}},
		"usage twice":      {request: request{provider: "openai", path: chatPath, body: `{"model":"gpt-4o","max_tokens":9,"stream":true,"stream_options":{"include_usage":true,"include_usage":false},` + hi + `}`}},
		"name with a twist": {request: request{
			provider: "openai", path: "/v1/audio/transcriptions", headers: []string{"Content-Type", "multipart/form-data; boundary=b"},
			body: form("name=\"model\"\r\n\r\ngpt-4o-mini-transcribe", "name=\"model\"; name*=utf-8''x\r\n\r\ngpt-4o-transcribe"),
		}},
		"encoded field": {request: request{
			provider: "openai", path: "/v1/audio/transcriptions", headers: []string{"Content-Type", "multipart/form-data; boundary=b"},
			body: form("name=\"model\"\r\nContent-Transfer-Encoding: base64\r\n\r\ngpt-4o-mini-transcribe"),
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := quoted(t, tc.request)
			var refused *call.Error
			if errors.As(err, &refused) && refused.HTTPStatus() == 400 {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !c.Quote.Bounded {
				return
			}
			if tc.model == "" {
				t.Fatalf("it is bounded, by %s", c.Quote.Bound)
			}
			p, err := price.Default().Find(price.Query{Provider: tc.provider, Model: tc.model, At: c.Start})
			if err != nil {
				t.Fatal(err)
			}
			if cost, err := p.Cost(tc.billed); err != nil || cost > c.Quote.Bound {
				t.Errorf("costs %s, %v; reserved %s", cost, err, c.Quote.Bound)
			}
		})
	}
}

// What only speaks of tools, media and searches has the bound of its bytes.
func TestWhatTextsSpeakOfIsNotReserved(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]request{
		"google":               {provider: "openai", path: chatPath, body: `{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"ask google, or \"web_search\" and \"url\""}]}`},
		"marks at the start":   {provider: "openai", path: chatPath, body: `{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"user","content":"image_generation, file_search"}]}`},
		"own function":         {provider: "openai", path: chatPath, body: `{"model":"gpt-4o","max_tokens":9,"messages":[],"tools":[{"type":"function","function":{"name":"web_search","parameters":{"type":"object","properties":{"url":{"type":"string"},"tools":{"type":"array"}}}}}]}`},
		"own function, answer": {provider: "openai", path: chatPath, body: `{"model":"gpt-4o","max_tokens":9,"messages":[{"role":"tool","tool_call_id":"1","name":"file_search","content":"x"}]}`},
		"own tool": {
			provider: "anthropic", path: messagesPath,
			body: `{"model":"claude-sonnet-4-6","max_tokens":9,"messages":[],"tools":[{"name":"web_search","input_schema":{"type":"object","properties":{"image":{}}}},{"type":"custom","name":"mcp"},{"type":"bash_20250124","name":"bash"}]}`,
		},
		"own declaration":    {provider: "google", path: geminiPath, body: `{"contents":[{"parts":[{"text":"google it"}]}],"generation_config":{"max_output_tokens":9},"tools":[{"function_declarations":[{"name":"google_search"}]}]}`},
		"ordinary tier":      {provider: "openai", path: chatPath, body: `{"model":"gpt-4o","max_tokens":9,"messages":[],"service_tier":"auto","prediction":null}`},
		"ordinary geography": {provider: "anthropic", path: messagesPath, body: `{"model":"claude-opus-4-6","max_tokens":9,"messages":[],"service_tier":"standard_only","inference_geo":"global","speed":"standard"}`},
		"charset":            {provider: "openai", path: chatPath, headers: []string{"Content-Type", `application/json; charset="UTF-8"`, "Content-Encoding", "identity"}, body: `{"model":"gpt-4o","max_tokens":9,"messages":[]}`},
		"edits that cost nothing": {
			provider: "anthropic", path: messagesPath,
			body: `{"model":"claude-opus-4-6","max_tokens":9,"messages":[],"context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := quoted(t, r)
			if err != nil {
				t.Fatal(err)
			}
			if !c.Quote.Bounded || c.Quote.Bound > 50_000_000 || c.Asked.Declared.HiddenInput {
				t.Errorf("bounded %t, by %s, hidden %t", c.Quote.Bounded, c.Quote.Bound, c.Asked.Declared.HiddenInput)
			}
		})
	}
}

// What has fees of its own is refused under a hard budget only. Elsewhere, where nobody hears what became of it, it costs what is known of it.
func TestAnUnboundedCallWithoutAnAnswerCostsWhatIsKnown(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		path, more string
		known      bool
	}{
		"tools of another server": {responsesPath, `,"tools":[{"type":"mcp"}]`, true},
		"web search":              {responsesPath, `,"web_search_options":{}`, false},
		"nothing is known of it":  {"/v1/batches", ``, false},
	} {
		c, err := quoted(t, request{provider: "openai", path: tc.path, body: `{"model":"gpt-4o","max_output_tokens":9,"input":"x"` + tc.more + `}`})
		if err != nil {
			t.Fatal(err)
		}
		if q := c.Quote; q.Bounded || q.HasUnknown != tc.known || (q.Unknown > 0) != tc.known {
			t.Errorf("%s: bounded %t, unknown %s (%t)", name, q.Bounded, q.Unknown, q.HasUnknown)
		}
	}
}
