package control_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// costsLog writes the costs topic as proxies do.
type costsLog struct {
	t      *testing.T
	client *kgo.Client
}

func newCostsLog(t *testing.T, cluster *kfake.Cluster) costsLog {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers(cluster)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return costsLog{t, client}
}

// write appends an event of a workspace now.
func (l costsLog) write(ws string, e *rateguardv1.Event) int64 {
	l.t.Helper()
	e.Id, e.WorkspaceId, e.OccurredAtUnixUs = "e", id(ws), time.Now().UnixMicro()
	value, err := envelope.Encode(e)
	if err != nil {
		l.t.Fatal(err)
	}
	r, err := l.client.ProduceSync(l.t.Context(), &kgo.Record{Topic: topics.Costs.Name, Key: []byte(id(ws)), Value: value}).First()
	if err != nil {
		l.t.Fatal(err)
	}
	return r.Offset
}

// wholeCluster has the topics that control reads too.
func wholeCluster(t *testing.T) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions,
		topics.Policies.Name, topics.PolicyHistory.Name, topics.Keys.Name, topics.Audit.Name, topics.Ticks.Name, topics.Costs.Name, topics.SpendTable.Name, topics.Alerts.Name),
		kfake.SeedTopics(1, topics.Producers.Name))
	if err != nil {
		t.Fatalf("starting a broker: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// hold is what a reservation takes from a budget of this month.
func hold(budget string, generation int, amount, posted, reserved, limit int64) []*rateguardv1.Hold {
	return []*rateguardv1.Hold{{
		BudgetId: budget, BudgetGeneration: uint64(generation), PeriodStartUnixUs: thisMonth.UnixMicro(),
		AmountNanoUsd: amount, PostedNanoUsd: posted, ReservedNanoUsd: reserved, LimitNanoUsd: limit,
	}}
}

func opened(producer string, seq uint64, reservation string, version, op uint64, holds []*rateguardv1.Hold) *rateguardv1.Event {
	bound := holds[0].GetAmountNanoUsd()
	return &rateguardv1.Event{ProducerId: producer, Sequence: seq, Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
		ReservationId: reservation, BoundNanoUsd: &bound, Holds: holds, Epoch: 1, Op: op,
		Subject: &rateguardv1.Subject{PolicyVersion: version, OpenedAtUnixUs: time.Now().UnixMicro()},
	}}}
}

func settled(producer string, seq uint64, reservation string, cost int64, holds []*rateguardv1.Hold) *rateguardv1.Event {
	bound := holds[0].GetAmountNanoUsd()
	return &rateguardv1.Event{ProducerId: producer, Sequence: seq, Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: &rateguardv1.Outcome{
		ReservationId: reservation, Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, CostNanoUsd: &cost, BoundNanoUsd: &bound, Holds: holds,
		Subject: &rateguardv1.Subject{OpenedAtUnixUs: time.Now().UnixMicro()},
	}}}}
}

func TestABudgetIsProvedFromTheLog(t *testing.T) {
	cluster := wholeCluster(t)
	s, _ := running(t, settings(t, newDatabase(t), brokers(cluster)))
	ws, other := s.workspace("a"), s.workspace("b")
	b := s.root().do("PUT", ws+"/budgets/month", anyBudget).want(t, 201)
	history := follow(t, brokers(cluster), topics.PolicyHistory.Name)
	history.until("the policy with the budget", func(all []record) bool {
		return slices.ContainsFunc(all, func(r record) bool { return r.key == id(ws) && len(r.event.GetWorkspacePolicy().GetBudgets()) == 1 })
	})
	l := newCostsLog(t, cluster)
	holds := hold("month", b.number("generation"), 2e9, 0, 2e9, 10e9)
	l.write(ws, opened("p", 1, "r1/1", uint64(b.number("version")), 1, holds))
	l.write(ws, settled("p", 2, "r1/1", 1_500_000_000, holds))
	l.write(ws, opened("p", 3, "r2/1", uint64(b.number("version")), 2, holds))

	p := s.root().do("GET", ws+"/budgets/month/proof", nil).want(t, 200)
	sums, _ := p.body["sums"].(map[string]any)
	if sums["posted_usd"] != "1.5" || sums["reserved_usd"] != "2" || sums["available_usd"] != "6.5" || p.body["fold_agrees"] != true {
		t.Errorf("proved %s", p.raw)
	}
	p = s.root().do("GET", ws+"/budgets/month/proof?limit=1", nil).want(t, 200)
	if data, _ := p.body["data"].([]any); len(data) != 1 || p.number("omitted") != 1 {
		t.Errorf("the largest: %s", p.raw)
	}
	if p = s.root().do("GET", ws+"/budgets/month/proof?limit=all", nil).want(t, 200); p.number("omitted") != 0 {
		t.Errorf("all: %s", p.raw)
	}
	_, reader := s.key(ws, map[string]any{"scopes": []string{"read:budgets"}})
	_, stranger := s.key(other, map[string]any{"scopes": []string{"read:budgets"}})
	_, writer := s.key(ws, map[string]any{"scopes": []string{"write:keys"}})
	s.with(reader).do("GET", ws+"/budgets/month/proof", nil).want(t, 200)
	s.with(stranger).do("GET", ws+"/budgets/month/proof", nil).want(t, 404)
	s.with(writer).do("GET", ws+"/budgets/month/proof", nil).want(t, 403)
	for query, status := range map[string]int{
		"at=yesterday": 400, "at=2126-01-01T00:00:00Z": 400, "limit=0": 400, "limit=many": 400, "balance=x": 400, "until=now": 400, "at=2020-01-01T00:00:00Z": 404,
	} {
		s.root().do("GET", ws+"/budgets/month/proof?"+query, nil).want(t, status)
	}
	audit := s.root().do("GET", "/v1/budgets/audit", nil).want(t, 200)
	if data, _ := audit.body["data"].([]any); len(data) != 1 || audit.body["complete"] != true || audit.body["ok"] != false || !strings.Contains(audit.raw, `"rule":"view"`) {
		t.Errorf("the second grant saw nothing of the first: %s", audit.raw)
	}
	if data, _ := s.root().do("GET", "/v1/budgets/audit?workspace="+id(other), nil).want(t, 200).body["data"].([]any); len(data) != 0 {
		t.Errorf("the other workspace: %v", data)
	}
	s.with(reader).do("GET", "/v1/budgets/audit", nil).want(t, 403)
	s.root().do("GET", "/v1/budgets/audit?workspace=", nil).want(t, 400)
	if a := s.root().do("GET", ws+"/budgets/other/proof", nil).want(t, 404); !strings.Contains(a.text("detail"), "by the log") {
		t.Errorf("an unknown budget: %s", a.raw)
	}
}

func TestAProofWithoutTheLogIsUnavailable(t *testing.T) {
	s := idle(t, settings(t, newDatabase(t), "127.0.0.1:1"))
	ws := s.workspace("a")
	s.root().do("GET", ws+"/budgets/month/proof", nil).want(t, 503)
}
