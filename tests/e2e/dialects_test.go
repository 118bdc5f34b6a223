package e2e_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
)

// What a route costs follows from its dialect: Gemini by the tokens it reports, in each of its three forms, and any other
// HTTP API by what the route says.
func TestCostsOfGeminiAndHTTPRoutes(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	tenant.Route("unpriced", adminclient.PutRoute{Provider: "http", BaseURL: s.MockURL})
	awaitKnown(t, s, tenant, "unpriced")
	const models = "/v1beta/models/gemini-2.5-flash"
	body := geminiDialect.generate("gemini", false, 64).body
	get := func(path string) request { return request{method: http.MethodGet, path: path} }
	tests := []struct {
		name    string
		request request
		status  int
		charge  charge
		stream  bool
		// fixed is what it costs whatever was used; -1: nobody knows.
		fixed int64
	}{
		{name: "generate", request: request{path: models + ":generateContent", body: body}, charge: exact},
		{name: "with its cache", request: request{path: models + ":generateContent", body: body, header: map[string]string{"X-Mock-Usage": "input=5000,cached=3000,output=40"}}, charge: exact},
		{name: "stream of events", request: request{path: models + ":streamGenerateContent?alt=sse", body: body}, charge: exact, stream: true},
		{name: "stream of an array", request: request{path: models + ":streamGenerateContent", body: body}, charge: exact, stream: true},
		{name: "by the route's own path", request: request{path: "/gemini" + models + ":generateContent", body: body}, charge: exact},
		{name: "counting tokens", request: request{path: models + ":countTokens", body: body}},
		{name: "list of models", request: get("/v1beta/models")},
		{name: "http get", request: get("/http/v2/things?a=b"), fixed: harness.HTTPCostNano},
		{name: "http post", request: request{path: "/http/things", body: "no JSON at all"}, fixed: harness.HTTPCostNano},
		{name: "http events", request: get("/http/events/50"), fixed: harness.HTTPCostNano},
		{name: "http not found", request: get("/http/status/404"), status: 404, charge: nothing},
		{name: "http down", request: get("/http/status/503"), status: 503, charge: nothing},
		{name: "http without a price", request: get("/unpriced/things"), fixed: -1},
	}
	answers := make([]answer, len(tests))
	keys := map[string]bool{}
	for i, test := range tests {
		keys[tenant.ID+test.name] = true
		answers[i] = send(t, s, test.request.by(tenant.Key).with("Idempotency-Key", tenant.ID+test.name))
	}
	b := closeBooks(t, s, tenant)
	records := served(t, s, keys)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, a, r := answers[i], b.forwarded[answers[i].id()], records[tenant.ID+test.name]
			want := test.status
			if want == 0 {
				want = http.StatusOK
			}
			if got.status != want || got.cut != nil {
				t.Fatalf("got %d %v: %.300s", got.status, got.cut, got.body)
			}
			cost := test.fixed
			if test.charge == exact {
				cost = billed(t, r)
				if cost == 0 {
					t.Error("the provider says that nothing was used")
				}
			}
			switch {
			case test.fixed < 0 && a.cost != nil:
				t.Errorf("costs %s, want null", show(a.cost))
			case test.fixed >= 0 && (a.cost == nil || *a.cost != cost):
				t.Errorf("costs %s, want %d", show(a.cost), cost)
			}
			if a.estimated || int(a.status) != want {
				t.Errorf("the row has %d, estimated %t; want %d, not estimated", a.status, a.estimated, want)
			}
			header := got.header.Get("X-Rateguard-Cost-Usd")
			if whole := strings.HasPrefix(got.header.Get("Content-Type"), "application/json"); whole && want == 200 && !test.stream && test.fixed >= 0 {
				if header == "" || harness.Nano(t, &header) != cost {
					t.Errorf("x-rateguard-cost-usd is %q, want %d nano-USD", header, cost)
				}
			} else if header != "" {
				t.Errorf("x-rateguard-cost-usd is %q, want none", header)
			}
		})
	}
	var echo struct{ Method, Path, Query, Body string }
	if err := json.Unmarshal([]byte(answers[7].body), &echo); err != nil || echo.Path != "/v2/things" || echo.Query != "a=b" || echo.Method != http.MethodGet {
		t.Errorf("the upstream of an http route got %+v (%v), want GET /v2/things?a=b", echo, err)
	}
	if err := json.Unmarshal([]byte(answers[8].body), &echo); err != nil || echo.Body != "no JSON at all" {
		t.Errorf("the upstream of an http route got the body %q (%v)", echo.Body, err)
	}
	if n := strings.Count(answers[9].body, "data: "); n != 50 {
		t.Errorf("%d of 50 events came through an http route", n)
	}
}
