package lua_test

import (
	"context"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// slowly counts the calls to a store and holds each until it is let go.
type slowly struct {
	lua.Evaluator
	calls atomic.Int64
	began chan struct{}
	goOn  chan struct{}
}

func (s *slowly) Eval(ctx context.Context, script *lua.Script, keys []string, args func(lua.Times) []any) (lua.Reply, error) {
	s.calls.Add(1)
	s.began <- struct{}{}
	<-s.goOn
	return s.Evaluator.Eval(ctx, script, keys, args)
}

// Ends that come while a call is under way go together with the next one, and each has its effect once it returns.
func TestEndsGoTogether(t *testing.T) {
	t.Parallel()
	a, _, r := installed(t)
	const n = 600
	for i := range n {
		if d, err := a.Admit(t.Context(), reserve(strconv.Itoa(i), hold("b", n*usd, usd))); err != nil || !d.Admitted {
			t.Fatalf("%+v %v", d, err)
		}
	}
	s := &slowly{Evaluator: openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient}), began: make(chan struct{}, n), goOn: make(chan struct{})}
	grouped := lua.NewAdmissions(s, prometheus.NewRegistry())
	var all sync.WaitGroup
	settle := func(i int) {
		all.Go(func() {
			if err := grouped.Settle(t.Context(), "ws", strconv.Itoa(i), int64(i)); err != nil {
				t.Error(err)
			}
			if v := r.Client().HGet(t.Context(), keyspace.State("ws"), "e"+strconv.Itoa(i)).Val(); v[:2] != "s " {
				t.Errorf("%d has returned and is %q", i, v)
			}
		})
	}
	settle(0)
	<-s.began
	for i := 1; i < n; i++ {
		settle(i)
	}
	close(s.goOn)
	all.Wait()
	balances, _ := state(t, r.Client())
	if got := balances[keyspace.Balance("b", 1, "")+"0"]; got != [3]int64{n * (n - 1) / 2, 0, 0} {
		t.Errorf("Redis shows %v", got)
	}
	if calls := s.calls.Load(); calls > n/2 {
		t.Errorf("%d calls for %d ends", calls, n)
	}
}

// A call that fails fails for all that went with it, and those behind it go on.
func TestEndsGoOnAfterAFailure(t *testing.T) {
	t.Parallel()
	a, _, r := installed(t)
	if d, err := a.Admit(t.Context(), reserve("1", hold("b", usd, 10))); err != nil || !d.Admitted {
		t.Fatalf("%+v %v", d, err)
	}
	r.Kill()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if err := a.Settle(t.Context(), "ws", "1", 1); err == nil {
				t.Error("settled although Redis is gone")
			}
		})
	}
	all.Wait()
}
