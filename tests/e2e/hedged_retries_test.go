package e2e_test

import (
	"net/http"
	"sync"
	"testing"

	"github.com/openai/openai-go/v3/option"

	"github.com/rateguard/rateguard/tests/harness"
)

// A client that hedges sends one idempotency key several times at once. The key is the client's word: each of its
// requests that reaches the provider costs money, so each is a reservation and a row of its own.
func TestHedgedRetriesWithOneIdempotencyKeyAreCountedEach(t *testing.T) {
	t.Parallel()
	const hedges = 8
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	client := openAI(s, tenant.Key)
	ids := make([]string, hedges)
	errs := make([]error, hedges)
	var wg sync.WaitGroup
	for i := range hedges {
		wg.Go(func() {
			var raw *http.Response
			_, errs[i] = client.Chat.Completions.New(t.Context(), chat("gpt-4o-mini"),
				option.WithHeader("Idempotency-Key", "hedged-"+tenant.ID), option.WithResponseInto(&raw))
			if raw != nil {
				ids[i] = raw.Header.Get("X-Request-Id")
			}
		})
	}
	wg.Wait()
	for i, id := range ids {
		if errs[i] != nil {
			t.Fatalf("request %d: %v", i, errs[i])
		}
		if tenant.Request(id).Status != http.StatusOK {
			t.Errorf("request %s is not recorded as served", id)
		}
	}
	served := 0
	for _, r := range s.Mock.Served() {
		if r.IdempotencyKey == "hedged-"+tenant.ID {
			served++
		}
	}
	if rows := tenant.Requests(); served != hedges || len(rows) != hedges {
		t.Errorf("got %d requests at the provider and %d rows, want %d of each", served, len(rows), hedges)
	}
}
