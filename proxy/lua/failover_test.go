package lua_test

import (
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// A primary dies under load. What it had admitted and not yet copied is admitted once more by its replica: that is counted. Meanwhile
// there are errors that say the store is away and nothing else, on the other primaries not even those, and at the end all work.
func TestAKilledPrimaryCostsLittleAndHeals(t *testing.T) {
	behind := []time.Duration{0}
	if faultTime(t, 0, time.Second) > 0 { // where figures are made, also with a replica that is half a second behind
		behind = append(behind, 500*time.Millisecond)
	}
	for _, lag := range behind {
		t.Run(lag.String(), func(t *testing.T) { killPrimary(t, lag) })
	}
}

// killPrimary kills a primary whose replica has heard nothing for so long.
func killPrimary(t *testing.T, lag time.Duration) {
	t.Helper()
	nodes := redistest.Cluster(t, 3)
	for i := range 3 {
		nodes[3+i].Do("cluster", "replicate", nodes[i].ID())
		nodes[3+i].InSync()
	}
	for _, n := range nodes { // the default closes all slots when a few are down
		n.Do("config", "set", "cluster-require-full-coverage", "no")
	}
	const rate, window, burst = 2000, 1_000_000, 1000
	open := func() *lua.Admissions {
		s := openStore(t, lua.StoreConfig{URL: redistest.ClusterURL(nodes), Timeout: 500 * time.Millisecond})
		return lua.NewAdmissions(s, prometheus.NewRegistry())
	}
	c := newCrowd(t, prepared(t, &rateguardv1.Limit{Limit: rate, WindowUs: window, Burst: burst}))
	c.total = endless(t, 1_000_000_000)
	c.workspaces, c.pace = []string{"bar", "foo", "c"}, 2*time.Millisecond // on one node each
	a := open()
	c.start(16, a, open())
	redistest.Until(t, "calls", func() bool { return c.calls.Load() > 10_000 })
	if lag > 0 {
		// The link breaks and is refused: a replica that only stops still finds all of it in its socket.
		nodes[3].Do("config", "set", "masterauth", "wrong")
		nodes[3].Do("client", "kill", "type", "master")
		deaf := time.Now()
		redistest.Until(t, "a replica that is behind", func() bool { return time.Since(deaf) >= lag })
	}
	nodes[0].Kill()
	killed := time.Now()
	redistest.Until(t, "the replica's answer", func() bool {
		_, err := a.Admit(t.Context(), c.request(outcome{workspace: "bar", reservation: "probe" + time.Now().String()}))
		return err == nil
	})
	back := time.Since(killed)
	seen := c.calls.Load()
	redistest.Until(t, "calls after it", func() bool { return c.calls.Load() > seen+10_000 })
	all := c.end()

	reasons := map[lua.Reason]int{}
	after, unknown, elsewhere := 0, int64(0), 0
	for _, o := range all {
		if o.err == nil {
			if o.workspace == "bar" && o.admitted && o.sent.After(killed.Add(back)) {
				after++
			}
			continue
		}
		var u *lua.UnavailableError
		if !errors.As(o.err, &u) {
			t.Errorf("an error of another kind: %v", o.err)
			continue
		}
		reasons[u.Reason]++
		if u.MayHaveRun {
			unknown++
		}
		if o.workspace != "bar" {
			elsewhere++
		}
	}
	got := admissionsOf(all, "bar")
	excess, kept := bound{burst, rate, window}.excess(got), c.used(a, "bar")
	t.Logf("FIGURE killed primary, replica %s behind: of %d admissions its replica knows %d (of %d more nobody got the answer): at most %d can be had twice; excess of the limit of %d/s %d; "+
		"back after %s; %d calls, errors by reason %v, on other primaries %d; %d admitted afterwards",
		lag, total(got), kept, unknown, max(0, total(got)+unknown-kept), rate, excess, back.Round(time.Millisecond), len(all), reasons, elsewhere, after)
	// Redis copies within milliseconds: what was admitted in them is all that can be lost.
	if excess > burst || total(got)-kept > burst+rate*(lag+50*time.Millisecond).Milliseconds()/1000 || after == 0 || len(reasons) == 0 || elsewhere > 0 {
		t.Errorf("excess %d, %d lost, %d admitted afterwards, errors %v, %d elsewhere", excess, total(got)-kept, after, reasons, elsewhere)
	}
	for _, ws := range c.workspaces[1:] {
		list := admissionsOf(all, ws)
		if excess := (bound{burst, rate, window}).excess(list); excess > 0 || c.used(a, ws) != total(list) {
			t.Errorf("workspace %s: excess %d, %d used of %d admitted", ws, excess, c.used(a, ws), total(list))
		}
	}
}
