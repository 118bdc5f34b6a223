package keeper_test

import (
	"errors"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
)

// clusterOf is a world on a cluster of three primaries with a replica each; the workspace "bar" lies on the first.
func clusterOf(t *testing.T) (*world, []*redistest.Server) {
	t.Helper()
	nodes := redistest.Cluster(t, 3)
	for i := range 3 {
		nodes[3+i].Do("cluster", "replicate", nodes[i].ID())
		nodes[3+i].InSync()
	}
	for _, n := range nodes { // the default closes all slots when a few are down
		n.Do("config", "set", "cluster-require-full-coverage", "no")
	}
	clients := make([]*redis.Client, len(nodes))
	for i, n := range nodes {
		clients[i] = n.Client()
	}
	return newWorldOn(t, redistest.ClusterURL(nodes), clients, "bar"), nodes
}

// reserveWhen waits until the budget can be used, and reserves.
func (p *process) reserveWhen(ws string, amount int64) *reservation {
	p.w.tb.Helper()
	var r *reservation
	redistest.Until(p.w.tb, "a budget that can be used", func() bool {
		var err error
		if r, err = p.admit(ws, amount); errors.Is(err, errDenied) {
			p.w.tb.Fatalf("%d does not fit: %+v", amount, p.w.state(ws))
		}
		return err == nil && r.open() == nil
	})
	return r
}

// Schedules (a) and (8): a primary dies, and a replica takes over that lacks the last grants. Nothing is granted on the state that was rolled back; from the
// log it comes back whole. Then the primary returns, is promoted, and lags in turn.
func TestAReplicaTakesOverThatLacksGrants(t *testing.T) {
	t.Parallel()
	w, nodes := clusterOf(t)
	p := w.start(options{})
	q := w.start(options{})
	open := p.reserve("bar", 300)
	redistest.Until(t, "the replica to have the first grant", func() bool { return w.state("bar").reserved == 300 })
	nodes[0].Do("wait", 1, 5000)
	// The link breaks and is refused: a replica that only stops still finds all of it in its socket.
	nodes[3].Do("config", "set", "masterauth", "wrong")
	nodes[3].Do("client", "kill", "type", "master")
	redistest.Until(t, "a replica that is alone", func() bool { return nodes[0].Do("wait", 1, 10) == int64(0) })
	lacking := q.reserve("bar", 500)
	nodes[0].Kill()
	r := p.reserveWhen("bar", 100)
	redistest.Until(t, "a denial above the limit", func() bool {
		r, err := q.admit("bar", 101)
		if err == nil {
			t.Fatalf("above the limit: %+v", r.grant)
		}
		return errors.Is(err, errDenied)
	})
	for _, r := range []*reservation{open, lacking, r} {
		r.end(10)
	}
	w.await("bar", state{entries: "0", posted: 30, confirmed: 30})
	// A→B→A: the old primary comes back, follows, and takes over again while it lags behind.
	nodes[3].Do("config", "set", "masterauth", "")
	nodes[0].Restart()
	nodes[0].InSync()
	last := p.reserve("bar", 400)
	nodes[3].Do("wait", 1, 5000)
	nodes[0].Do("config", "set", "masterauth", "wrong")
	nodes[0].Do("client", "kill", "type", "master")
	lost := q.reserve("bar", 500)
	nodes[0].Do("cluster", "failover", "takeover")
	redistest.Until(t, "everybody to hear of the new primary", func() bool {
		_, err := p.admit("bar", 71)
		return errors.Is(err, errDenied) && w.state("bar").reserved == 900
	})
	p.reserveWhen("bar", 70)
	last.end(0)
	lost.end(0)
	w.await("bar", state{entries: "1", posted: 30, reserved: 70, confirmed: 30})
}

// Schedules (9) and (10): the old primary is isolated with one process. What that grants there is not opened once it has sealed, and nothing that was opened before is
// forgotten.
func TestTheOldPrimaryIsIsolated(t *testing.T) {
	t.Parallel()
	a, b := redistest.Start(t), redistest.Start(t)
	b.Replicate(a)
	b.InSync()
	w := newWorldOn(t, a.URL(), []*redis.Client{a.Client()}, "ws_1")
	p := w.start(options{})
	left := w.start(options{noKeeper: true})
	before := left.reserve("ws_1", 200)
	b.InSync()
	// From here on p and everybody after it work with b.
	b.Do("replicaof", "no", "one")
	p.kill()
	w.url, w.rdb = b.URL(), []*redis.Client{b.Client()}
	late, err := left.admit("ws_1", 800)
	must(t, err)
	opened, err := left.admit("ws_1", 0)
	must(t, err)
	must(t, opened.open())
	next := w.start(options{dir: p.dir})
	r := next.reserveWhen("ws_1", 300)
	if err := late.open(); !errors.Is(err, epoch.ErrOld) {
		t.Errorf("a grant of the isolated primary was opened after the seal: %v", err)
	}
	if _, err := next.admit("ws_1", 501); !errors.Is(err, errDenied) {
		t.Errorf("above the limit: %v", err)
	}
	if _, err := left.admit("ws_1", 1); err == nil {
		t.Error("the isolated primary still grants")
	}
	// Schedule (15): a settle that only the old primary hears of reaches the new one by the log.
	before.end(50)
	before.settle(50)
	opened.end(0)
	r.end(300)
	w.await("ws_1", state{entries: "0", posted: 350, confirmed: 350})
}
