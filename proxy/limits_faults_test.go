package proxy_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/protobuf/proto"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
	"github.com/rateguard/rateguard/topics"
)

// other is a request that the closed limit of both is not for.
var other = strings.Replace(chatBody, "gpt-4o-mini", "gpt-4o", 1)

// both are a limit that is open while the store is away and one, of a single model, that is closed then.
func both(n int64) []*rateguardv1.Limit {
	open, closed := slow("open", limit.ScopeWorkspace, n), slow("closed", limit.ScopeModel, 1000)
	closed.OnStoreFailure = limit.FailClosed
	closed.Match = &rateguardv1.Match{Model: "gpt-4o-mini"}
	return []*rateguardv1.Limit{open, closed}
}

// decidedBy is who decided the latest request.
func (r *rig) decidedBy(t *testing.T) string {
	t.Helper()
	rows := r.log.rows(t, 1)
	checks := rows[len(rows)-1].GetChecks()
	if len(checks) == 0 {
		return ""
	}
	return checks[0].GetDecidedBy()
}

// A Redis that has no memory left can decide nothing: each limit does what it says, and all is well once there is room.
func TestAFullStoreIsWhatEachLimitSaysItIs(t *testing.T) {
	t.Parallel()
	r, store := limited(t, both(1000)...)
	if got := r.chat(t); got.status != http.StatusOK {
		t.Fatalf("before: %d", got.status)
	}
	store.Do("config", "set", "maxmemory", "1")
	for i := range 8 { // at first Redis refuses, then its breaker is open
		got := r.chat(t)
		if got.status != http.StatusServiceUnavailable || got.header.Get("X-Rateguard-Error") != "store_unavailable" {
			t.Fatalf("closed, request %d: %d %s", i, got.status, got.body)
		}
		if got := r.post(t, "/v1/chat/completions", other); got.status != http.StatusOK || r.decidedBy(t) != "local" {
			t.Fatalf("open, request %d: %d by %q", i, got.status, r.decidedBy(t))
		}
	}
	store.Do("config", "set", "maxmemory", "0")
	eventually(t, func() bool {
		got := r.chat(t)
		return got.status == http.StatusOK && r.decidedBy(t) == "redis"
	}, "decisions in Redis")
	// What was let through meanwhile is charged: the limit shows all that was served, each once.
	eventually(t, func() bool {
		r.post(t, "/v1/chat/completions", other)
		rows := r.log.rows(t, 1)
		served := int64(0)
		for _, row := range rows {
			if row.GetStatus() == http.StatusOK {
				served++
			}
		}
		return r.decidedBy(t) == "redis" && rows[len(rows)-1].GetChecks()[0].GetUsed() == served
	}, "the charge of what was let through")
}

// Every wipe gives each limit back once, and no client sees more of it.
func TestAWipedStoreShowsNoError(t *testing.T) {
	t.Parallel()
	const most, wipes = 10, 4
	r, store := limited(t, both(most)...)
	var served, refused atomic.Int64
	ask := func() {
		switch got := r.chat(t); got.status {
		case http.StatusOK:
			served.Add(1)
		case http.StatusTooManyRequests:
			refused.Add(1)
		default:
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					ask()
				}
			}
		})
	}
	for i := range int64(wipes + 1) {
		was := refused.Load()
		eventually(t, func() bool { return served.Load() == most*(i+1) && refused.Load() > was+10 }, "the end of the limit")
		if i < wipes {
			store.Do("flushall")
		}
	}
	close(done)
	wg.Wait()
	if served.Load() != most*(wipes+1) {
		t.Errorf("%d served of a limit of %d that was wiped %d times", served.Load(), most, wipes)
	}
}

// A limit that comes into being while requests run counts from then on, whatever stood before.
func TestALimitIsCreatedUnderLoad(t *testing.T) {
	t.Parallel()
	const most = 15
	r, _ := limited(t)
	var created atomic.Bool
	var before, after, refused atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for refused.Load() < 50 {
				was := created.Load()
				switch got := r.chat(t); {
				case got.status == http.StatusTooManyRequests:
					refused.Add(1)
				case got.status != http.StatusOK:
					t.Errorf("%d %s", got.status, got.body)
				case was:
					after.Add(1)
				default:
					before.Add(1)
				}
			}
		})
	}
	eventually(t, func() bool { return before.Load() > 50 }, "requests without a limit")
	r.setLimits(t, 8, slow("new", limit.ScopeWorkspace, most))
	created.Store(true)
	wg.Wait()
	limited := int64(0)
	for _, row := range r.log.rows(t, 1) {
		if row.GetStatus() == http.StatusOK && len(row.GetChecks()) > 0 {
			limited++
		}
	}
	if limited != most || after.Load() > most {
		t.Errorf("%d requests were served under the limit of %d, %d of them surely asked behind it", limited, most, after.Load())
	}
}

// setLimits publishes a newer policy with those limits.
func (r *rig) setLimits(t *testing.T, version uint64, limits ...*rateguardv1.Limit) {
	t.Helper()
	p, ok := proto.Clone(r.view.Workspace(workspace).Document).(*rateguardv1.WorkspacePolicy)
	if !ok {
		t.Fatal("a clone of another type")
	}
	p.Version, p.Limits = version, limits
	apply(t, r.view, topics.Policies.Name, workspace, &rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: p}})
}
