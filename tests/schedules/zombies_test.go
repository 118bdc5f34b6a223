package schedules_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/fold"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
	"github.com/rateguard/rateguard/topics/provision"
)

// zombie is the name of the processes that hang, where they say one.
const zombie = "zombie"

// Schedule (s): a second process of each role that follows the log, and of the relay of configuration, has part of the work. Each hangs in the middle of a write, the other process of its role takes
// its part over, and then the writes arrive and the processes go on. Nothing of it is in any sum, and what the topics show last is the newest.
func TestZombiesChangeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.proxy()
	z := w.startZombies()
	folded, projected, relayed := w.of(z.tenant(topics.SpendGroup)), w.of(z.tenant(projections...)), w
	all := []*world{folded, projected, relayed}
	for _, x := range all {
		x.setBudget(10)
	}
	relayed.serve(w.system.ProxyURL, 5, call)

	// Each has something under way: a policy that is looser than the next one; a record of the table; rows that are announced, and two transactions.
	z.lead()
	policy := w.broker.Hold(faults.Written{Topic: topics.Policies.Name, Key: relayed.tenant.ID, Body: "workspace_policy"})
	relayed.putBudget(budget, 12*harness.HTTPCostNano)
	policy.Await()
	z.control.Stop()
	table := w.broker.Hold(faults.Written{Topic: topics.SpendTable.Name, Key: folded.tenant.ID})
	folded.serve(w.system.ProxyURL, 2, call)
	table.Await()
	z.processors.Stop()
	z.analytics.Hold("INSERT")
	unblock := z.block()
	projected.serve(w.system.ProxyURL, 2, chat)
	z.analytics.Await()
	z.awaitBlocked()
	z.projections.Stop()
	unblock()

	// The others take over, and go on.
	z.awaitLeader()
	relayed.limit = 5 * harness.HTTPCostNano
	relayed.putBudget(budget, relayed.limit)
	relayed.await(http.StatusPaymentRequired, w.bases()...)
	folded.serve(w.system.ProxyURL, 1, call)
	projected.serve(w.system.ProxyURL, 1, chat)
	for _, x := range all {
		x.check(books{})
	}

	table.Release()
	policy.Release()
	z.analytics.Release()
	z.processors.Continue()
	z.projections.Continue()
	z.control.Continue()
	z.awaitStale(topics.SpendTable, folded.tenant.ID)
	z.awaitStale(topics.Policies, relayed.tenant.ID)
	z.awaitFenced()
	for _, x := range all {
		x.fill()
		x.check(books{full: x != projected}) // a chat leaves less than a call needs
	}
	z.endLease() // who relays next compares the topics at once
	z.awaitNewest(topics.SpendTable, folded.tenant.ID)
	z.awaitNewest(topics.Policies, relayed.tenant.ID)
}

// zombies are the processes that are to hang, and what tells their work from that of the system.
type zombies struct {
	*world
	processors, projections, control *faults.Role
	// store is the PostgreSQL of the system, log a client of its broker.
	store *pgxpool.Pool
	log   *kgo.Client
	// analytics is the zombie's way to ClickHouse.
	analytics *faults.Valve
}

// projections are the consumer groups of the projections.
var projections = []string{"rateguard.projections.requests", "rateguard.projections.ledger", "rateguard.projections.balances"}

// startZombies starts a second process of each role. Those of groups get their partitions at once or later; control stands by.
func (w *world) startZombies() *zombies {
	w.t.Helper()
	store, err := url.Parse(w.system.Config().PostgresURL)
	if err != nil {
		w.t.Fatal(err)
	}
	named := store.Query()
	named.Set("application_name", zombie)
	store.RawQuery = named.Encode()
	analytics, err := url.Parse(w.system.Config().ClickHouseURL)
	if err != nil {
		w.t.Fatal(err)
	}
	valve := faults.NewValve(w.t, analytics.Host)
	analytics.Host = valve.Addr()
	settings := []string{
		"RATEGUARD_CLICKHOUSE_URL=" + analytics.String(),
		"RATEGUARD_POSTGRES_URL=" + store.String(), "RATEGUARD_PROCESSORS_INSTANCE=" + zombie, "RATEGUARD_PROCESSORS_SESSION=2s", "RATEGUARD_PROJECTIONS_INSTANCE=" + zombie,
	}
	z := &zombies{
		world: w, analytics: valve, processors: faults.StartProcessors(w.t, w.system, settings...), projections: faults.StartProjections(w.t, w.system, settings...),
		control: faults.StartControl(w.t, w.system, faults.FreeAddress(w.t), settings...),
	}
	if z.store, err = pgxpool.New(w.t.Context(), w.system.Config().PostgresURL); err != nil {
		w.t.Fatalf("connecting to PostgreSQL: %v", err)
	}
	w.t.Cleanup(z.store.Close)
	if z.log, err = kgo.NewClient(kgo.SeedBrokers(w.system.Config().Kafka.Seeds()...)); err != nil {
		w.t.Fatalf("connecting to the broker: %v", err)
	}
	w.t.Cleanup(z.log.Close)
	return z
}

// tenant returns a workspace whose partition the zombie has in all those groups.
func (z *zombies) tenant(groups ...string) *harness.Tenant {
	z.t.Helper()
	var owned []int32
	harness.Eventually(z.t, time.Minute, func() (err error) {
		owned, err = z.owned(groups...)
		return err
	})
	for {
		if tenant := z.system.Tenant(z.t); slices.Contains(owned, z.partition(tenant)) {
			return tenant
		}
	}
}

// partition is that of a workspace, in all topics.
func (z *zombies) partition(tenant *harness.Tenant) int32 {
	z.t.Helper()
	n, err := provision.Shards(z.t.Context(), kadm.NewClient(z.log))
	if err != nil {
		z.t.Fatalf("asking for partitions: %v", err)
	}
	return hash.Partition([]byte(tenant.ID), n)
}

// owned returns the partitions that the zombie has in all those groups, once they are at rest.
func (z *zombies) owned(groups ...string) (all []int32, err error) {
	described, err := kadm.NewClient(z.log).DescribeGroups(z.t.Context(), groups...)
	if err != nil {
		return nil, err
	}
	for i, name := range groups {
		g := described[name]
		if g.Err != nil || g.State != "Stable" || len(g.Members) != 2 {
			return nil, errors.Join(fmt.Errorf("group %s is %s with %d members", name, g.State, len(g.Members)), g.Err)
		}
		var here []int32
		for _, m := range g.Members {
			assigned, ok := m.Assigned.AsConsumer()
			if !ok || m.InstanceID == nil || *m.InstanceID != zombie {
				continue
			}
			for _, t := range assigned.Topics {
				if t.Topic == topics.Costs.Name || t.Topic == topics.Requests.Name {
					here = append(here, t.Partitions...)
				}
			}
		}
		if i > 0 {
			here = slices.DeleteFunc(here, func(p int32) bool { return !slices.Contains(all, p) })
		}
		all = here
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("the zombie has no partition of all of %v", groups)
	}
	return all, nil
}

// block holds in the store what ledger and balances read within their transactions.
func (z *zombies) block() (unblock func()) {
	z.t.Helper()
	ctx := z.t.Context()
	tx, err := z.store.Begin(ctx)
	if err != nil {
		z.t.Fatalf("blocking the projections: %v", err)
	}
	if _, err := tx.Exec(ctx, "LOCK TABLE ledger, balance_reservations IN ACCESS EXCLUSIVE MODE"); err != nil {
		z.t.Fatalf("blocking the projections: %v", err)
	}
	return func() {
		if err := tx.Rollback(ctx); err != nil {
			z.t.Fatalf("letting the projections go on: %v", err)
		}
	}
}

// awaitBlocked waits until the zombie's two wait for that.
func (z *zombies) awaitBlocked() {
	z.t.Helper()
	for _, statement := range []string{"%JOIN ledger l%", "%JOIN balance_reservations r%"} {
		harness.Eventually(z.t, 30*time.Second, func() error {
			var n int
			err := z.store.QueryRow(z.t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock' AND query LIKE $2", zombie, statement).Scan(&n)
			if err == nil && n == 0 {
				err = fmt.Errorf("nothing of the zombie waits in %s", statement)
			}
			return err
		})
	}
}

// relayLock is the advisory lock of the process that relays.
const relayLock = 0x72_67_72_65_6c_61_79

// leader returns the session of the process that relays, and its name.
func (z *zombies) leader() (pid int, name string, err error) {
	err = z.store.QueryRow(z.t.Context(), `SELECT a.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE l.locktype = 'advisory' AND l.granted AND (l.classid::bigint << 32) | l.objid::bigint = $1`, int64(relayLock)).Scan(&pid, &name)
	return pid, name, err
}

// awaitLeader waits until the system relays.
func (z *zombies) awaitLeader() {
	z.t.Helper()
	harness.Eventually(z.t, time.Minute, func() error {
		_, name, err := z.leader()
		if err == nil && name == zombie {
			err = errors.New("the zombie holds the lock of the relay")
		}
		return err
	})
}

// endLease ends the session of the process that relays: another one begins.
func (z *zombies) endLease() {
	z.t.Helper()
	harness.Eventually(z.t, 20*time.Second, func() error {
		pid, _, err := z.leader()
		if err == nil {
			_, err = z.store.Exec(z.t.Context(), "SELECT pg_terminate_backend($1)", pid)
		}
		return err
	})
}

// lead makes the zombie the process that relays: who stands by asks for the lock as often as who has lost it comes back.
func (z *zombies) lead() {
	z.t.Helper()
	harness.Eventually(z.t, time.Minute, func() error {
		pid, name, err := z.leader()
		if err != nil || name == zombie {
			return err
		}
		_, err = z.store.Exec(z.t.Context(), "SELECT pg_terminate_backend($1)", pid)
		return errors.Join(errors.New("the system relays"), err)
	})
}

// history returns the records of a key, in their order, and for each whether it is newer than all before it.
func (z *zombies) history(topic topics.Topic, key string) (newer []bool, err error) {
	ctx, cancel := context.WithTimeout(z.t.Context(), 30*time.Second)
	defer cancel()
	var newest []byte
	err = z.system.ReadLog(ctx, func(r *kgo.Record) {
		if string(r.Key) != key {
			return
		}
		newer = append(newer, newest == nil || version(r.Value) >= version(newest))
		if newer[len(newer)-1] {
			newest = r.Value
		}
	}, topic.Name)
	return newer, err
}

// version orders the values of a key: that of a policy, or what a table's value has applied of the one topic that counts.
func version(value []byte) (n int64) {
	if e, err := envelope.Decode(value); err == nil && e.GetWorkspacePolicy() != nil {
		return int64(e.GetWorkspacePolicy().GetVersion())
	}
	v, err := fold.DecodeValue(value)
	if err != nil {
		return 0
	}
	for _, a := range v.GetApplied() {
		n = max(n, a.GetOffset())
	}
	return n
}

// awaitStale waits until a topic has a record of the key behind a newer one.
func (z *zombies) awaitStale(topic topics.Topic, key string) {
	z.t.Helper()
	harness.Eventually(z.t, 30*time.Second, func() error {
		newer, err := z.history(topic, key)
		if err == nil && !slices.Contains(newer, false) {
			err = fmt.Errorf("no record of %s in %s is stale", key, topic.Name)
		}
		return err
	})
}

// awaitNewest waits until the last record of the key is the newest one, which is what compaction leaves.
func (z *zombies) awaitNewest(topic topics.Topic, key string) {
	z.t.Helper()
	harness.Eventually(z.t, 30*time.Second, func() error {
		newer, err := z.history(topic, key)
		if err == nil && !newer[len(newer)-1] {
			err = fmt.Errorf("the last record of %s in %s is stale", key, topic.Name)
		}
		return err
	})
}

// awaitFenced waits until the zombie's projections have heard that they are not the owners.
func (z *zombies) awaitFenced() {
	z.t.Helper()
	harness.Eventually(z.t, 30*time.Second, func() error {
		if !strings.Contains(z.projections.Log(), runner.ErrFenced.Error()) {
			return errors.New("no projection of the zombie was fenced")
		}
		return nil
	})
}
