package lua_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

// migrating is a key whose slot is on the first node of a cluster, and that slot.
const migrating, slot = "rg:{bar}:n", 5061

// While a slot moves to a node that owned none, and to and fro between two that do, no call fails and each counts once.
func TestCallsFollowAMigratingSlot(t *testing.T) {
	nodes := redistest.Cluster(t, 1)
	s := openStore(t, lua.StoreConfig{URL: redistest.ClusterURL(nodes), Timeout: patient})
	if got := nodes[0].Do("cluster", "keyslot", migrating); got != int64(slot) {
		t.Fatalf("slot %v", got)
	}
	if r := mustConsume(t, s, migrating); r.Shard != nodes[0].Addr {
		t.Fatalf("the slot is on %s, not on the first node", r.Shard)
	}
	ctx, stop := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	counts := make([]int, 8)
	for i := range counts {
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := consume(t.Context(), s, migrating); err != nil {
					t.Error(err)
					return
				}
				counts[i]++
			}
		})
	}
	at := nodes[0]
	for _, to := range []*redistest.Server{nodes[3], nodes[1], nodes[0], nodes[3]} {
		to.Do("cluster", "setslot", slot, "importing", at.ID())
		at.Do("cluster", "setslot", slot, "migrating", to.ID())
		at.MigrateTo(to, migrating)
		to.Do("cluster", "setslot", slot, "node", to.ID())
		at.Do("cluster", "setslot", slot, "node", to.ID())
		at = to
	}
	stop()
	callers.Wait()
	total := int64(2)
	for _, n := range counts {
		total += int64(n)
	}
	if r := mustConsume(t, s, migrating); r.Values[2] != total || r.Shard != at.Addr {
		t.Errorf("%v runs of %d calls, on %s", r.Values[2], total, r.Shard)
	}
	if total < 100 {
		t.Errorf("only %d calls", total)
	}
}

func TestKeysInTwoSlotsAreABug(t *testing.T) {
	nodes := redistest.Cluster(t, 0)
	s := openStore(t, lua.StoreConfig{URL: redistest.ClusterURL(nodes), Timeout: patient})
	for range 10 {
		_, err := s.Eval(t.Context(), count, []string{"a", "b"}, deadline)
		if err == nil || errors.Is(err, lua.ErrUnavailable) || lua.MayHaveRun(err) {
			t.Fatalf("got %v, want a plain error", err)
		}
	}
	mustConsume(t, s, "a")
}

// One primary's death closes its slots and no others, until its replica has them.
func TestAClustersReplicaTakesOver(t *testing.T) {
	nodes := redistest.Cluster(t, 1)
	replica := nodes[3]
	replica.Do("cluster", "replicate", nodes[0].ID())
	replica.InSync()
	seen := &changes{}
	s := openStore(t, lua.StoreConfig{URL: redistest.ClusterURL(nodes), Timeout: 500 * time.Millisecond, OnChange: seen.note})
	mustConsume(t, s, migrating)
	others := []string{"{foo}", "{c}"} // on the two other nodes
	for _, k := range others {
		if r := mustConsume(t, s, k); r.Shard == nodes[0].Addr {
			t.Fatalf("%s is on the first node", k)
		}
	}
	nodes[0].Kill()
	open := false
	redistest.Until(t, "the replica serves", func() bool {
		r, err := consume(t.Context(), s, migrating)
		if err != nil {
			open = open || reason(t, err) == lua.ReasonOpen
			return false
		}
		return r.Shard == replica.Addr
	})
	for _, k := range others {
		works(t, s, k)
	}
	redistest.Until(t, "the dead node is forgotten", func() bool {
		all := seen.all()
		return len(all)%2 == 0
	})
	if !open {
		t.Error("no breaker opened")
	}
}

func TestASentinelsReplicaTakesOver(t *testing.T) {
	primary, replica := redistest.Start(t), redistest.Start(t)
	replica.Replicate(primary)
	sentinel := redistest.Sentinel(t, "main", primary)
	s := openStore(t, lua.StoreConfig{URL: fmt.Sprintf("redis+sentinel://%s?master_name=main", sentinel.Addr), Timeout: 500 * time.Millisecond})
	works(t, s, "k")
	primary.Kill()
	redistest.Until(t, "an open breaker", func() bool {
		_, err := consume(t.Context(), s, "k")
		return err != nil && reason(t, err) == lua.ReasonOpen
	})
	works(t, s, "k")
	if got := replica.Do("get", "k"); got == "0" {
		t.Errorf("the replica counted %v", got)
	}
}

func TestAClusterThatIsAwayIsNotAskedOn(t *testing.T) {
	s := openStore(t, lua.StoreConfig{URL: "redis+cluster://127.0.0.1:1?addr=127.0.0.1:2"})
	redistest.Until(t, "an open breaker", func() bool {
		_, err := consume(t.Context(), s, "k")
		if lua.MayHaveRun(err) {
			t.Errorf("%v may have run", err)
		}
		return reason(t, err) == lua.ReasonOpen
	})
}
