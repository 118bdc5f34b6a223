package ratelimit_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/ratelimit"
)

// store is one whose budgets of some workspaces cannot be used yet.
type store struct {
	ratelimit.Store
	mu     sync.Mutex
	closed map[string]bool
	done   []string
	tried  int
}

func (s *store) Adjust(_ context.Context, _ lua.Adjustment, r *lua.Request, _ int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tried++; s.closed[r.Workspace] {
		return lua.ErrNoEpoch
	}
	s.done = append(s.done, r.Reservation)
	return nil
}

// What cannot be cancelled yet, because the budgets of its workspace are being read from the log, holds up nothing else, is asked about once for a
// workspace, and is done once they are there.
func TestACancellationThatWaitsHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{closed: map[string]bool{"closed": true}}
		asked := map[string]bool{}
		a := ratelimit.NewAmends(s, func(ws string) { asked[ws] = true }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		for _, r := range []string{"closed", "closed", "other", "closed"} {
			a.Add(lua.Cancel, &lua.Request{Workspace: r, Reservation: r, Holds: []lua.Hold{{Amount: 1}}}, 0)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.Run(ctx) }()
		synctest.Wait()
		s.mu.Lock()
		if len(s.done) != 1 || s.done[0] != "other" || s.tried > 3 { // the first round may be followed by one of the timer
			t.Errorf("%v is done after %d tries, want the other after 3 at most", s.done, s.tried)
		}
		delete(s.closed, "closed")
		s.mu.Unlock()
		if n := a.Waiting(); n != 3 {
			t.Errorf("%d wait, want 3", n)
		}
		<-time.After(time.Second)
		if n := a.Waiting(); n != 0 {
			t.Errorf("%d wait, want 0", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if !asked["closed"] || len(asked) != 1 {
			t.Errorf("asked for the budgets of %v", asked)
		}
	})
}
