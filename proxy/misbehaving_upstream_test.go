package proxy_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

const head200 = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

// What a client gets and what it costs when the upstream does what it should not.
func TestMisbehavingUpstreams(t *testing.T) {
	raw := func(answer string) func(net.Conn, string) {
		return func(c net.Conn, _ string) { _, _ = io.WriteString(c, answer) }
	}
	cases := []struct {
		name   string
		act    func(c net.Conn, head string)
		status int
		code   string
		// cut says that the client must not take the answer for complete.
		cut bool
		// end is the kind of end; bound says that the cost is the whole bound, none that it is 0.
		end         string
		bound, none bool
	}{
		{name: "closes without an answer", act: func(net.Conn, string) {}, status: 502, code: "upstream_unreachable", end: "expired", bound: true},
		{name: "answers nonsense", act: raw("SSH-2.0-OpenSSH_9.0\r\n\r\n"), status: 502, code: "upstream_unreachable", end: "expired", bound: true},
		{name: "hangs", act: func(c net.Conn, _ string) { _, _ = c.Read(make([]byte, 1<<20)); _, _ = c.Read(make([]byte, 1)) }, status: 504, code: "upstream_timeout", end: "expired", bound: true},
		{name: "cuts the head", act: raw("HTTP/1.1 200 OK\r\nContent-Ty"), status: 502, code: "upstream_unreachable", end: "expired", bound: true},
		{name: "cuts a body with length", act: raw(head200 + "Content-Length: 500\r\n\r\n{\"id\":"), status: 502, code: "upstream_unreachable", end: "expired", bound: true},
		{name: "cuts a chunked body", act: raw(head200 + "Transfer-Encoding: chunked\r\n\r\n5\r\n{\"id\"\r\n"), status: 502, code: "upstream_unreachable", end: "expired", bound: true},
		{name: "bad chunk size", act: raw(head200 + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), status: 502, code: "upstream_unreachable", end: "expired", bound: true},
		{name: "two lengths", act: raw(head200 + "Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"), status: 502, code: "upstream_unreachable", end: "expired", bound: true},
		{name: "stalls in a body", act: func(c net.Conn, _ string) {
			_, _ = io.WriteString(c, head200+"Content-Length: 500\r\n\r\n{")
			_, _ = c.Read(make([]byte, 1<<20))
			_, _ = c.Read(make([]byte, 1))
		}, status: 504, code: "upstream_timeout", end: "expired", bound: true},
		{name: "500", act: raw("HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno"), status: 500, end: "voided", none: true},
		{name: "429", act: raw("HTTP/1.1 429 Slow\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\nno"), status: 429, end: "voided", none: true},
		{name: "interim answers first", act: raw("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + head200 + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(chatAnswer), chatAnswer)), status: 200, end: "settled"},
		{name: "length by the end of the connection", act: raw("HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + chatAnswer), status: 200, end: "settled"},
		{name: "cuts a stream", act: raw("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n10\r\ndata: {\"a\":1}\n\n\n\r\n"), status: 200, cut: true, end: "settled"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r := newRig(t, rigConfig{upstream: rawUpstream(t, tc.act), timeout: 200 * time.Millisecond, idle: 200 * time.Millisecond})
			got := r.post(t, "/v1/chat/completions", chatBody)
			if got.status != tc.status || got.header.Get("X-Rateguard-Error") != tc.code {
				t.Errorf("got %d %q, want %d %q", got.status, got.header.Get("X-Rateguard-Error"), tc.status, tc.code)
			}
			if (got.err != nil) != tc.cut {
				t.Errorf("end of the body: got %v, want cut %v", got.err, tc.cut)
			}
			o, kind := r.log.outcome(t)
			if kind != tc.end {
				t.Errorf("end: got %s, want %s", kind, tc.end)
			}
			switch {
			case tc.none && (o.GetCostNanoUsd() != 0 || o.CostNanoUsd == nil):
				t.Errorf("cost: got %v, want 0", o.CostNanoUsd)
			case tc.bound && (o.GetCostNanoUsd() != o.GetBoundNanoUsd() || o.GetBoundNanoUsd() == 0 || !o.GetEstimated()):
				t.Errorf("cost: got %d of %d, estimated %v; want the bound", o.GetCostNanoUsd(), o.GetBoundNanoUsd(), o.GetEstimated())
			case tc.cut && (!o.GetEstimated() || o.GetCostNanoUsd() <= 0 || o.GetCostNanoUsd() > o.GetBoundNanoUsd()):
				t.Errorf("cost: got %d of %d, estimated %v; want an estimate", o.GetCostNanoUsd(), o.GetBoundNanoUsd(), o.GetEstimated())
			}
			if row := r.log.row(t); row.GetCostNanoUsd() != o.GetCostNanoUsd() || row.GetDecision() != rateguardv1.Decision_DECISION_FORWARDED {
				t.Errorf("row and end differ: %v, %v", row, o)
			}
		})
	}
}

func TestRefusedConnectionCostsNothing(t *testing.T) {
	r := newRig(t, rigConfig{upstream: "http://127.0.0.1:1"})
	if got := r.post(t, "/v1/chat/completions", chatBody); got.status != 502 {
		t.Errorf("got %d, want 502", got.status)
	}
	if o, kind := r.log.outcome(t); kind != "voided" || o.GetCostNanoUsd() != 0 || o.CostNanoUsd == nil {
		t.Errorf("got %s %v, want voided at 0", kind, o.CostNanoUsd)
	}
}

func TestUnknownOutcomeFollowsTheWorkspace(t *testing.T) {
	for name, tc := range map[string]struct {
		setting rateguardv1.UnknownOutcome
		check   func(cost, bound int64) bool
	}{
		"reserved": {rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_RESERVED, func(c, b int64) bool { return c == b && b > 0 }},
		"input":    {rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_INPUT, func(c, b int64) bool { return c > 0 && c < b }},
		"none":     {rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_NONE, func(c, _ int64) bool { return c == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{
				upstream: rawUpstream(t, func(net.Conn, string) {}),
				settings: &rateguardv1.WorkspaceSettings{UnknownOutcome: tc.setting},
			})
			r.post(t, "/v1/chat/completions", chatBody)
			if o, _ := r.log.outcome(t); !tc.check(o.GetCostNanoUsd(), o.GetBoundNanoUsd()) || o.CostNanoUsd == nil {
				t.Errorf("cost %v, bound %d", o.CostNanoUsd, o.GetBoundNanoUsd())
			}
		})
	}
}

// A body that is too large is refused by its length alone, and when it has none, while it is read.
func TestLargeBodies(t *testing.T) {
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, answerJSON(chatAnswer))})
	for name, body := range map[string]io.Reader{
		"by its length":  bytes.NewReader(make([]byte, 100<<20)),
		"while it comes": struct{ io.Reader }{bytes.NewReader(make([]byte, 33<<20))},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.send(t, http.MethodPost, "/v1/chat/completions", body)
			if got.status != 413 || got.header.Get("X-Rateguard-Error") != "body_too_large" {
				t.Errorf("got %d %s", got.status, got.body)
			}
		})
	}
}

// An answer that does not stop is cut, and charged like one that its upstream cut: announced or not, whole or in events.
func TestLargeAnswers(t *testing.T) {
	const most = 64 << 10
	text := `{"choices":[{"message":{"content":"` + strings.Repeat("x", 2*most) + `"}}]}`
	event := "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"word word\"}}]}\n\n"
	for name, tc := range map[string]struct {
		media, body string
		status      int
		announced   bool
		// limit is the largest answer; one that is not above it passes.
		limit int64
		want  int
		cut   bool
		kind  string
	}{
		"announced":                       {"application/json", text, 200, true, most, 502, false, "expired"},
		"without a length":                {"application/json", text, 200, false, most, 502, false, "expired"},
		"events that do not end":          {"text/event-stream", strings.Repeat(event, 4000), 200, false, most, 200, true, "settled"},
		"other bytes":                     {"application/octet-stream", text, 200, false, most, 200, true, "settled"},
		"an error of the upstream":        {"application/json", text, 500, true, most, 502, false, "voided"},
		"an error that does not announce": {"application/json", text, 500, false, most, 500, true, "voided"},
		"just as large as it may be":      {"application/json", text, 200, false, int64(len(text)), 200, false, "settled"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigConfig{maxReply: tc.limit, upstream: upstreamFunc(t, func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				w.Header().Set("Content-Type", tc.media)
				if tc.announced {
					w.Header().Set("Content-Length", strconv.Itoa(len(tc.body)))
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})})
			got := r.post(t, "/v1/chat/completions", chatBody)
			if got.status != tc.want || (got.err != nil) != tc.cut || tc.cut && len(got.body) > most+pieceSize {
				t.Errorf("got %d, %d bytes, cut: %v; want %d, cut %v", got.status, len(got.body), got.err, tc.want, tc.cut)
			}
			if o, kind := r.log.outcome(t); kind != tc.kind || o.GetCostNanoUsd() > o.GetBoundNanoUsd() {
				t.Errorf("end: got %s, %d of %d; want %s", kind, o.GetCostNanoUsd(), o.GetBoundNanoUsd(), tc.kind)
			}
			if row := r.log.row(t); int(row.GetStatus()) != tc.want {
				t.Errorf("row: got %d, want %d", row.GetStatus(), tc.want)
			}
		})
	}
}

// pieceSize is more than the proxy reads at once.
const pieceSize = 64 << 10

// An upstream may answer before it has read the body, and never read it.
func TestEarlyAnswerToALargeBody(t *testing.T) {
	r := newRig(t, rigConfig{upstream: rawUpstream(t, func(c net.Conn, _ string) {
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		_, _ = c.Read(make([]byte, 1))
	}), timeout: 5 * time.Second})
	got := r.send(t, http.MethodPost, "/v1/unknown", bytes.NewReader(make([]byte, 16<<20)))
	if got.status != 413 || got.body != "no" {
		t.Errorf("got %d %q, want the upstream's answer", got.status, got.body)
	}
}

func TestCompressedAnswers(t *testing.T) {
	squeeze := func(s string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(s))
		_ = z.Close()
		return b.Bytes()
	}
	var asked string
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, func(w http.ResponseWriter, req *http.Request) {
		asked = req.Header.Get("Accept-Encoding")
		body := []byte(chatAnswer)
		w.Header().Set("Content-Type", "application/json")
		if strings.Contains(asked, "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			body = squeeze(chatAnswer)
		}
		_, _ = w.Write(body)
	})})
	for accept, want := range map[string]string{
		"gzip, deflate, br": "gzip", "br": "identity", "gzip;q=0": "identity", "": "identity", "*": "gzip",
	} {
		got := r.post(t, "/v1/chat/completions", chatBody, "Accept-Encoding", accept)
		if asked != want {
			t.Errorf("%q: upstream was asked for %q, want %q", accept, asked, want)
		}
		body := chatAnswer
		if want == "gzip" {
			body = string(squeeze(chatAnswer))
		}
		if got.body != body || got.header.Get("X-Rateguard-Cost-Usd") != "0.000156" {
			t.Errorf("%q: body changed or cost is %q", accept, got.header.Get("X-Rateguard-Cost-Usd"))
		}
	}
}

func TestUnreportedUsageIsCounted(t *testing.T) {
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, answerJSON(`{"choices":[{"message":{"role":"assistant","content":"`+strings.Repeat("word ", 40)+`"}}]}`))})
	r.post(t, "/v1/chat/completions", chatBody)
	o, kind := r.log.outcome(t)
	if kind != "settled" || !o.GetEstimated() || o.GetUsage().GetOutputTokens() < 40 || o.GetUsage().GetOutputTokens() > 80 ||
		o.GetUsage().GetInputTokens() == 0 || o.GetCostNanoUsd() <= 0 || o.GetCostNanoUsd() > o.GetBoundNanoUsd() {
		t.Errorf("%s: %v", kind, o)
	}
}

// More than the bound allows is never charged for an answer that we counted ourselves.
func TestOwnCountStaysBelowTheBound(t *testing.T) {
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, answerJSON(`{"choices":[{"message":{"content":"`+strings.Repeat("word ", 400_000)+`"}}]}`))})
	r.post(t, "/v1/chat/completions", chatBody)
	if o, _ := r.log.outcome(t); o.GetCostNanoUsd() != o.GetBoundNanoUsd() || o.GetBoundNanoUsd() == 0 {
		t.Errorf("got %d of %d", o.GetCostNanoUsd(), o.GetBoundNanoUsd())
	}
}
