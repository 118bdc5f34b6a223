package harness

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// kind is one sort of request of the mix.
type kind struct {
	name, path, body string
	// end is what the last bytes of a whole answer hold.
	end string
}

var mix = []kind{
	{"chat", "/v1/chat/completions", `{"model":"gpt-4o-mini","max_tokens":40,"messages":[{"role":"user","content":"%s"}]}`, "}"},
	{"chat stream", "/v1/chat/completions", `{"model":"gpt-4o","max_tokens":40,"stream":true,"messages":[{"role":"user","content":"%s"}]}`, "data: [DONE]"},
	{"message", "/v1/messages", `{"model":"claude-haiku-4-5","max_tokens":40,"messages":[{"role":"user","content":"%s"}]}`, "}"},
	{"message stream", "/v1/messages", `{"model":"claude-sonnet-4-5","max_tokens":40,"stream":true,"messages":[{"role":"user","content":"%s"}]}`, "message_stop"},
	{"gemini", "/v1beta/models/gemini-2.5-flash:generateContent", `{"generationConfig":{"maxOutputTokens":40},"contents":[{"role":"user","parts":[{"text":"%s"}]}]}`, "}"},
	{"http", "/http/anything", `{"text":"%s"}`, ""},
}

// Sent is what the client knows of one request.
type Sent struct {
	// Kind is the sort of request.
	Kind string
	// ID is the gateway's; empty when no answer began.
	ID string
	// Whole says that the client got status 200 and the whole answer; else Err says what went wrong.
	Whole bool
	Err   error
}

// Traffic sends a mix of requests at a fixed rate and remembers every one.
type Traffic struct {
	client  *http.Client
	targets []Endpoints
	key     string
	// leave decides for each request how long its client stays; 0: to the end.
	leave func() time.Duration

	mu     sync.Mutex // guards sent
	sent   map[string]Sent
	cancel context.CancelFunc
	done   chan struct{}
}

// StartTraffic sends rate requests a second to target until Stop, or the end of the test.
func StartTraffic(tb testing.TB, target Endpoints, key string, rate int) *Traffic {
	tb.Helper()
	return StartRestlessTraffic(tb, []Endpoints{target}, key, rate, func() time.Duration { return 0 })
}

// StartRestlessTraffic is StartTraffic over several proxies in turns, with clients that leave after the time that leave says, which is asked once for
// each request, in order; 0: they stay.
func StartRestlessTraffic(tb testing.TB, targets []Endpoints, key string, rate int, leave func() time.Duration) *Traffic {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	t := &Traffic{
		targets: targets, key: key, leave: leave, sent: map[string]Sent{}, cancel: cancel, done: make(chan struct{}),
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
	}
	go func() {
		defer close(t.done)
		t.run(ctx, rate)
	}()
	tb.Cleanup(func() { t.Stop() })
	return t
}

// Stop sends no more, waits for the answers that are under way and returns every request by its idempotency key.
func (t *Traffic) Stop() map[string]Sent {
	t.cancel()
	<-t.done
	return t.sent
}

// Whole returns how many requests were answered whole so far.
func (t *Traffic) Whole() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, s := range t.sent {
		if s.Whole {
			n++
		}
	}
	return n
}

func (t *Traffic) run(ctx context.Context, rate int) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			stays := t.leave()
			wg.Go(func() {
				ctx, cancel := context.WithoutCancel(ctx), context.CancelFunc(func() {})
				if stays > 0 {
					ctx, cancel = context.WithTimeout(ctx, stays)
				}
				defer cancel()
				t.one(ctx, n)
			})
		}
	}
}

func (t *Traffic) one(ctx context.Context, n int) {
	k := mix[n%len(mix)]
	id := fmt.Sprintf("load-%d", n)
	s := Sent{Kind: k.name}
	s.Err = t.send(ctx, k, &s, id, t.targets[n%len(t.targets)])
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent[id] = s
}

func (t *Traffic) send(ctx context.Context, k kind, s *Sent, id string, target Endpoints) error {
	body := fmt.Sprintf(k.body, id+strings.Repeat(" word", len(id)%7))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, target.ProxyURL+k.path, strings.NewReader(body))
	if err != nil {
		return err
	}
	// A client must not send a request a second time by itself: each idempotency key is to be one request.
	r.GetBody = nil
	r.Header.Set("Authorization", "Bearer "+t.key)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Anthropic-Version", "2023-06-01")
	r.Header.Set("Idempotency-Key", id)
	r.Header.Set("X-Mock-Pace", "ttft=20ms,jitter=10ms,tps=400,chunk=4")
	response, err := t.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	s.ID = response.Header.Get("X-Request-Id")
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	tail := strings.TrimSpace(string(answer[max(0, len(answer)-200):]))
	s.Whole = response.StatusCode == http.StatusOK && strings.Contains(tail, k.end)
	if !s.Whole {
		return fmt.Errorf("status %d: %s", response.StatusCode, tail)
	}
	return nil
}
