package proxy_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A refusal that comes before the body is read leaves the connection as good as new: clients send their next request on it.
func TestConnectionOutlivesARefusal(t *testing.T) {
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, answerJSON(chatAnswer))})
	for _, tc := range []struct {
		name, path, key, body string
		status                int
	}{
		{"stranger", "/v1/chat/completions", "rg_nobody", chatBody, 401},
		{"unknown route", "/nowhere/v1/chat/completions", goodKey, chatBody, 404},
		{"stranger with a large body", "/v1/chat/completions", "rg_nobody", strings.Repeat(" ", 100<<10), 401},
		{"malformed", "/v1/chat/completions", goodKey, "{", 400},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			answers := bufio.NewReader(c)
			for i, want := range []int{tc.status, 200, tc.status, tc.status, 200} {
				path, key, body := tc.path, tc.key, tc.body
				if want == 200 {
					path, key, body = "/v1/chat/completions", goodKey, chatBody
				}
				_, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, key, len(body), body)
				if err != nil {
					t.Fatalf("request %d: %v", i+1, err)
				}
				res, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatalf("request %d on the connection is not answered: %v", i+1, err)
				}
				_, err = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
				if res.StatusCode != want || err != nil {
					t.Fatalf("request %d: got %d, %v; want %d", i+1, res.StatusCode, err, want)
				}
			}
		})
	}
}
