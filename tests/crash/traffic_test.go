package crash_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
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

// sent is what the client knows of one request.
type sent struct {
	kind kind
	// id is the gateway's; empty when no answer began.
	id string
	// whole says that the client got status 200 and the whole answer.
	whole  bool
	status int
	err    error
}

// traffic sends the mix at a fixed rate until it is stopped and remembers every request by its idempotency key.
type traffic struct {
	client *http.Client
	target harness.Endpoints
	key    string

	mu   sync.Mutex // guards sent
	sent map[string]sent
	wg   sync.WaitGroup
}

func newTraffic(target harness.Endpoints, key string) *traffic {
	return &traffic{
		target: target, key: key, sent: map[string]sent{},
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 256}},
	}
}

// run sends rate requests a second until ctx ends; answers that are still running are waited for.
func (t *traffic) run(ctx context.Context, rate int) {
	ticker := time.NewTicker(time.Second / time.Duration(rate))
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			t.wg.Wait()
			return
		case <-ticker.C:
			t.wg.Go(func() { t.one(context.WithoutCancel(ctx), n) })
		}
	}
}

func (t *traffic) one(ctx context.Context, n int) {
	k := mix[n%len(mix)]
	id := fmt.Sprintf("crash-%d", n)
	s := sent{kind: k}
	s.err = t.send(ctx, &s, id)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent[id] = s
}

func (t *traffic) send(ctx context.Context, s *sent, id string) error {
	body := fmt.Sprintf(s.kind.body, id+strings.Repeat(" word", len(id)%7))
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.target.ProxyURL+s.kind.path, strings.NewReader(body))
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
	s.id, s.status = response.Header.Get("X-Request-Id"), response.StatusCode
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	tail := strings.TrimSpace(string(answer[max(0, len(answer)-200):]))
	s.whole = response.StatusCode == http.StatusOK && strings.Contains(tail, s.kind.end)
	if !s.whole {
		return fmt.Errorf("status %d: %s", response.StatusCode, tail)
	}
	return nil
}
