package proxy_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// raw sends bytes to the proxy as they are, and reads the first answer; nil when the connection was cut without one.
func (r *rig) raw(t *testing.T, text string, halfClose bool) *http.Response {
	t.Helper()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if tc, ok := c.(*net.TCPConn); ok && halfClose {
		_ = tc.CloseWrite()
	}
	method, _, _ := strings.Cut(text, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return nil
	}
	t.Cleanup(func() { _ = res.Body.Close() })
	return res
}

// recorder is an upstream that keeps what it was sent.
func recorder(t *testing.T) (url string, seen *bytes.Buffer) {
	seen = new(bytes.Buffer)
	return upstreamFunc(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(seen, "%s %s\r\n", r.Method, r.RequestURI)
		_ = r.Header.Write(seen)
		seen.Write(b)
		w.Header().Set("Set-Cookie", "session=upstream")
		w.Header().Set("X-Accel-Redirect", "/internal")
		answerJSON(chatAnswer)(w, r)
	}), seen
}

func TestNoCredentialOfTheClientGoesUpstream(t *testing.T) {
	url, seen := recorder(t)
	r := newRig(t, rigConfig{upstream: url + "/base"})
	for _, path := range []string{
		"/v1/chat/completions?key=" + goodKey, "/v1/chat/completions?x=1&token=" + goodKey, "/v1/messages?key=" + goodKey, "/http/x?key=" + goodKey,
		"/v1beta/models/gemini-2.0-flash:generateContent?k%65y=" + goodKey, "/v1beta/models/gemini-2.0-flash:generateContent?key=other-secret",
	} {
		seen.Reset()
		got := r.post(t, path, chatBody, "X-Api-Key", goodKey, "Api-Key", "other-secret", "X-Goog-Api-Key", goodKey, "Proxy-Authorization", "Basic other-secret",
			"Cookie", "a=other-secret", "X-Http-Method-Override", "PUT", "Connection", "X-Named, close", "X-Named", "other-secret", "X-Request-Id", "mine")
		if got.status != 200 {
			t.Fatalf("%s: got %d %s", path, got.status, got.body)
		}
		for _, secret := range []string{goodKey, "other-secret", "Override"} {
			if strings.Contains(seen.String(), secret) {
				t.Errorf("%s: %s reached the upstream: %s", path, secret, seen)
			}
		}
		if got.header.Get("Set-Cookie")+got.header.Get("X-Accel-Redirect") != "" || got.header.Get("X-Request-Id") == "mine" {
			t.Errorf("%s: client got %v", path, got.header)
		}
	}
}

func TestPathsStayBelowTheBaseURL(t *testing.T) {
	url, seen := recorder(t)
	r := newRig(t, rigConfig{upstream: url + "/base"})
	for path, status := range map[string]int{
		"/openai/v1/x": 200, "/openai//v1//x": 200, "/openai/v1%2Fx": 200, "http://evil.test/openai/v1/x": 200,
		"/openai/../x": 400, "/openai/%2e%2e/x": 400, "/openai/.%2E%2fx": 400, "/openai/%252e%252e/x": 400, "/openai/..%5cx": 400, "/openai/..;a/x": 400,
		"/openai/v1/%25252525252e": 400, "//openai/v1/x": 404, "/openai%2Fv1/x": 404, "/%6fpenai/v1/x": 404, "/OpenAI/v1/x": 404, "*": 404,
		"/openai/" + strings.Repeat("a", 40<<10): 200,
	} {
		seen.Reset()
		res := r.raw(t, "POST "+path+" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+goodKey+"\r\nContent-Length: 2\r\n\r\n{}", false)
		if res == nil || res.StatusCode != status {
			t.Errorf("%.60s: got %v, want %d", path, res, status)
		}
		if s := seen.String(); s != "" && !strings.HasPrefix(s, "POST /base/") || (s != "") != (status == 200) {
			t.Errorf("%.60s: upstream saw %.60s", path, s)
		}
	}
}

func TestRequestsAreNotSmuggled(t *testing.T) {
	const evil = "GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, tc := range map[string]struct {
		line, headers, body string
		status              int
	}{
		"both framings":       {"POST", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + evil, 200},
		"two lengths":         {"POST", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello" + evil, 400},
		"encoded twice":       {"POST", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n", 501},
		"space before colon":  {"POST", "Content-Length : 5\r\n", "hello", 400},
		"upgrade":             {"POST", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n", "{}", 200},
		"trailers":            {"POST", "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n", "2\r\n{}\r\n0\r\nAuthorization: x\r\n\r\n", 200},
		"TRACE":               {"TRACE", "", "", 400},
		"CONNECT with a path": {"CONNECT", "", "", 400},
		"unknown expectation": {"POST", "Expect: 200-ok\r\nContent-Length: 2\r\n", "{}", 417},
	} {
		t.Run(name, func(t *testing.T) {
			url, seen := recorder(t)
			r := newRig(t, rigConfig{upstream: url})
			res := r.raw(t, tc.line+" /openai/v1/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+goodKey+"\r\n"+tc.headers+"\r\n"+tc.body, false)
			if res == nil || res.StatusCode != tc.status {
				t.Fatalf("got %v, want %d", res, tc.status)
			}
			if s := seen.String(); strings.Contains(s, "evil") || strings.Contains(s, "Upgrade") || strings.Contains(s, "Trailer") || (s != "") != (tc.status == 200) {
				t.Errorf("upstream saw %s", s)
			}
		})
	}
}

// What a client writes cannot make an event that does not encode, or a large one.
func TestStrangeTextDoesNotReachTheLog(t *testing.T) {
	url, _ := recorder(t)
	long := strings.Repeat("m", 20_000)
	for name, tc := range map[string]struct {
		path, body, tags string
		status           int
	}{
		"model in the path":       {"/v1beta/models/%ff%fe:generateContent", `{}`, "", 400},
		"long model in the path":  {"/v1beta/models/" + long + ":generateContent", `{}`, "", 400},
		"NUL in the model":        {"/v1/chat/completions", `{"model":"gpt\u0000"}`, "", 400},
		"bytes in the model":      {"/v1/chat/completions", "{\"model\":\"gpt-\xff4o\"}", "", 400},
		"model on an unknown API": {"/http/x", "{\"model\":\"\xff" + long + "\"}", "", 200},
		"metadata":                {"/v1/chat/completions", "{\"model\":\"m\",\"user\":\"\\u0000\xff" + long + "\",\"metadata\":{\"\xff\":\"\\ud800\"}}", "", 200},
		"tags":                    {"/v1/chat/completions", chatBody, strings.Repeat("\xff"+long[:900]+"=\xff"+long[:900]+",", 20), 200},
		"path":                    {"/openai/v1/%ff%00/" + long, `{}`, "", 200},
		"route":                   {"/" + long + "/x", `{}`, "", 404},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{upstream: url})
			if got := r.post(t, tc.path, tc.body, "X-Rateguard-Tags", tc.tags, "Idempotency-Key", "\xff"+long[:5000]); got.status != tc.status {
				t.Fatalf("got %d %.200s, want %d", got.status, got.body, tc.status)
			}
			r.log.row(t)
			for _, f := range r.log.all() {
				for _, rec := range f.record {
					if len(rec.Value) > 8<<10 || bytes.IndexByte([]byte(r.log.row(t).GetModel()), 0) >= 0 {
						t.Errorf("event of %d bytes", len(rec.Value))
					}
				}
			}
		})
	}
}

func TestNoWayAroundTheListOfModels(t *testing.T) {
	url, _ := recorder(t)
	const sep = "--b\r\nContent-Disposition: form-data; "
	for name, tc := range map[string]struct{ path, kind, body string }{
		"case":               {"/v1/chat/completions", "", `{"model":"GPT-4o"}`},
		"folding letters":    {"/v1/responses", "", `{"model":"gpt-4o","previous_reſponse_id":"a","previous_response_id":"b"}`},
		"fallbacks":          {"/v1/chat/completions", "", `{"model":"gpt-4o","models":["gpt-4o","o3"]}`},
		"gemini path":        {"/v1beta/models/gpt-4o/models/o3:generateContent", "", `{"model":"gpt-4o"}`},
		"gemini colon":       {"/v1beta/models/o3:x:generateContent", "", `{"model":"gpt-4o"}`},
		"other API, twice":   {"/http/x", "", `{"model":"o3","model":"gpt-4o"}`},
		"form: no model":     {"/v1/audio/transcriptions", "multipart/form-data; boundary=b", sep + "name=\"file\"\r\n\r\nx\r\n--b--\r\n"},
		"form: not allowed":  {"/v1/audio/transcriptions", "multipart/form-data; boundary=b", sep + "name=model\r\n\r\no3\r\n--b--\r\n"},
		"form: twice":        {"/v1/audio/transcriptions", "multipart/form-data; boundary=b", sep + "name=\"model\"\r\n\r\no3\r\n" + sep + "name=\"model\"\r\n\r\ngpt-4o\r\n--b--\r\n"},
		"form: inside file":  {"/v1/audio/transcriptions", "multipart/form-data; boundary=b", sep + "name=\"file\"; filename=\"a\"\r\n\r\nname=\"model\"\r\n\r\ngpt-4o\r\n" + sep + "name=\"model\"\r\n\r\no3\r\n--b--\r\n"},
		"form: name in name": {"/v1/audio/transcriptions", "multipart/form-data; boundary=b", sep + "name=\"x\"; filename=\"name=\\\"model\\\"\"\r\n\r\ngpt-4o\r\n" + sep + "name=\"model\"\r\n\r\no3\r\n--b--\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{upstream: url})
			r.addKey(t, "rg_listed", &rateguardv1.KeyRecord{Models: []string{"gpt-4*"}})
			headers := []string{"Authorization", "Bearer rg_listed"}
			if tc.kind != "" {
				headers = append(headers, "Content-Type", tc.kind)
			}
			if got := r.post(t, tc.path, tc.body, headers...); got.status != 403 && got.status != 400 {
				t.Errorf("got %d %s, want a refusal", got.status, got.body)
			}
		})
	}
}

// A body that ends early is not answered as if all were well, and leaves a row.
func TestShortBodies(t *testing.T) {
	url, seen := recorder(t)
	r := newRig(t, rigConfig{upstream: url})
	if res := r.raw(t, "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "+goodKey+"\r\nContent-Length: 500\r\n\r\n{", true); res != nil {
		t.Errorf("got %d, want a cut connection", res.StatusCode)
	}
	if row := r.log.row(t); row.GetStatus() != 499 || seen.Len() != 0 {
		t.Errorf("row %v, upstream saw %s", row, seen)
	}
}

func TestHeadKeepsTheLength(t *testing.T) {
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", "1234")
	})})
	if got := r.send(t, http.MethodHead, "/v1/models", nil); got.status != 200 || got.header.Get("Content-Length") != "1234" {
		t.Errorf("got %d %v", got.status, got.header)
	}
}
