package proxy_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const streamBody = `{"model":"gpt-4o-mini","stream":true,"max_tokens":100,"messages":[{"role":"user","content":"hello"}]}`

const (
	sseContent = `data: {"id":"c","choices":[{"index":0,"delta":{"content":"héllo wörld"}}],"usage":null}` + "\n\n"
	sseUsage   = `data: {"id":"c","choices":[],"usage":{"prompt_tokens":1000,"completion_tokens":10,"total_tokens":1010}}` + "\n\n"
	sseDone    = "data: [DONE]\n\n"
)

func sse(pieces ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for _, p := range pieces {
			_, _ = io.WriteString(w, p)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// every cuts a text into pieces of n bytes: inside lines, inside characters.
func every(n int, s string) []string {
	var out []string
	for len(s) > n {
		out, s = append(out, s[:n]), s[n:]
	}
	return append(out, s)
}

func TestUsageChunkIsAskedForAndStripped(t *testing.T) {
	whole := sseContent + sseUsage + sseDone
	long := "data: {\"x\":\"" + strings.Repeat("y", 3<<20) + "\"}\n\n"
	for name, tc := range map[string]struct {
		body   string
		pieces []string
		want   string
		usage  bool
	}{
		"not asked for":          {streamBody, []string{sseContent, sseUsage, sseDone}, sseContent + sseDone, true},
		"in one piece":           {streamBody, []string{whole}, sseContent + sseDone, true},
		"byte by byte":           {streamBody, every(1, whole), sseContent + sseDone, true},
		"seven bytes at a time":  {streamBody, every(7, whole), sseContent + sseDone, true},
		"with CRLF":              {streamBody, []string{strings.ReplaceAll(whole, "\n", "\r\n")}, strings.ReplaceAll(sseContent+sseDone, "\n", "\r\n"), true},
		"asked for":              {strings.Replace(streamBody, `"stream":true`, `"stream":true,"stream_options":{"include_usage":true}`, 1), []string{whole}, whole, true},
		"declined":               {strings.Replace(streamBody, `"stream":true`, `"stream":true,"stream_options":{"include_usage":false}`, 1), []string{whole}, sseContent + sseDone, true},
		"options are null":       {strings.Replace(streamBody, `"stream":true`, `"stream":true,"stream_options":null`, 1), []string{whole}, sseContent + sseDone, true},
		"never comes":            {streamBody, []string{sseContent + sseDone}, sseContent + sseDone, false},
		"usage beside a choice":  {streamBody, []string{strings.Replace(sseContent, "null", `{"prompt_tokens":1000,"completion_tokens":10}`, 1) + sseDone}, strings.Replace(sseContent, "null", `{"prompt_tokens":1000,"completion_tokens":10}`, 1) + sseDone, true},
		"huge line":              {streamBody, []string{long, whole}, long + sseContent + sseDone, true},
		"broken events":          {streamBody, []string{"data: {\"choices\":[\n\nnonsense\n\ndata:\n\n", whole}, "data: {\"choices\":[\n\nnonsense\n\ndata:\n\n" + sseContent + sseDone, true},
		"no line end at the end": {streamBody, []string{sseContent + "data: [DONE]"}, sseContent + "data: [DONE]", false},
	} {
		t.Run(name, func(t *testing.T) {
			var sent string
			handler := sse(tc.pieces...)
			r := newRig(t, rigConfig{upstream: upstreamFunc(t, func(w http.ResponseWriter, req *http.Request) {
				b, _ := io.ReadAll(req.Body)
				sent = string(b)
				handler(w, req)
			})})
			got := r.post(t, "/v1/chat/completions", tc.body)
			if got.body != tc.want || got.err != nil {
				t.Errorf("client got\n%.300q (%v), want\n%.300q", got.body, got.err, tc.want)
			}
			if !strings.Contains(sent, `"include_usage":true`) {
				t.Errorf("usage was not asked for: %s", sent)
			}
			o, kind := r.log.outcome(t)
			if kind != "settled" || o.GetEstimated() == tc.usage || tc.usage && o.GetCostNanoUsd() != 156_000 {
				t.Errorf("%s %v", kind, o)
			}
			if row := r.log.row(t); !row.GetContext().GetStream() || row.GetTtftUs() == 0 {
				t.Errorf("row: %v", row)
			}
		})
	}
}

// The end stands in the log before the client can take the stream for complete.
func TestEndIsRecordedBeforeTheStreamIsWhole(t *testing.T) {
	rest := make(chan struct{})
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, func(w http.ResponseWriter, req *http.Request) {
		sse(sseContent)(w, req)
		<-rest
		sse(sseUsage, sseDone)(w, req)
	})})
	release := make(chan struct{})
	var once sync.Once
	reached := make(chan struct{})
	r.log.onEnd = func() {
		once.Do(func() { close(reached) })
		<-release
	}
	done := make(chan string, 1)
	var seen atomic.Value
	seen.Store("")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/chat/completions", strings.NewReader(streamBody))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+goodKey)
	go func() {
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			done <- err.Error()
			return
		}
		defer func() { _ = res.Body.Close() }()
		text := ""
		b := make([]byte, 1024)
		for {
			n, err := res.Body.Read(b)
			text += string(b[:n])
			seen.Store(text)
			if err != nil {
				done <- text
				return
			}
		}
	}()
	text := func() string { return seen.Load().(string) } //nolint:forcetypeassert // set above
	for !strings.Contains(text(), "wörld") {
		select {
		case <-t.Context().Done():
		case <-time.After(time.Millisecond): // the content comes without any end
		}
	}
	close(rest)
	<-reached
	if strings.Contains(text(), "DONE") {
		t.Error("the client saw the end before the log did")
	}
	close(release)
	if text := <-done; text != sseContent+sseDone {
		t.Errorf("got %q", text)
	}
}

// The first piece reaches the client while the upstream still waits.
func TestStreamsAreNotBuffered(t *testing.T) {
	next := make(chan struct{})
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, func(w http.ResponseWriter, req *http.Request) {
		sse(sseContent)(w, req)
		<-next
		_, _ = io.WriteString(w, sseUsage+sseDone)
	})})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/chat/completions", strings.NewReader(streamBody))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+goodKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b := make([]byte, len(sseContent))
	if _, err := io.ReadFull(res.Body, b); err != nil || string(b) != sseContent {
		t.Fatalf("got %q, %v", b, err)
	}
	close(next)
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
}

// A client that leaves pays for what was produced, and the upstream is cancelled. It is a 499, also where the rest of the
// stream still came, and wherever its end stood: in its last event, or behind it.
func TestClientLeaves(t *testing.T) {
	for name, tc := range map[string]struct {
		after     []string // what the upstream sends once the client has left
		estimated bool
	}{
		"the end still comes":          {[]string{sseUsage, sseDone}, false},
		"the end comes without a mark": {[]string{sseUsage}, false},
		"the end comes in one piece":   {[]string{sseUsage + sseDone}, false},
		"nothing comes more":           {nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			cancelled := make(chan struct{})
			ended := make(chan struct{})
			r := newRig(t, rigConfig{drain: 300 * time.Millisecond, upstream: upstreamFunc(t, func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body) // else this server would not notice that we leave
				sse(sseContent)(w, req)
				<-gone
				sse(tc.after...)(w, req)
				switch {
				case tc.after == nil:
					<-req.Context().Done()
				case strings.HasSuffix(tc.after[len(tc.after)-1], sseDone):
					<-ended // the body's end comes in a read of its own
				}
				close(cancelled)
			})})
			r.log.onEnd = func() { close(ended) }
			ctx, leave := context.WithCancel(t.Context())
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/chat/completions", strings.NewReader(streamBody))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+goodKey)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			leave()
			_ = res.Body.Close()
			<-r.left
			close(gone)
			<-cancelled
			o, kind := r.log.outcome(t)
			if kind != "settled" || o.GetEstimated() != tc.estimated || o.GetCostNanoUsd() <= 0 || o.GetCostNanoUsd() > 156_000 {
				t.Errorf("%s %v", kind, o)
			}
			if tc.estimated && o.GetUsage().GetOutputTokens() == 0 {
				t.Error("what was produced is not counted")
			}
			if row := r.log.row(t); row.GetStatus() != 499 {
				t.Errorf("status: got %d, want 499", row.GetStatus())
			}
		})
	}
}

// net/http cuts streams of instant upstreams now and then, unless it is told not to.
func TestNoStreamIsCut(t *testing.T) {
	r := newRig(t, rigConfig{upstream: upstreamFunc(t, sse(sseContent+sseUsage+sseDone))})
	var left atomic.Int64
	left.Store(5000)
	var cut atomic.Int64
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/v1/chat/completions", strings.NewReader(streamBody))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+goodKey)
				res, err := client.Do(req)
				if err != nil {
					cut.Add(1)
					continue
				}
				b, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if err != nil || string(b) != sseContent+sseDone {
					cut.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := cut.Load(); n != 0 {
		t.Errorf("%d of 5000 streams were cut", n)
	}
	if n := len(r.log.rows(t, 5000)); n != 5000 {
		t.Errorf("%d rows", n)
	}
}
