package lua_test

import (
	"context"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

// Heartbeats have more time than decisions, and an end where nobody gave them one.
func TestHeartbeatsOutliveADecisionsDeadline(t *testing.T) {
	r := redistest.Start(t)
	s := openStore(t, lua.StoreConfig{URL: r.URL()})
	p := lua.NewProducers(s.Client())
	if fenced, _, err := p.Heartbeat(t.Context(), "p", time.Minute); err != nil || fenced {
		t.Fatalf("fenced %t, %v", fenced, err)
	}
	// Frozen for several decisions, thawed before the second that a read may take.
	r.Stop()
	time.AfterFunc(4*lua.DefaultTimeout, r.Continue)
	if _, err := p.Seen(t.Context(), "p"); err != nil {
		t.Error(err)
	}
	r.Stop()
	defer r.Continue()
	start := time.Now()
	if _, _, err := p.Heartbeat(context.WithoutCancel(t.Context()), "p", time.Minute); err == nil {
		t.Error("a heartbeat at a frozen server")
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("gave up only after %s", took)
	}
}

func TestHeartbeatsWorkInACluster(t *testing.T) {
	nodes := redistest.Cluster(t, 0)
	p := lua.NewProducers(openStore(t, lua.StoreConfig{URL: redistest.ClusterURL(nodes)}).Client())
	for _, id := range []string{"a", "b", "c", "d"} {
		if _, _, err := p.Heartbeat(t.Context(), id, time.Minute); err != nil {
			t.Error(err)
		}
		if err := p.Fence(t.Context(), id, "x"); err != nil {
			t.Error(err)
		}
		if fenced, _, err := p.Heartbeat(t.Context(), id, time.Minute); err != nil || !fenced {
			t.Errorf("fenced %t, %v", fenced, err)
		}
	}
	if ok, err := p.Elect(t.Context(), lua.Reaper, "a", time.Minute); err != nil || !ok {
		t.Errorf("elected %t, %v", ok, err)
	}
}
