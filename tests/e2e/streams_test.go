package e2e_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
)

// An upstream that answers at once is the hardest case for a proxy that streams: the answer's end meets its beginning.
func TestStreamsOfAnInstantUpstreamAreWhole(t *testing.T) {
	t.Parallel()
	const streams, atOnce = 500, 16
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	answers := make([]answer, streams)
	keys := map[string]bool{}
	next := make(chan int)
	var wg sync.WaitGroup
	for range atOnce {
		wg.Go(func() {
			for i := range next {
				d := dialects()[i%len(dialects())]
				answers[i] = send(t, s, d.generate(d.name, true, 64).by(tenant.Key).with("Idempotency-Key", fmt.Sprint(tenant.ID, i)))
			}
		})
	}
	for i := range streams {
		keys[fmt.Sprint(tenant.ID, i)] = true
		next <- i
	}
	close(next)
	wg.Wait()
	b := closeBooks(t, s, tenant)
	records := served(t, s, keys)
	if len(b.forwarded) != streams || len(records) != streams {
		t.Errorf("%d requests are in the books, %d reached the provider, want %d", len(b.forwarded), len(records), streams)
	}
	for i, got := range answers {
		d := dialects()[i%len(dialects())]
		if got.status != 200 || got.cut != nil || !strings.Contains(got.body, d.mark) {
			t.Errorf("stream %d (%s): got %d, ends with %v: %q", i, d.name, got.status, got.cut, got.body[max(0, len(got.body)-80):])
		}
		outcome{status: 200, charge: exact}.checkAccount(t, b.forwarded[got.id()], records[fmt.Sprint(tenant.ID, i)])
	}
}
