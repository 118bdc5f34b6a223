package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
)

// checkError holds an error against the form of its dialect. Clients branch on these fields, so they are exact.
func checkError(t *testing.T, dialect string, got answer, status int) {
	t.Helper()
	mediaType := "application/json"
	var message string
	var err error
	switch dialect {
	case "openai":
		var b struct {
			Error struct {
				Message, Type, Code string
				Param               *string
			}
		}
		err = json.Unmarshal([]byte(got.body), &b)
		message = b.Error.Message
		if b.Error.Code != got.code() || b.Error.Type == "" || !strings.Contains(got.body, `"param":`) {
			t.Errorf("the error is %s, want the code %q, a type and a param", got.body, got.code())
		}
	case "anthropic":
		var b struct {
			Type      string
			Error     struct{ Type, Message string }
			RequestID string `json:"request_id"`
		}
		err = json.Unmarshal([]byte(got.body), &b)
		message = b.Error.Message
		want := map[int]string{
			400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error", 413: "request_too_large",
			502: "api_error", 504: "api_error",
		}[status]
		if b.Type != "error" || b.Error.Type != want || b.RequestID != got.id() {
			t.Errorf("the error is %s, want type %s and request_id %s", got.body, want, got.id())
		}
	case "gemini":
		var b struct {
			Error struct {
				Code            int
				Message, Status string
			}
		}
		err = json.Unmarshal([]byte(got.body), &b)
		message = b.Error.Message
		if b.Error.Code != status || b.Error.Status == "" || b.Error.Status != strings.ToUpper(b.Error.Status) {
			t.Errorf("the error is %s, want code %d and a status", got.body, status)
		}
	case "http":
		mediaType = "application/problem+json"
		var b struct {
			Type, Title, Detail, Code string
			Status                    int
		}
		err = json.Unmarshal([]byte(got.body), &b)
		message = b.Detail
		if b.Status != status || b.Title == "" || b.Code != got.code() {
			t.Errorf("the problem is %s, want status %d and code %q", got.body, status, got.code())
		}
	}
	if err != nil || message == "" {
		t.Errorf("the error has no message: %v in %s", err, got.body)
	}
	if ct := got.header.Get("Content-Type"); ct != mediaType {
		t.Errorf("the error's type is %q, want %q", ct, mediaType)
	}
	if got.id() == "" {
		t.Error("the error has no x-request-id")
	}
	if retry := status >= 500; !retry && got.header.Get("X-Should-Retry") != "false" {
		t.Errorf("x-should-retry is %q for %d, want false", got.header.Get("X-Should-Retry"), status)
	}
}

// keys of one workspace that are not to be served.
type badKeys struct {
	revoked, expired, otherRoute, otherModel, noInvoke string
}

// expiry is how long a key lives that is to be seen expired. The API refuses one that is expired already.
const expiry = 700 * time.Millisecond

func newBadKeys(t *testing.T, s *harness.System, tenant *harness.Tenant) badKeys {
	t.Helper()
	key := func(k adminclient.NewKey) (id, secret string) {
		made, err := s.Admin.CreateKey(t.Context(), tenant.ID, k)
		if err != nil {
			t.Fatalf("creating a key: %v", err)
		}
		return made.ID, made.Secret
	}
	var k badKeys
	end := time.Now().Add(expiry)
	_, k.expired = key(adminclient.NewKey{Name: "expired", ExpiresAt: &end})
	id, secret := key(adminclient.NewKey{Name: "revoked"})
	k.revoked = secret
	if _, err := s.Admin.RevokeKey(t.Context(), tenant.ID, id); err != nil {
		t.Fatalf("revoking a key: %v", err)
	}
	_, k.otherRoute = key(adminclient.NewKey{Name: "other route", Routes: []string{"another"}})
	_, k.otherModel = key(adminclient.NewKey{Name: "other model", Models: []string{"another-*"}})
	_, k.noInvoke = key(adminclient.NewKey{Name: "no invoke", Scopes: []string{"read:usage"}})
	for secret, code := range map[string]string{
		k.revoked: "api_key_revoked", k.expired: "api_key_expired", k.otherRoute: "route_not_allowed",
		k.otherModel: "model_not_allowed", k.noInvoke: "insufficient_scope",
	} {
		harness.Eventually(t, 60*harness.InForceWithin, func() error {
			if got := send(t, s, openAIDialect.generate("openai", false, 16).by(secret).with("X-Mock-Fault", "400")); got.code() != code {
				return fmt.Errorf("got %d %q, want %q", got.status, got.code(), code)
			}
			return nil
		})
	}
	return k
}

// Whatever is wrong with a request is said in its dialect, with the status and the code of the contract, and changes
// nothing: no reservation, no cost, one row marked as denied, and not even that for strangers.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	keys := newBadKeys(t, s, tenant)
	before := closeBooks(t, s, tenant)

	const nowhere = "nowhere"
	other := dialect{name: "http"}
	want := map[string]string{} // codes of the rows, by request id
	upstream := len(s.Mock.Served())
	for _, d := range append(dialects(), other) {
		good := func(route string) request {
			if d == other {
				return request{path: "/" + route + "/anything", body: `{}`}
			}
			return d.generate(route, false, 16)
		}
		malformed := good(d.name)
		malformed.body = `{"model":"` + d.model + `","messages":[}`
		unnamed := good(d.name)
		unnamed.body = `{"messages":[]}`
		twice := good(d.name)
		twice.body = `{"model":"` + d.model + `","stream":false,"stream":true,"messages":[],"max_tokens":16}`
		tests := []struct {
			name    string
			request request
			status  int
			code    string
			// unless says that the dialect has no such error.
			unless bool
			// stranger says that nobody knows who asks, so that there is no row.
			stranger bool
		}{
			{name: "malformed JSON", request: malformed.by(tenant.Key), status: 400, code: "invalid_request", unless: d == other},
			{name: "no model", request: unnamed.by(tenant.Key), status: 400, code: "invalid_request", unless: d == other || d == geminiDialect},
			{name: "a field twice", request: twice.by(tenant.Key), status: 400, code: "invalid_request", unless: d == other},
			{name: "unknown route", request: good(nowhere).by(tenant.Key), status: 404, code: "route_not_found"},
			{name: "route not allowed", request: good(d.name).by(keys.otherRoute), status: 403, code: "route_not_allowed"},
			{name: "model not allowed", request: good(d.name).by(keys.otherModel), status: 403, code: "model_not_allowed"},
			{name: "scope without invoke", request: good(d.name).by(keys.noInvoke), status: 403, code: "insufficient_scope"},
			{name: "no key", request: good(d.name), status: 401, code: "invalid_api_key", stranger: true},
			{name: "unknown key", request: good(d.name).by("rg_0123456789abcdefghijklmnopqrstuv"), status: 401, code: "invalid_api_key", stranger: true},
			{name: "revoked key", request: good(d.name).by(keys.revoked), status: 401, code: "api_key_revoked", stranger: true},
			{name: "expired key", request: good(d.name).by(keys.expired), status: 401, code: "api_key_expired", stranger: true},
		}
		for _, test := range tests {
			if test.unless {
				continue
			}
			t.Run(d.name+" "+test.name, func(t *testing.T) {
				got := send(t, s, test.request.with("Idempotency-Key", "bad-"+tenant.ID))
				if got.status != test.status || got.code() != test.code {
					t.Errorf("got %d %q, want %d %q: %s", got.status, got.code(), test.status, test.code, got.body)
				}
				checkError(t, d.name, got, test.status)
				if !test.stranger {
					want[got.id()] = test.code
				}
			})
		}
	}
	for _, r := range s.Mock.Served()[upstream:] {
		if r.IdempotencyKey == "bad-"+tenant.ID {
			t.Errorf("%s %s reached the provider", r.Method, r.Path)
		}
	}
	after := closeBooks(t, s, tenant)
	checkNothingChanged(t, before, after, want)
}

// checkNothingChanged compares the books before and after requests that were refused, whose codes are by request id.
func checkNothingChanged(t *testing.T, before, after books, refused map[string]string) {
	t.Helper()
	// Each closing of the books makes one request of its own; the first one's stands in the second books.
	if len(after.forwarded) != len(before.forwarded)+1 || after.posted != before.posted+harness.HTTPCostNano {
		t.Errorf("the books have %d requests for %d nano-USD, want as before %d and %d, and one of the test's own", len(after.forwarded), after.posted, len(before.forwarded), before.posted)
	}
	if len(after.denied) != len(before.denied)+len(refused) {
		t.Errorf("%d requests are denied, want the %d of before and %d", len(after.denied), len(before.denied), len(refused))
	}
	for id, code := range refused {
		if after.denied[id].code != code {
			t.Errorf("request %s: the row says %q, want %q", id, after.denied[id].code, code)
		}
	}
}

// A body of 100 MB is refused by its announced length, before any of it is sent: who waits for the answer first, as
// with "expect: 100-continue", sends nothing at all.
func TestHugeBodyIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	before := closeBooks(t, s, tenant)
	want := map[string]string{}
	for _, d := range append(dialects(), dialect{name: "http"}) {
		path := d.generate(d.name, false, 16).path
		if path == "" {
			path = "/http/anything"
		}
		got := announce(t, s, path, tenant.Key, 100<<20)
		if got.status != http.StatusRequestEntityTooLarge || got.code() != "body_too_large" {
			t.Errorf("%s: got %d %q, want 413 body_too_large", d.name, got.status, got.code())
		}
		checkError(t, d.name, got, http.StatusRequestEntityTooLarge)
		want[got.id()] = "body_too_large"
	}
	// Without a length it is refused as soon as it is too long; the client still gets the answer.
	r := newRequest(t.Context(), t, s.ProxyURL, openAIDialect.generate("openai", false, 16).by(tenant.Key))
	r.Body, r.ContentLength = io.NopCloser(io.LimitReader(zeros{}, 100<<20)), -1
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("sending 100 MB in chunks: %v", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("100 MB in chunks: got %d, want 413", response.StatusCode)
	}
	want[response.Header.Get("X-Request-Id")] = "body_too_large"
	checkNothingChanged(t, before, closeBooks(t, s, tenant), want)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// announce sends the head of a request whose body never follows.
func announce(t *testing.T, s *harness.System, path, key string, length int64) answer {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.ProxyURL, "http://"))
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatalf("setting a deadline: %v", err)
	}
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: rateguard\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", path, key, length); err != nil {
		t.Fatalf("sending a head: %v", err)
	}
	response, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("reading the answer: %v", err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	return answer{status: response.StatusCode, header: response.Header, body: string(body), cut: err}
}

// A model without a price is served where no hard budget applies, and its cost stays unknown instead of 0.
func TestUnknownModelIsServedAtAnUnknownCost(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	d := openAIDialect
	d.model = "unheard-of-1"
	whole := send(t, s, d.generate("openai", false, 16).by(tenant.Key))
	streamed := send(t, s, d.generate("openai", true, 16).by(tenant.Key))
	for name, got := range map[string]answer{"whole": whole, "stream": streamed} {
		if got.status != http.StatusOK || got.cut != nil {
			t.Errorf("%s: got %d %v, want it served: %s", name, got.status, got.cut, got.body)
		}
		if v, ok := got.header["X-Rateguard-Cost-Usd"]; ok {
			t.Errorf("%s: x-rateguard-cost-usd is %q, want none", name, v)
		}
	}
	b := closeBooks(t, s, tenant)
	for name, got := range map[string]answer{"whole": whole, "stream": streamed} {
		a := b.forwarded[got.id()]
		if a.cost != nil || a.entry.cost != nil || a.entry.bound != nil || a.entry.kind != "settled" || a.estimated {
			t.Errorf("%s: cost %s, in the ledger %s of at most %s, %s", name, show(a.cost), show(a.entry.cost), show(a.entry.bound), a.entry.kind)
		}
		if a.input == 0 || a.output != 16 {
			t.Errorf("%s: %d tokens in, %d out; want what the provider said, 16 out", name, a.input, a.output)
		}
		if listed := tenant.Request(got.id()); listed.CostUSD != nil {
			t.Errorf("%s: the API says cost_usd %q, want null", name, *listed.CostUSD)
		}
	}
	if b.posted != 1*harness.HTTPCostNano {
		t.Errorf("posted %d, want only the test's own request", b.posted)
	}
}
