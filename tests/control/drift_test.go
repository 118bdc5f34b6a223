package control_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// metric returns the value of a metric with the given labels; -1 where it has none.
func metric(t *testing.T, reg *prometheus.Registry, name string, labels ...string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			have := map[string]string{}
			for _, l := range m.GetLabel() {
				have[l.GetName()] = l.GetValue()
			}
			fits := f.GetName() == name
			for i := 0; i < len(labels); i += 2 {
				fits = fits && have[labels[i]] == labels[i+1]
			}
			if fits {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return -1
}

// spendRow writes the row that processors make of events up to an offset.
func (l costsLog) spendRow(ws string, offset int64, events ...*rateguardv1.Event) {
	l.t.Helper()
	found, err := kadm.NewClient(l.client).ListTopics(l.t.Context(), topics.Costs.Name)
	if err != nil {
		l.t.Fatal(err)
	}
	state := new(rateguardv1.SpendState)
	for _, e := range events {
		spend.Fold(state, e)
	}
	v := &rateguardv1.TableValue{Generation: 1}
	if v.State, err = spend.Encode(state); err != nil {
		l.t.Fatal(err)
	}
	id16 := found[topics.Costs.Name].ID
	fold.SetApplied(v, id16[:], offset)
	value, err := fold.EncodeValue(v)
	if err != nil {
		l.t.Fatal(err)
	}
	if err := l.client.ProduceSync(l.t.Context(), &kgo.Record{Topic: topics.SpendTable.Name, Key: []byte(id(ws)), Value: value}).FirstErr(); err != nil {
		l.t.Fatal(err)
	}
}

// applied says that the projection has followed the costs topic up to an offset of the workspace's partition.
func (l balanceRows) applied(log costsLog, ws string, offset int64) {
	l.t.Helper()
	found, err := kadm.NewClient(log.client).ListTopics(l.t.Context(), topics.Costs.Name)
	if err != nil {
		l.t.Fatal(err)
	}
	if _, err := l.conn.Exec(l.t.Context(), `INSERT INTO projection_generations (projection, generation, reason) VALUES ('balances', 'g', 'test') ON CONFLICT DO NOTHING`); err != nil {
		l.t.Fatal(err)
	}
	const checkpoint = `INSERT INTO projection_checkpoints (projection, generation, topic, topic_id, partition, next_offset) VALUES ('balances', 'g', $1, $2, $3, $4)
ON CONFLICT (projection, generation, topic, topic_id, partition) DO UPDATE SET next_offset = excluded.next_offset`
	partition := hash.Partition([]byte(id(ws)), partitions)
	if _, err := l.conn.Exec(l.t.Context(), checkpoint, topics.Costs.Name, uuid.UUID(found[topics.Costs.Name].ID), partition, offset+1); err != nil {
		l.t.Fatal(err)
	}
}

const (
	driftOf      = "rateguard_control_budget_drift_nano_usd"
	driftingIn   = "rateguard_control_budget_drift_workspaces"
	comparisonOf = "rateguard_control_budget_comparisons_total"
)

func TestStoresThatDriftAreSeen(t *testing.T) {
	cluster := wholeCluster(t)
	database := newDatabase(t)
	cfg := settings(t, database, brokers(cluster))
	url, redis := newRedis(t)
	cfg.RedisURL = url
	reg := prometheus.NewRegistry()
	s, _ := measured(t, cfg, reg)
	ws := s.workspace("a")
	generation := s.root().do("PUT", ws+"/budgets/month", anyBudget).want(t, 201).number("generation")

	holds := hold("month", generation, 500, 0, 500, 10e9)
	events := []*rateguardv1.Event{opened("p", 1, "r1/1", 1, 1, holds), settled("p", 2, "r1/1", 300, holds), opened("p", 3, "r2/1", 1, 2, holds)}
	for _, e := range events {
		e.WorkspaceId, e.OccurredAtUnixUs = id(ws), time.Now().UnixMicro()
	}
	field := keyspace.BudgetPeriod{Budget: "month", Generation: uint64(generation), StartUS: thisMonth.UnixMicro()}.Field()
	state := func(fields ...any) {
		t.Helper()
		if err := redis.HSet(t.Context(), keyspace.State(id(ws)), fields...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	// Redis: r1 confirmed, r2 open, r3 settled and not yet confirmed, and a lease.
	state("epoch", 3, "at", 2, "op", 3, "n", 2, "life", 1, "pv", 1, "day", 1, "fgone", 1, field, "420 540 300", "er2/1", "o 0 p "+field+" 500", "er3/1", "s 120 p "+field+" 500",
		"el/lease", "l 0 p "+field+" 40", "q"+field, 40)
	log, l := newCostsLog(t, cluster), newBalanceRows(t, database)
	log.spendRow(ws, 2, events...)
	l.put(ws, "month", generation, "", thisMonth, "300", "500")
	l.applied(log, ws, 2)

	stores := []string{"redis", "postgres", "redis_entries"}
	// looked waits until each store was compared with the result n times more.
	looked := func(result string, n float64, stores ...string) {
		t.Helper()
		for _, store := range stores {
			before := max(0, metric(t, reg, comparisonOf, "store", store, "result", result))
			await(t, fmt.Sprintf("%s to be %s", store, result), func() bool { return metric(t, reg, comparisonOf, "store", store, "result", result) >= before+n })
		}
	}
	all := func(name string) string {
		text := ""
		for _, store := range stores {
			text += fmt.Sprint(metric(t, reg, name, "store", store), " ")
		}
		return text
	}
	awaitAll := func(name, want string) {
		t.Helper()
		await(t, name+" to be "+want, func() bool { return all(name) == want })
	}
	looked("equal", 2, stores...)
	awaitAll(driftOf, "0 0 0 ")

	state(field, "421 540 301") // confirmed more than the log has
	awaitAll(driftOf, "1 0 0 ")
	awaitAll(driftingIn, "1 0 0 ")
	state(field, "420 530 300") // less reserved than is held
	awaitAll(driftOf, "0 0 10 ")
	awaitAll(driftingIn, "0 0 1 ")
	state(field, "419 540 300") // less posted than is settled
	awaitAll(driftOf, "0 0 1 ")
	state(field, "420 540 300", "q"+field, 33) // less lent than leases hold
	awaitAll(driftOf, "0 0 7 ")
	state(field, "420 540 300", "q"+field, 40)
	if _, err := l.conn.Exec(t.Context(), "UPDATE balances SET posted_nano = 250 WHERE workspace = $1", id(ws)); err != nil {
		t.Fatal(err)
	}
	awaitAll(driftOf, "0 50 0 ")
	awaitAll(driftingIn, "0 1 0 ")

	// A store that is behind, or ahead of the table, is not compared: what it last showed stays.
	l.applied(log, ws, 1)
	state("at", 7, field, "999 540 879")
	looked("incomparable", 2, "redis", "postgres")
	awaitAll(driftOf, "0 50 0 ")

	// The table goes on over the workspace's records: everybody is at one place again.
	log.spendRow(ws, 2, events...)
	l.applied(log, ws, 2)
	state("at", 2, field, "420 540 300")
	if _, err := l.conn.Exec(t.Context(), "UPDATE balances SET posted_nano = 300 WHERE workspace = $1", id(ws)); err != nil {
		t.Fatal(err)
	}
	awaitAll(driftingIn, "0 0 0 ")

	// A balance that Redis lost counts as 0 there; one that is in no other store differs too.
	if err := redis.HDel(t.Context(), keyspace.State(id(ws)), field, "er2/1", "er3/1", "el/lease", "q"+field).Err(); err != nil {
		t.Fatal(err)
	}
	awaitAll(driftOf, "300 0 0 ")
	if err := redis.Del(t.Context(), keyspace.State(id(ws))).Err(); err != nil {
		t.Fatal(err)
	}
	looked("incomparable", 1, "redis")
	s.root().do("DELETE", ws+"/budgets/month", nil).want(t, 204)
	awaitAll(driftOf, "0 0 0 ")
}

// alerts waits until n alerts are in the log, and returns all that are, in their order. An event that the relay sent twice is one.
func (l *log) alerts(n int) (all []*rateguardv1.Alert) {
	l.t.Helper()
	l.until(fmt.Sprint(n, " alerts"), func(records []record) bool {
		all = nil
		events := map[string]bool{}
		for _, r := range records {
			if a := r.event.GetAlert(); a != nil && !events[r.event.GetId()] {
				events[r.event.GetId()] = true
				all = append(all, a)
			}
		}
		return len(all) >= n
	})
	return all
}

func summary(a *rateguardv1.Alert) string {
	return fmt.Sprintf("%s %s %s %s %s: %s", a.GetKind(), a.GetState(), a.GetSeverity(), a.GetLabels()["store"], a.GetLabels()["difference_usd"], a.GetTitle())
}

// A balance in Redis is tampered with: there is one alert of it, however often and by whomever it is looked at, until it is what the log says; then one more says
// so. Each budget and period has its own.
func TestABudgetThatDriftsRaisesOneAlert(t *testing.T) {
	cluster := wholeCluster(t)
	database := newDatabase(t)
	cfg := settings(t, database, brokers(cluster))
	url, redis := newRedis(t)
	cfg.RedisURL = url
	reg := prometheus.NewRegistry()
	s, stop := measured(t, cfg, reg)
	ws := s.workspace("a")
	month := s.root().do("PUT", ws+"/budgets/month", anyBudget).want(t, 201).number("generation")
	other := s.root().do("PUT", ws+"/budgets/other", anyBudget).want(t, 201).number("generation")
	holds := append(hold("month", month, 500, 0, 500, 10e9), hold("other", other, 500, 0, 500, 10e9)...)
	events := []*rateguardv1.Event{opened("p", 1, "r1/1", 1, 1, holds), settled("p", 2, "r1/1", 300, holds)}
	for _, e := range events {
		e.WorkspaceId, e.OccurredAtUnixUs = id(ws), time.Now().UnixMicro()
	}
	field := func(budget string, generation int) string {
		return keyspace.BudgetPeriod{Budget: budget, Generation: uint64(generation), StartUS: thisMonth.UnixMicro()}.Field()
	}
	state := func(fields ...any) {
		t.Helper()
		if err := redis.HSet(t.Context(), keyspace.State(id(ws)), fields...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	state("epoch", 3, "at", 1, "op", 1, "n", 0, "life", 1, "pv", 1, "day", 1, field("month", month), "300 0 300", field("other", other), "300 0 300")
	newCostsLog(t, cluster).spendRow(ws, 1, events...)
	alerts := follow(t, brokers(cluster), topics.Alerts.Name)
	looked := func(reg *prometheus.Registry, result string) {
		t.Helper()
		before := max(0, metric(t, reg, comparisonOf, "store", "redis", "result", result))
		await(t, "comparisons that are "+result, func() bool {
			return metric(t, reg, comparisonOf, "store", "redis", "result", result) >= before+3
		})
	}
	looked(reg, "equal")

	during := " in the period from " + thisMonth.UTC().Format(time.RFC3339)
	told := func(want ...string) []*rateguardv1.Alert {
		t.Helper()
		all := alerts.alerts(len(want))
		got := make([]string, len(all))
		for i, a := range all {
			got[i] = summary(a)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %q, want %q", got, want)
		}
		return all
	}
	first := "budget_drift raised critical redis 0.00000005: Budget month" + during + " differs by 0.00000005 USD between the log and Redis"
	second := "budget_drift raised critical redis 0.000000001: Budget other" + during + " differs by 0.000000001 USD between the log and Redis"
	resolved := "budget_drift resolved critical redis : Budget month" + during + " is the same in all stores again"

	state(field("month", month), "250 0 250") // 50 nano-USD that could be spent once more
	told(first)
	looked(reg, "differs")
	state(field("month", month), "240 0 240") // still the same alert
	looked(reg, "differs")
	stop()
	// Another process takes over: it finds the budget at another place of the log first, and then as it is.
	state("at", 7)
	reg, cfg = prometheus.NewRegistry(), settings(t, database, brokers(cluster))
	cfg.RedisURL = url
	s, _ = measured(t, cfg, reg)
	looked(reg, "incomparable")
	state("at", 1, field("other", other), "301 0 301")
	told(first, second)
	state(field("month", month), "300 0 300")
	all := told(first, second, resolved)
	if all[0].GetAlertId() != all[2].GetAlertId() || all[0].GetAlertId() == all[1].GetAlertId() {
		t.Errorf("the ids of the alerts: %v", all)
	}
	// It drifts again, which is another alert. Then nobody has these budgets any more.
	state(field("month", month), "250 0 250")
	if again := told(first, second, resolved, first); again[3].GetAlertId() == all[0].GetAlertId() {
		t.Error("the second drift has the alert of the first")
	}
	for _, budget := range []string{"month", "other"} {
		s.root().do("DELETE", ws+"/budgets/"+budget, nil).want(t, 204)
	}
	ends := map[string]string{}
	for _, a := range alerts.alerts(6)[4:] {
		ends[a.GetAlertId()] = a.GetState() + a.GetLabels()["budget"]
	}
	if len(ends) != 2 || ends[all[1].GetAlertId()] != "resolvedother" {
		t.Errorf("the last alerts are %v", ends)
	}
}
