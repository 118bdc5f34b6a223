package proxy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

func openStore(t testing.TB, url string) *lua.Store {
	t.Helper()
	// A busy machine keeps this deadline; decisions of 50 ms are the default.
	s, err := lua.OpenStore(lua.StoreConfig{URL: url, Timeout: 2 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func background(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

const day = int64(24 * time.Hour / time.Microsecond)

// slow is a limit that gives nothing back while a test runs.
func slow(id, scope string, n int64) *rateguardv1.Limit {
	return &rateguardv1.Limit{Id: id, Scope: scope, Limit: n, WindowUs: 365 * day}
}

// limited is a proxy with limits on a Redis of its own.
func limited(t *testing.T, limits ...*rateguardv1.Limit) (*rig, *redistest.Server) {
	t.Helper()
	r := redistest.Start(t)
	return newRig(t, rigConfig{upstream: upstreamFunc(t, answerJSON(chatAnswer)), redis: r.URL(), limits: limits}), r
}

func (r *rig) chat(t testing.TB) reply {
	t.Helper()
	return r.post(t, "/v1/chat/completions", chatBody)
}

func TestRequestsAboveALimitAreRefused(t *testing.T) {
	t.Parallel()
	r, _ := limited(t, slow("total", limit.ScopeWorkspace, 3), slow("each", limit.ScopeKey, 10))
	for i := range 3 {
		got := r.chat(t)
		if got.status != http.StatusOK || got.header.Get("X-Ratelimit-Remaining-Requests") != strconv.Itoa(2-i) {
			t.Fatalf("request %d: %d %v", i, got.status, got.header)
		}
		want := fmt.Sprintf(`"total";r=%d;t=`, 2-i)
		if h := got.header.Get("Ratelimit"); !strings.HasPrefix(h, want) || !strings.Contains(h, fmt.Sprintf(`, "each";r=%d;t=`, 9-i)) {
			t.Errorf("RateLimit: %q", h)
		}
	}
	got := r.chat(t)
	if got.status != http.StatusTooManyRequests || got.header.Get("X-Rateguard-Error") != "rate_limit_exceeded" {
		t.Fatalf("above the limit: %d %s", got.status, got.body)
	}
	if got.header.Get("Ratelimit-Policy") != `"total";q=3;w=31536000, "each";q=10;w=31536000` || got.header.Get("X-Ratelimit-Limit-Requests") != "3" {
		t.Errorf("headers of a refusal: %v", got.header)
	}
	after, err := strconv.Atoi(got.header.Get("Retry-After"))
	if err != nil || after < 365*24*3600/3-60 || after > 365*24*3600/3+1 {
		t.Errorf("Retry-After: %q", got.header.Get("Retry-After"))
	}
	if !strings.Contains(got.body, `\"total\"`) || !strings.Contains(got.body, "3 of 3 requests") {
		t.Errorf("the message does not say which limit: %s", got.body)
	}
	rows := r.log.rows(t, 4)
	checks := rows[3].GetChecks()
	if len(checks) != 2 || !checks[0].GetDenied() || checks[1].GetDenied() || checks[1].GetUsed() != 3 || checks[1].GetSubject() != "key_good" ||
		checks[0].GetDecidedBy() != "redis" || checks[0].GetRetryAfterUs() <= 0 || rows[3].GetPolicyVersion() != 7 {
		t.Errorf("row of a refusal: %v", rows[3])
	}
}

func TestAnthropicClientsGetTheirHeaders(t *testing.T) {
	t.Parallel()
	r, _ := limited(t, slow("a", limit.ScopeWorkspace, 5))
	got := r.post(t, "/v1/messages", `{"model":"claude-3-5-haiku-20241022","max_tokens":10,"messages":[{"role":"user","content":"hi"}]}`)
	h := got.header
	if h.Get("Anthropic-Ratelimit-Requests-Limit") != "5" || h.Get("Anthropic-Ratelimit-Requests-Remaining") != "4" {
		t.Errorf("headers: %v", h)
	}
	if at, err := time.Parse(time.RFC3339, h.Get("Anthropic-Ratelimit-Requests-Reset")); err != nil || at.Before(time.Now()) {
		t.Errorf("reset: %v %v", at, err)
	}
}

// Many proxies and connections together get what the limit allows, to the request, and what one limit refuses the other does not count.
func TestConcurrentRequestsTakeExactlyTheLimit(t *testing.T) {
	t.Parallel()
	store := redistest.Start(t)
	upstream := upstreamFunc(t, answerJSON(chatAnswer))
	var proxies []*rig
	for range 3 {
		proxies = append(proxies, newRig(t, rigConfig{
			upstream: upstream, redis: store.URL(), limits: []*rateguardv1.Limit{slow("ws", limit.ScopeWorkspace, 40), slow("key", limit.ScopeKey, 60)},
		}))
	}
	var admitted, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			for range 10 {
				switch got := proxies[i%3].chat(t); got.status {
				case http.StatusOK:
					admitted.Add(1)
				case http.StatusTooManyRequests:
					refused.Add(1)
				default:
					t.Errorf("%d %s", got.status, got.body)
				}
			}
		})
	}
	wg.Wait()
	if admitted.Load() != 40 || refused.Load() != 200 {
		t.Errorf("%d admitted and %d refused of 240, want 40 and 200", admitted.Load(), refused.Load())
	}
	if got := proxies[0].chat(t).header.Get("Ratelimit"); !strings.Contains(got, `"key";r=20;`) {
		t.Errorf("refusals were counted by the other limit: %s", got)
	}
}

func TestUnusedTokensAreGivenBack(t *testing.T) {
	t.Parallel()
	tokens := slow("tokens", limit.ScopeWorkspace, 1500)
	tokens.Unit = limit.UnitTokens
	r, _ := limited(t, tokens)
	// The bound is the body's bytes, what the provider puts around them, and max_tokens; the answer uses 1,010.
	got := r.chat(t)
	bound := r.log.row(t).GetChecks()[0].GetCost()
	if h := got.header; h.Get("X-Ratelimit-Remaining-Tokens") != strconv.FormatInt(1500-bound, 10) || !strings.Contains(h.Get("Ratelimit-Policy"), `qu="tokens"`) {
		t.Errorf("bound %d: %v", bound, h)
	}
	if bound < int64(len(chatBody)+100) || bound > int64(len(chatBody)+200) {
		t.Errorf("bound of %d tokens", bound)
	}
	got = r.chat(t)
	if want := strconv.FormatInt(1500-1010-bound, 10); got.header.Get("X-Ratelimit-Remaining-Tokens") != want {
		t.Errorf("after 1,010 tokens were used %s remain, want %s", got.header.Get("X-Ratelimit-Remaining-Tokens"), want)
	}
}

func TestARequestThatCanNeverFitIsMalformed(t *testing.T) {
	t.Parallel()
	store := redistest.Start(t)
	r := newRig(t, rigConfig{
		upstream: upstreamFunc(t, answerJSON(chatAnswer)), redis: store.URL(), limits: []*rateguardv1.Limit{slow("few", limit.ScopeWorkspace, 5)},
		weights: map[string]int64{"gpt-4o*": 10, "*": 5},
	})
	if got := r.chat(t); got.status != http.StatusBadRequest || !strings.Contains(got.body, "never has more than 5") {
		t.Errorf("weight 10 of 5: %d %s", got.status, got.body)
	}
	if got := r.post(t, "/v1/chat/completions", strings.Replace(chatBody, "gpt-4o-mini", "gpt-3.5-turbo", 1)); got.status != http.StatusOK {
		t.Errorf("weight 5 of 5: %d %s", got.status, got.body)
	}
}

func TestSleepingAsToldIsEnough(t *testing.T) {
	t.Parallel()
	r, _ := limited(t, &rateguardv1.Limit{Id: "fast", Limit: 1, WindowUs: 300_000})
	for range 3 {
		if got := r.chat(t); got.status != http.StatusOK {
			t.Fatalf("after the wait: %d %s", got.status, got.body)
		}
		got := r.chat(t)
		ms, err := strconv.Atoi(got.header.Get("Retry-After-Ms"))
		if got.status != http.StatusTooManyRequests || err != nil {
			t.Fatalf("right behind: %d %v", got.status, got.header)
		}
		<-time.After(time.Duration(ms) * time.Millisecond)
	}
}

func TestALeakyBucketSpacesRequests(t *testing.T) {
	t.Parallel()
	r, _ := limited(t, &rateguardv1.Limit{Id: "leak", Algorithm: limit.LeakyBucket, Limit: 10, WindowUs: 1_000_000, Burst: 3, MaxDelayUs: 10_000_000})
	var wg sync.WaitGroup
	var served, refused atomic.Int64
	for range 6 {
		wg.Go(func() {
			switch r.chat(t).status {
			case http.StatusOK:
				served.Add(1)
			case http.StatusTooManyRequests:
				refused.Add(1)
			}
		})
	}
	wg.Wait()
	if served.Load() < 4 || served.Load()+refused.Load() != 6 {
		t.Errorf("%d served, %d refused", served.Load(), refused.Load())
	}
	var delays int64
	for _, row := range r.log.rows(t, 6) {
		delays += row.GetChecks()[0].GetDelayUs()
	}
	if delays < 100_000+200_000 {
		t.Errorf("requests were held for %d µs together", delays)
	}
}

func TestARequestThatTheLogRefusesConsumesNothing(t *testing.T) {
	t.Parallel()
	r, _ := limited(t, slow("n", limit.ScopeWorkspace, 10))
	r.log.mu.Lock()
	r.log.refuse = errors.New("full")
	r.log.mu.Unlock()
	if got := r.chat(t); got.status != http.StatusServiceUnavailable {
		t.Fatalf("full log: %d", got.status)
	}
	r.log.mu.Lock()
	r.log.refuse = nil
	r.log.mu.Unlock()
	if got := r.chat(t).header.Get("X-Ratelimit-Remaining-Requests"); got != "9" {
		t.Errorf("%s remain after one request", got)
	}
}

func TestAnAbsentStoreIsWhatEachLimitSaysItIs(t *testing.T) {
	t.Parallel()
	open, closed := slow("open", limit.ScopeWorkspace, 3), slow("closed", limit.ScopeModel, 100)
	closed.OnStoreFailure = limit.FailClosed
	closed.Match = &rateguardv1.Match{Model: "gpt-4o-mini"}
	r, store := limited(t, open, closed)
	if got := r.chat(t); got.status != http.StatusOK {
		t.Fatalf("before: %d", got.status)
	}
	store.Kill()
	got := r.chat(t)
	if got.status != http.StatusServiceUnavailable || got.header.Get("X-Rateguard-Error") != "store_unavailable" || got.header.Get("Retry-After") == "" {
		t.Errorf("closed: %d %v", got.status, got.header)
	}
	other := strings.Replace(chatBody, "gpt-4o-mini", "gpt-4o", 1)
	for i, want := range []int{200, 200, 200, 429} { // this proxy's share is all of it
		if got := r.post(t, "/v1/chat/completions", other); got.status != want {
			t.Errorf("open, request %d: %d, want %d", i, got.status, want)
		}
	}
	rows := r.log.rows(t, 6)
	if k := rows[2].GetChecks(); len(k) != 1 || k[0].GetDecidedBy() != "local" {
		t.Errorf("checks while the store is away: %v", k)
	}
	// Once it is back, what was let through is charged: the three leave nothing.
	store.Restart()
	eventually(t, func() bool {
		got := r.post(t, "/v1/chat/completions", other)
		return got.status == http.StatusTooManyRequests && r.log.rows(t, 1)[len(r.log.rows(t, 1))-1].GetChecks()[0].GetDecidedBy() == "redis"
	}, "the charge of what was let through")
}

func TestARevokedKeyIsRefusedByTheSameCall(t *testing.T) {
	t.Parallel()
	r, store := limited(t, slow("n", limit.ScopeWorkspace, 10))
	store.Do("SADD", keyspace.Revoked(workspace), "key_good")
	if got := r.chat(t); got.status != http.StatusUnauthorized || got.header.Get("X-Rateguard-Error") != "api_key_revoked" {
		t.Fatalf("flag in Redis: %d %s", got.status, got.body)
	}
	store.Do("FLUSHALL")
	if got := r.chat(t); got.status != http.StatusUnauthorized {
		t.Errorf("the proxy forgot what it had seen: %d", got.status)
	}
}

func TestAnOldPolicyIsReadAnew(t *testing.T) {
	t.Parallel()
	store := redistest.Start(t)
	cfg := rigConfig{upstream: upstreamFunc(t, answerJSON(chatAnswer)), redis: store.URL(), limits: []*rateguardv1.Limit{slow("n", limit.ScopeWorkspace, 100)}}
	behind := newRig(t, cfg)
	cfg.version, cfg.limits = 8, []*rateguardv1.Limit{slow("n", limit.ScopeWorkspace, 5)}
	ahead := newRig(t, cfg)
	for range 4 {
		if got := ahead.chat(t); got.status != http.StatusOK {
			t.Fatalf("ahead: %d", got.status)
		}
	}
	document := ahead.view.Workspace(workspace).Document
	value, err := envelope.Encode(&rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: document}})
	if err != nil {
		t.Fatal(err)
	}
	store.Do("HSET", keyspace.Policy(workspace), keyspace.PolicyVersion, "8", keyspace.PolicyDocument, string(value))
	for i, want := range []int{200, 429} {
		if got := behind.chat(t); got.status != want {
			t.Errorf("behind, request %d: %d, want %d: %s", i, got.status, want, got.body)
		}
	}
	if v := behind.view.Workspace(workspace).Version; v != 8 {
		t.Errorf("policy version %d is in force", v)
	}
}
