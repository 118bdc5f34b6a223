package query_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// append writes an event of a workspace into a topic.
func appendEvent(t *testing.T, client *kgo.Client, topic, ws string, at time.Time, e *rateguardv1.Event) {
	t.Helper()
	e.Id, e.WorkspaceId, e.OccurredAtUnixUs = "e", ws, at.UnixMicro()
	value, err := envelope.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte(ws), Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// What a request was refused by is in its row; that it had to be is in the log.
func TestARefusalIsProvedByTheLog(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(2, topics.Costs.Name, topics.PolicyHistory.Name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	kafka := strings.Join(cluster.ListenAddrs(), ",")
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	r := newRigWith(t, kafka)

	hour := noon.Truncate(time.Hour)
	appendEvent(t, client, topics.PolicyHistory.Name, r.mine, noon.Add(-time.Minute), &rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{
		WorkspacePolicy: &rateguardv1.WorkspacePolicy{WorkspaceId: r.mine, Version: 4, Budgets: []*rateguardv1.Budget{{
			Id: "b", Generation: 2, Scope: "key", LimitNanoUsd: 1000, Period: "hour", Timezone: "UTC", Enforcement: "hard",
		}}},
	}})
	bound := int64(700)
	appendEvent(t, client, topics.Costs.Name, r.mine, noon.Add(-time.Second), &rateguardv1.Event{ProducerId: "p", Sequence: 1, Body: &rateguardv1.Event_ReservationOpened{
		ReservationOpened: &rateguardv1.ReservationOpened{ReservationId: "x/1", BoundNanoUsd: &bound, Epoch: 1, Op: 1, Holds: []*rateguardv1.Hold{{
			BudgetId: "b", BudgetGeneration: 2, Balance: "key_a", PeriodStartUnixUs: hour.UnixMicro(), AmountNanoUsd: 700, ReservedNanoUsd: 700, LimitNanoUsd: 1000,
		}}},
	}})
	check := &rateguardv1.Check{Id: "b", Scope: "key", Subject: "key_a", Limit: 1000, Reserved: 700, Remaining: 300, Cost: 400, Enforcement: "hard", PeriodStartUnixUs: hour.UnixMicro()}
	e, id := decision{workspace: r.mine, key: "key_a", at: noon, check: check, denied: true}.record()
	check.Kind = "budget"
	counted := flood(r.mine, "key_a", "b", noon, 7)
	r.project(e, counted)

	var got struct {
		Balance string    `json:"balance"`
		At      time.Time `json:"at"`
		Refusal struct {
			Proved      bool   `json:"proved"`
			ExplainedBy string `json:"explained_by"`
			LogReserved string `json:"log_reserved_usd"`
			Needed      string `json:"needed_usd"`
		} `json:"refusal"`
	}
	r.get(r.mine, "/budgets/b/proof?request="+id, http.StatusOK, &got)
	if got.Balance != "key_a" || !got.At.Equal(noon) || !got.Refusal.Proved || got.Refusal.ExplainedBy != "log" || got.Refusal.LogReserved != "0.0000007" || got.Refusal.Needed != "0.0000004" {
		t.Errorf("proved %+v", got)
	}
	for path, status := range map[string]int{
		"/budgets/b/proof?request=" + idAt(noon):                       http.StatusNotFound,
		"/budgets/other/proof?request=" + id:                           http.StatusNotFound,
		"/budgets/b/proof?request=" + id + "&balance=key_b":            http.StatusBadRequest,
		"/budgets/b/proof?request=" + counted.GetId():                  http.StatusConflict,
		"/budgets/b/proof?request=" + id + "&at=2020-01-01":            http.StatusBadRequest,
		"/budgets/b/proof":                                             http.StatusBadRequest,
		"/budgets/b/proof?balance=key_b&at=" + stamp(noon):             http.StatusOK,
		"/budgets/b/proof?balance=x&at=" + stamp(hour.Add(-time.Hour)): http.StatusNotFound,
	} {
		r.get(r.mine, path, status, nil)
	}
}
