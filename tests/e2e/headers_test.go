package e2e_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
)

// A key works wherever the SDKs put it, and nowhere does it reach the upstream; nor does the upstream's credential reach the client.
func TestCredentialsAreSwapped(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	type place struct {
		name    string
		request request
	}
	var places []place
	for _, d := range append(dialects(), dialect{name: "http"}) {
		r := request{method: http.MethodGet, path: "/http/echo"}
		if d.model != "" {
			r = d.generate(d.name, false, 16)
		}
		places = append(places, place{d.name + " authorization", r.by(tenant.Key)})
		for _, name := range []string{"X-Api-Key", "Api-Key", "X-Goog-Api-Key"} {
			places = append(places, place{d.name + " " + name, r.with(name, tenant.Key)})
		}
		places = append(places, place{d.name + " twice", r.by(tenant.Key).with("X-Api-Key", tenant.Key).with("X-Goog-Api-Key", tenant.Key)})
	}
	query := geminiDialect.generate("gemini", true, 16)
	query.path += "&key=" + tenant.Key
	places = append(places, place{"gemini query", query})
	keys := map[string]bool{}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			keys[tenant.ID+p.name] = true
			got := send(t, s, p.request.with("Idempotency-Key", tenant.ID+p.name))
			if got.status != http.StatusOK {
				t.Errorf("got %d %s", got.status, got.body)
			}
			var head strings.Builder
			if err := got.header.Write(&head); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(head.String()+got.body, harness.Credential) {
				t.Errorf("the upstream's credential reached the client: %s%s", head.String(), got.body)
			}
		})
	}
	records := served(t, s, keys)
	for _, p := range places {
		if r, ok := records[tenant.ID+p.name]; !ok || r.LeakedKey || r.Status != http.StatusOK {
			t.Errorf("%s: the provider saw a key of the gateway: %t, and answered %d", p.name, r.LeakedKey, r.Status)
		}
	}
}

// What concerns one connection, or the gateway alone, goes no further; everything else does.
func TestHeadersOnTheWay(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	r := request{method: http.MethodGet, path: "/http/echo", key: tenant.Key, header: map[string]string{
		"Idempotency-Key": "idempotent", "X-Custom": "passes", "Openai-Organization": "org", "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"Connection": "X-Hop", "X-Hop": "one", "Te": "trailers", "Proxy-Authorization": "Basic x", "X-Rateguard-Tags": "team=a",
	}}
	got := send(t, s, r)
	var echo struct{ Headers http.Header }
	if err := json.Unmarshal([]byte(got.body), &echo); err != nil {
		t.Fatalf("reading the echo: %v in %s", err, got.body)
	}
	for _, name := range []string{"Idempotency-Key", "X-Custom", "Openai-Organization", "Traceparent"} {
		if echo.Headers.Get(name) != r.header[name] {
			t.Errorf("%s came to the upstream as %q, want %q", name, echo.Headers.Get(name), r.header[name])
		}
	}
	for _, name := range []string{"Connection", "X-Hop", "Te", "Proxy-Authorization", "X-Rateguard-Tags"} {
		if v, ok := echo.Headers[name]; ok {
			t.Errorf("%s came to the upstream: %q", name, v)
		}
	}
	if echo.Headers.Get("X-Forwarded-For") == "" {
		t.Error("x-forwarded-for is missing at the upstream")
	}
	if id := got.id(); len(id) != 36 || id[14] != '7' {
		t.Errorf("x-request-id is %q, want a UUIDv7 of ours", id)
	}
}

// The limits that a provider tells are those of the route's credential, not of the client's key: they are passed on under another name.
func TestUpstreamLimitsAreRenamed(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	for _, test := range []struct {
		dialect dialect
		names   []string
		id      string
	}{
		{openAIDialect, []string{"X-Ratelimit-Limit-Requests", "X-Ratelimit-Remaining-Tokens", "X-Ratelimit-Reset-Requests"}, "X-Upstream-Request-Id"},
		{anthropicDialect, []string{"Anthropic-Ratelimit-Requests-Limit", "Anthropic-Ratelimit-Tokens-Remaining", "Anthropic-Ratelimit-Requests-Reset"}, "Request-Id"},
	} {
		for _, stream := range []bool{false, true} {
			got := send(t, s, test.dialect.generate(test.dialect.name, stream, 16).by(tenant.Key))
			for _, name := range test.names {
				if got.header.Get("X-Upstream-"+name) == "" {
					t.Errorf("%s, stream %t: no X-Upstream-%s in %v", test.dialect.name, stream, name, got.header)
				}
				if v, ok := got.header[name]; ok {
					t.Errorf("%s, stream %t: %s is %q, but nothing limits the key", test.dialect.name, stream, name, v)
				}
			}
			if got.header.Get(test.id) == "" || got.header.Get(test.id) == got.id() {
				t.Errorf("%s, stream %t: the provider's own id is %q, ours %q", test.dialect.name, stream, got.header.Get(test.id), got.id())
			}
		}
	}
}

// The usage that the proxy asks for in a stream is its own affair: the client gets every other byte of the stream.
func TestUsageChunkIsForWhoAskedForIt(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	quiet := openAIDialect.generate("openai", true, 32).by(tenant.Key)
	asking := quiet
	asking.body = strings.Replace(quiet.body, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1)
	refusing := quiet
	refusing.body = strings.Replace(quiet.body, `"stream":true`, `"stream":true,"stream_options":{"include_usage":false}`, 1)
	for _, fault := range []string{"", "split"} {
		want := events(send(t, s, asking.with("X-Mock-Fault", fault)))
		if n := len(want); n < 3 || !strings.Contains(want[n-2], `"total_tokens"`) || want[n-1] != "data: [DONE]" {
			t.Fatalf("a client that asks for the usage gets %q", want)
		}
		want = append(want[:len(want)-2:len(want)-2], "data: [DONE]")
		for name, r := range map[string]request{"says nothing": quiet, "says no": refusing} {
			got := events(send(t, s, r.with("X-Mock-Fault", fault)))
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Errorf("client that %s (fault %q) gets\n%q\nwant\n%q", name, fault, got, want)
			}
		}
	}
	for id, a := range closeBooks(t, s, tenant).forwarded {
		if a.estimated || a.output != 32 {
			t.Errorf("request %s: %d tokens out, estimated %t; want 32 as the provider said", id, a.output, a.estimated)
		}
	}
}

// events cuts a stream into its events, without what differs from call to call.
func events(a answer) []string {
	var out []string
	for e := range strings.SplitSeq(strings.TrimSuffix(a.body, "\n\n"), "\n\n") {
		if i, j := strings.Index(e, `"created":`), strings.Index(e, `"model":`); i >= 0 && j > i {
			e = e[:i] + e[j:]
		}
		if i, j := strings.Index(e, `"id":"`), strings.Index(e, `","`); i >= 0 && j > i {
			e = e[:i] + e[j:]
		}
		out = append(out, e)
	}
	return out
}
