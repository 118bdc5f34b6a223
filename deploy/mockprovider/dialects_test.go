package mockprovider_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/deploy/mockprovider"
)

// answer is what a client saw.
type answer struct {
	status int
	header http.Header
	body   string
	// cut is the error that ended the body, if one did.
	cut error
}

// data returns the data lines of a stream.
func (a answer) data() []string {
	var out []string
	lines := bufio.NewScanner(strings.NewReader(a.body))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if d, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			out = append(out, strings.TrimSuffix(d, "\r"))
		}
	}
	return out
}

func start(t *testing.T, c mockprovider.Config) (*mockprovider.Provider, string) {
	t.Helper()
	p := mockprovider.New(c)
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	return p, s.URL
}

func post(t *testing.T, url, body string, headers ...string) answer {
	t.Helper()
	method := http.MethodPost
	if body == "" {
		method = http.MethodGet
	}
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret")
	r.Header.Set("X-Api-Key", "secret")
	r.Header.Set("Anthropic-Version", "2023-06-01")
	r.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return answer{cut: err}
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	return answer{status: res.StatusCode, header: res.Header, body: string(b), cut: err}
}

const (
	chatBody     = `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"What is a ledger?"}]}`
	messageBody  = `{"model":"claude-sonnet-4-5","max_tokens":500,"messages":[{"role":"user","content":"What is a ledger?"}]}`
	generateBody = `{"contents":[{"role":"user","parts":[{"text":"What is a ledger?"}]}]}`
)

// with adds fields to a body.
func with(body, fields string) string { return strings.TrimSuffix(body, "}") + "," + fields + "}" }

func TestEveryDialectReportsTheUsageThatIsRecorded(t *testing.T) {
	for _, tc := range []struct {
		name, path, body string
		// where the usage stands in the last or only JSON that has it
		input, output string
	}{
		{"chat", "/v1/chat/completions", chatBody, "usage.prompt_tokens", "usage.completion_tokens"},
		{"two choices", "/v1/chat/completions", with(chatBody, `"n":2`), "usage.prompt_tokens", "usage.completion_tokens"},
		{"chat stream", "/v1/chat/completions", with(chatBody, `"stream":true,"stream_options":{"include_usage":true}`), "usage.prompt_tokens", "usage.completion_tokens"},
		{"two choices stream", "/v1/chat/completions", with(chatBody, `"n":2,"stream":true,"stream_options":{"include_usage":true}`), "usage.prompt_tokens", "usage.completion_tokens"},
		{"reasoning", "/v1/chat/completions", strings.Replace(chatBody, "gpt-4o-mini", "o3", 1), "usage.prompt_tokens", "usage.completion_tokens"},
		{"completions", "/v1/completions", `{"model":"gpt-3.5-turbo-instruct","prompt":"one two"}`, "usage.prompt_tokens", "usage.completion_tokens"},
		{"responses", "/v1/responses", `{"model":"gpt-4.1-mini","input":"hello"}`, "usage.input_tokens", "usage.output_tokens"},
		{"responses stream", "/v1/responses", `{"model":"gpt-4.1-mini","input":"hello","stream":true}`, "response.usage.input_tokens", "response.usage.output_tokens"},
		{"embeddings", "/v1/embeddings", `{"model":"text-embedding-3-small","input":["one two three","four"]}`, "usage.prompt_tokens", "none"},
		{"message", "/v1/messages", messageBody, "usage.input_tokens", "usage.output_tokens"},
		{"message stream", "/v1/messages", with(messageBody, `"stream":true`), "message.usage.input_tokens", "usage.output_tokens"},
		{"generate", "/v1beta/models/gemini-2.5-flash:generateContent", generateBody, "usageMetadata.promptTokenCount", "usageMetadata.candidatesTokenCount"},
		{"generate sse", "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", generateBody, "usageMetadata.promptTokenCount", "usageMetadata.candidatesTokenCount"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, url := start(t, mockprovider.Config{})
			a := post(t, url+tc.path, tc.body)
			if a.status != http.StatusOK || a.cut != nil {
				t.Fatalf("got %d, %v: %s", a.status, a.cut, a.body)
			}
			docs := a.data()
			if len(docs) == 0 {
				docs = []string{a.body}
			}
			var input, output int64
			for _, d := range docs {
				if v := gjson.Get(d, tc.input); v.Exists() {
					input = v.Int()
				}
				if v := gjson.Get(d, tc.output); v.Exists() {
					output = v.Int()
				}
			}
			r := ended(t, p, 1)[0]
			if !r.Finished || !r.UsageReported {
				t.Errorf("record is finished %t, usage reported %t, want both", r.Finished, r.UsageReported)
			}
			if input != r.Usage.Input || output != r.Usage.Output || input == 0 {
				t.Errorf("client saw %d in, %d out, record has %+v", input, output, r.Usage)
			}
		})
	}
}

func TestUsageChunkComesOnlyWhenAskedFor(t *testing.T) {
	_, url := start(t, mockprovider.Config{})
	plain := post(t, url+"/v1/chat/completions", with(chatBody, `"stream":true`)).data()
	for _, d := range plain {
		if gjson.Get(d, "usage").Exists() {
			t.Fatalf("not asked for, got %s", d)
		}
	}
	asked := post(t, url+"/v1/chat/completions", with(chatBody, `"stream":true,"stream_options":{"include_usage":true}`)).data()
	if asked[len(asked)-1] != "[DONE]" {
		t.Fatalf("last is %s, want [DONE]", asked[len(asked)-1])
	}
	for _, d := range asked[:len(asked)-2] {
		if u := gjson.Get(d, "usage"); !u.Exists() || u.Type != gjson.Null {
			t.Fatalf("an earlier chunk has usage %q, want null", u.Raw)
		}
	}
	last := asked[len(asked)-2]
	if gjson.Get(last, "choices.#").Int() != 0 || !gjson.Get(last, "usage.prompt_tokens_details.cached_tokens").Exists() {
		t.Fatalf("usage chunk is %s", last)
	}
	if len(asked) != len(plain)+1 {
		t.Errorf("asking adds %d chunks, want 1", len(asked)-len(plain))
	}
}

func TestSettingsOfAGatewayDoNotChangeTheAnswer(t *testing.T) {
	p, url := start(t, mockprovider.Config{Seed: 7})
	post(t, url+"/v1/chat/completions", chatBody)
	post(t, url+"/v1/chat/completions", with(chatBody, `"stream":true,"stream_options":{"include_usage":true},"max_tokens":4096`))
	post(t, url+"/openai/v1/chat/completions", chatBody)
	records := ended(t, p, 3)
	for _, r := range records[1:] {
		if r.Usage != records[0].Usage {
			t.Errorf("got %+v, want %+v", r.Usage, records[0].Usage)
		}
	}
}

func TestOutputIsBounded(t *testing.T) {
	for _, tc := range []struct{ name, path, body, reason, want string }{
		{"chat", "/v1/chat/completions", with(chatBody, `"max_tokens":5`), "choices.0.finish_reason", "length"},
		{"new name", "/v1/chat/completions", with(chatBody, `"max_completion_tokens":5`), "choices.0.finish_reason", "length"},
		{"responses", "/v1/responses", `{"model":"gpt-4.1","input":"x","max_output_tokens":5}`, "status", "incomplete"},
		{"messages", "/v1/messages", strings.Replace(messageBody, "500", "5", 1), "stop_reason", "max_tokens"},
		{"gemini", "/v1beta/models/gemini-2.5-pro:generateContent", with(generateBody, `"generationConfig":{"maxOutputTokens":5}`), "candidates.0.finishReason", "MAX_TOKENS"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, url := start(t, mockprovider.Config{})
			a := post(t, url+tc.path, tc.body)
			if got := gjson.Get(a.body, tc.reason).String(); got != tc.want {
				t.Errorf("reason is %q, want %q: %s", got, tc.want, a.body)
			}
			if r := ended(t, p, 1)[0]; r.Usage.Output != 5 {
				t.Errorf("output is %d, want 5", r.Usage.Output)
			}
		})
	}
}

func TestCacheTokensFollowTheDialect(t *testing.T) {
	p, url := start(t, mockprovider.Config{})
	usage := "input=1000,cached=400,cache_write=300,cache_write_1h=100,output=9"
	a := post(t, url+"/v1/messages", messageBody, "X-Mock-Usage", usage)
	for field, want := range map[string]int64{
		"input_tokens": 300, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 300, "output_tokens": 9,
		"cache_creation.ephemeral_1h_input_tokens": 100, "cache_creation.ephemeral_5m_input_tokens": 200,
	} {
		if got := gjson.Get(a.body, "usage."+field).Int(); got != want {
			t.Errorf("anthropic %s is %d, want %d", field, got, want)
		}
	}
	a = post(t, url+"/v1/chat/completions", chatBody, "X-Mock-Usage", "input=1000,cached=400,output=9")
	if in, cached := gjson.Get(a.body, "usage.prompt_tokens").Int(), gjson.Get(a.body, "usage.prompt_tokens_details.cached_tokens").Int(); in != 1000 || cached != 400 {
		t.Errorf("openai has %d with %d cached, want 1000 with 400", in, cached)
	}
	want := mockprovider.Usage{Input: 1000, Cached: 400, CacheWrite: 300, CacheWrite1h: 100, Output: 9}
	if got := ended(t, p, 2)[0].Usage; got != want {
		t.Errorf("record has %+v, want %+v", got, want)
	}
}

func TestGeminiStreamsAnArrayWithoutSSE(t *testing.T) {
	_, url := start(t, mockprovider.Config{})
	a := post(t, url+"/v1beta/models/gemini-2.5-flash:streamGenerateContent", generateBody)
	if !gjson.Valid(a.body) || !gjson.Parse(a.body).IsArray() {
		t.Fatalf("got %s", a.body)
	}
	parts := gjson.Parse(a.body).Array()
	if last := parts[len(parts)-1]; last.Get("candidates.0.finishReason").String() != "STOP" {
		t.Errorf("last part is %s", last.Raw)
	}
}

func TestGzipWhenAskedFor(t *testing.T) {
	_, url := start(t, mockprovider.Config{})
	plain := post(t, url+"/v1/embeddings", `{"model":"text-embedding-3-small","input":"x"}`)
	a := post(t, url+"/v1/embeddings", `{"model":"text-embedding-3-small","input":"x"}`, "Accept-Encoding", "gzip")
	if a.header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("headers are %v", a.header)
	}
	z, err := gzip.NewReader(bytes.NewReader([]byte(a.body)))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != plain.body {
		t.Errorf("unpacked %s, %v, want %s", b, err, plain.body)
	}
	if s := post(t, url+"/v1/chat/completions", with(chatBody, `"stream":true`), "Accept-Encoding", "gzip", "X-Mock-Gzip", "stream"); s.header.Get("Content-Encoding") != "gzip" || s.cut != nil {
		t.Errorf("stream has headers %v, %v", s.header, s.cut)
	}
}
