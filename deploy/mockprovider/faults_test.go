package mockprovider_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tidwall/gjson"

	"github.com/rateguard/rateguard/deploy/mockprovider"
)

func TestCredentialsAreChecked(t *testing.T) {
	p, url := start(t, mockprovider.Config{Credential: "upstream"})
	for _, tc := range []struct {
		name, path, body string
		headers          []string
		want             int
	}{
		{"openai right", "/v1/chat/completions", chatBody, []string{"Authorization", "Bearer upstream", "X-Api-Key", ""}, 200},
		{"openai wrong", "/v1/chat/completions", chatBody, []string{"Authorization", "Bearer other", "X-Api-Key", ""}, 401},
		{"anthropic right", "/v1/messages", messageBody, []string{"Authorization", "", "X-Api-Key", "upstream"}, 200},
		{"anthropic missing", "/v1/messages", messageBody, []string{"Authorization", "", "X-Api-Key", ""}, 401},
		{"gemini right", "/v1beta/models/gemini-2.5-flash:generateContent", generateBody, []string{"Authorization", "", "X-Api-Key", "", "X-Goog-Api-Key", "upstream"}, 200},
		{"gemini by query", "/v1beta/models/gemini-2.5-flash:generateContent?key=upstream", generateBody, []string{"Authorization", "", "X-Api-Key", ""}, 200},
		{"a key of the gateway beside the right one", "/v1/chat/completions", chatBody, []string{"Authorization", "Bearer upstream", "X-Api-Key", "rg_leaked"}, 401},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if a := post(t, url+tc.path, tc.body, tc.headers...); a.status != tc.want {
				t.Errorf("got %d, want %d: %s", a.status, tc.want, a.body)
			}
		})
	}
	records := ended(t, p, 7)
	if last := records[len(records)-1]; !last.LeakedKey {
		t.Errorf("record does not show the leaked key: %+v", last)
	}
}

func TestErrorsAreInTheDialect(t *testing.T) {
	_, url := start(t, mockprovider.Config{})
	for _, tc := range []struct{ name, path, body, fault, field, want string }{
		{"openai 429", "/v1/chat/completions", chatBody, "429", "error.code", "rate_limit_exceeded"},
		{"openai 500", "/v1/chat/completions", chatBody, "500", "error.type", "server_error"},
		{"anthropic 529", "/v1/messages", messageBody, "529", "error.type", "overloaded_error"},
		{"gemini 429", "/v1beta/models/gemini-2.5-flash:generateContent", generateBody, "429", "error.status", "RESOURCE_EXHAUSTED"},
		{"http 503", "/anything", `x`, "503", "title", "Service Unavailable"},
		{"broken JSON", "/v1/chat/completions", `{"model":"gpt-4o",`, "", "error.type", "invalid_request_error"},
		{"no model", "/v1/chat/completions", `{"messages":[]}`, "", "error.type", "invalid_request_error"},
		{"unknown model", "/v1/messages", strings.Replace(messageBody, "claude", "no-such", 1), "", "error.type", "not_found_error"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := post(t, url+tc.path, tc.body, "X-Mock-Fault", tc.fault)
			if got := gjson.Get(a.body, tc.field).String(); got != tc.want {
				t.Errorf("%s is %q, want %q: %d %s", tc.field, got, tc.want, a.status, a.body)
			}
			if (tc.fault == "429") != (a.header.Get("Retry-After") == "1") && tc.fault != "503" {
				t.Errorf("retry-after is %q", a.header.Get("Retry-After"))
			}
		})
	}
}

func TestFaultsInTheMiddle(t *testing.T) {
	stream := with(chatBody, `"stream":true,"stream_options":{"include_usage":true}`)
	for _, tc := range []struct {
		name, body, fault       string
		cut, finished, reported bool
		// partial: less than the whole output was produced
		partial bool
	}{
		{"whole", stream, "", false, true, true, false},
		{"reset", stream, "reset", true, false, false, false},
		{"cut", stream, "cut", true, false, false, true},
		{"cut by model", strings.Replace(stream, "gpt-4o-mini", "gpt-4o-mini-mock-cut", 1), "", true, false, false, true},
		{"cut of a whole answer", chatBody, "cut", true, false, false, false},
		{"broken event", stream, "broken-sse", false, true, true, false},
		{"no usage", stream, "no-usage", false, true, false, false},
		{"no end", stream, "no-end", false, true, false, false},
		{"error event", stream, "error-event", false, true, false, true},
		{"split", stream, "split", false, true, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, url := start(t, mockprovider.Config{})
			whole := post(t, url+"/v1/chat/completions", strings.Replace(tc.body, "-mock-cut", "", 1))
			a := post(t, url+"/v1/chat/completions", tc.body, "X-Mock-Fault", tc.fault)
			if (a.cut != nil) != tc.cut {
				t.Errorf("client got error %v, want one: %t", a.cut, tc.cut)
			}
			if tc.fault == "reset" && a.status != 0 {
				t.Errorf("client got status %d, want no answer at all", a.status)
			}
			records := ended(t, p, 2)
			r := records[1]
			if r.Finished != tc.finished || r.UsageReported != tc.reported {
				t.Errorf("record is finished %t, reported %t, want %t, %t", r.Finished, r.UsageReported, tc.finished, tc.reported)
			}
			if tc.partial && (r.Usage.Output == 0 || r.Usage.Output >= records[0].Usage.Output) {
				t.Errorf("output is %d, want less than %d", r.Usage.Output, records[0].Usage.Output)
			}
			if tc.name == "split" && len(a.data()) != len(whole.data()) {
				t.Errorf("split changed the stream: %d events, want %d", len(a.data()), len(whole.data()))
			}
		})
	}
}

func TestUnknownFaultIsRefused(t *testing.T) {
	p, url := start(t, mockprovider.Config{})
	if a := post(t, url+"/v1/chat/completions", chatBody, "X-Mock-Fault", "cutt"); a.status != http.StatusBadRequest {
		t.Errorf("got %d, want 400", a.status)
	}
	if n := len(p.Served()); n != 0 {
		t.Errorf("%d records, want none", n)
	}
}

func TestHangingAnswerEndsWithItsClient(t *testing.T) {
	p, url := start(t, mockprovider.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", strings.NewReader(chatBody))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer secret")
	r.Header.Set("X-Mock-Fault", "hang")
	go func() {
		res, err := http.DefaultClient.Do(r)
		if err == nil {
			_ = res.Body.Close()
		}
		done <- err
	}()
	arrived(t, p, 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if got := ended(t, p, 1)[0]; got.Finished || got.Status != 0 {
		t.Errorf("record is %+v", got)
	}
}

func TestPaceIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pace, err := mockprovider.ParsePace("ttft=200ms,tps=100")
		if err != nil {
			t.Fatal(err)
		}
		p := mockprovider.New(mockprovider.Config{Pace: pace})
		body := with(chatBody, `"stream":true`)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer secret")
		began := time.Now()
		p.ServeHTTP(discard{}, r)
		tokens := p.Served()[0].Usage.Output
		if want, got := 200*time.Millisecond+time.Duration(tokens)*10*time.Millisecond, time.Since(began); got != want {
			t.Errorf("%d tokens took %s, want %s", tokens, got, want)
		}
	})
}

// discard is a response that nobody reads.
type discard struct{}

func (discard) Header() http.Header         { return http.Header{} }
func (discard) Write(b []byte) (int, error) { return len(b), nil }
func (discard) WriteHeader(int)             {}
func (discard) Flush()                      {}
