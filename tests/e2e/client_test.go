package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
)

// request is what a client without an SDK sends; POST and JSON unless it says otherwise.
type request struct {
	key, method, path, body string
	header                  map[string]string
}

// answer is what the client saw.
type answer struct {
	status int
	header http.Header
	body   string
	// cut is the error that ended the body, nil when it came whole.
	cut error
}

func (a answer) id() string { return a.header.Get("X-Request-Id") }

func (a answer) code() string { return a.header.Get("X-Rateguard-Error") }

// send fails the test when there is no answer at all.
func send(t *testing.T, s *harness.System, r request) answer {
	t.Helper()
	response := open(t.Context(), t, s.ProxyURL, r)
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, header: response.Header, body: string(body), cut: err}
}

// open returns an answer whose body is not read yet; the caller closes it.
func open(ctx context.Context, t *testing.T, base string, r request) *http.Response {
	t.Helper()
	response, err := http.DefaultClient.Do(newRequest(ctx, t, base, r))
	if err != nil {
		t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	return response
}

func newRequest(ctx context.Context, t *testing.T, base string, r request) *http.Request {
	t.Helper()
	if r.method == "" {
		r.method = http.MethodPost
	}
	out, err := http.NewRequestWithContext(ctx, r.method, base+r.path, strings.NewReader(r.body))
	if err != nil {
		t.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	if r.key != "" {
		out.Header.Set("Authorization", "Bearer "+r.key)
	}
	out.Header.Set("Content-Type", "application/json")
	// Plain answers, so that what the client saw can be compared with what the provider wrote.
	out.Header.Set("Accept-Encoding", "identity")
	for name, v := range r.header {
		out.Header.Set(name, v)
	}
	return out
}

// dialect is a provider as its clients speak to it.
type dialect struct {
	name, model string
	// mark is what the regular end of a stream holds.
	mark string
}

var (
	openAIDialect    = dialect{"openai", "gpt-4o-mini", "[DONE]"}
	anthropicDialect = dialect{"anthropic", "claude-haiku-4-5", "message_stop"}
	geminiDialect    = dialect{"gemini", "gemini-2.5-flash", `"finishReason"`}
)

func dialects() []dialect { return []dialect{openAIDialect, anthropicDialect, geminiDialect} }

// generate asks a model for at most limit tokens, 0 for as many as it likes, on a route of the dialect. Anthropic takes no 0.
func (d dialect) generate(route string, stream bool, limit int) request {
	bound := ""
	r := request{header: map[string]string{}}
	switch d.name {
	case "openai":
		if limit > 0 {
			bound = fmt.Sprintf(`,"max_tokens":%d`, limit)
		}
		r.path = "/" + route + "/v1/chat/completions"
		r.body = fmt.Sprintf(`{"model":%q,"stream":%t%s,"messages":[{"role":"user","content":%q}]}`, d.model, stream, bound, question)
	case "anthropic":
		r.path = "/" + route + "/v1/messages"
		r.header["Anthropic-Version"] = "2023-06-01"
		r.body = fmt.Sprintf(`{"model":%q,"stream":%t,"max_tokens":%d,"messages":[{"role":"user","content":%q}]}`, d.model, stream, limit, question)
	case "gemini":
		verb := ":generateContent"
		if stream {
			verb = ":streamGenerateContent?alt=sse"
		}
		if limit > 0 {
			bound = fmt.Sprintf(`"generationConfig":{"maxOutputTokens":%d},`, limit)
		}
		r.path = "/" + route + "/v1beta/models/" + d.model + verb
		r.body = fmt.Sprintf(`{%s"contents":[{"role":"user","parts":[{"text":%q}]}]}`, bound, question)
	}
	return r
}

// with returns the request with one more header.
func (r request) with(name, value string) request {
	header := map[string]string{name: value}
	for n, v := range r.header {
		if _, ok := header[n]; !ok {
			header[n] = v
		}
	}
	r.header = header
	return r
}

// by returns the request with a key.
func (r request) by(key string) request {
	r.key = key
	return r
}

// awaitRoutes waits until the proxy knows the routes of the requests. It asks with a body that is refused before it would be sent.
func awaitRoutes(t *testing.T, s *harness.System, tenant *harness.Tenant, routes ...request) {
	t.Helper()
	for _, r := range routes {
		r.body = "{"
		harness.Eventually(t, 60*harness.InForceWithin, func() error {
			if got := send(t, s, r.by(tenant.Key)); got.status != http.StatusBadRequest {
				return fmt.Errorf("%s answers %d", r.path, got.status)
			}
			return nil
		})
	}
}

// awaitKnown waits until the proxy knows routes that take any body. It asks with a path that is refused before it would be sent.
func awaitKnown(t *testing.T, s *harness.System, tenant *harness.Tenant, routes ...string) {
	t.Helper()
	for _, name := range routes {
		harness.Eventually(t, 60*harness.InForceWithin, func() error {
			if got := send(t, s, request{key: tenant.Key, path: "/" + name + "/%2e%2e/x"}); got.status != http.StatusBadRequest {
				return fmt.Errorf("route %s answers %d", name, got.status)
			}
			return nil
		})
	}
}
