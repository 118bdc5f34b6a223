package control_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/projections/control"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// status writes the status of a producer.
func (l costsLog) status(s *rateguardv1.ProducerStatus) {
	l.t.Helper()
	value, err := envelope.Encode(&rateguardv1.Event{
		Id: "e", OccurredAtUnixUs: time.Now().UnixMicro(), Body: &rateguardv1.Event_ProducerStatus{ProducerStatus: s},
	})
	if err != nil {
		l.t.Fatal(err)
	}
	r := &kgo.Record{Topic: topics.Producers.Name, Key: []byte(s.GetProducerId()), Value: value}
	if err := l.client.ProduceSync(l.t.Context(), r).FirstErr(); err != nil {
		l.t.Fatal(err)
	}
}

func TestAProducerIsDeclaredLost(t *testing.T) {
	cluster := wholeCluster(t)
	s, _ := running(t, settings(t, newDatabase(t), brokers(cluster)))
	l := newCostsLog(t, cluster)
	started := time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
	gone := &rateguardv1.ProducerStatus{
		ProducerId: "gone", Host: "proxy-1", StartedAtUnixUs: started.UnixMicro(), CostsOffsets: map[int32]int64{1: 7}, RequestsOffsets: map[int32]int64{2: 8},
	}
	closed := &rateguardv1.ProducerStatus{ProducerId: "closed", StartedAtUnixUs: 1, ClosedAtUnixUs: 2}
	l.status(gone)
	l.status(closed)
	l.status(&rateguardv1.ProducerStatus{ProducerId: "closed", StartedAtUnixUs: 1}) // late: it stays closed
	l.status(&rateguardv1.ProducerStatus{ProducerId: "living", Host: "proxy-2", StartedAtUnixUs: started.Add(time.Hour).UnixMicro()})

	listed := func() string {
		t.Helper()
		var all []string
		data, _ := s.root().do("GET", "/v1/producers", nil).want(t, 200).body["data"].([]any)
		for _, p := range data {
			p, _ := p.(map[string]any)
			text, _ := p["id"].(string)
			if p["declared_lost_at"] != nil {
				text += " lost"
			}
			all = append(all, text)
		}
		return strings.Join(all, ", ")
	}
	if got := listed(); got != "gone, living" {
		t.Errorf("listed %s", got)
	}
	const path = "/v1/producers/gone/declare-lost"
	for _, bad := range []string{`{}`, `{"reason":""}`, `{"reason":null}`, `{"reason":"x","force":true}`} {
		s.root().do("POST", path, bad).want(t, 400)
	}
	reason := map[string]any{"reason": "the node burned down"}
	s.root().do("POST", "/v1/producers/unknown/declare-lost", reason).want(t, 404)
	s.root().do("POST", "/v1/producers/closed/declare-lost", reason).want(t, 409)
	ws := s.workspace("a")
	_, token := s.key(ws, map[string]any{"scopes": []string{"write:budgets"}})
	s.with(token).do("POST", path, reason).want(t, 403)
	s.with(token).do("GET", "/v1/producers", nil).want(t, 403)

	if a := s.root().do("POST", path, reason).want(t, 200); a.text("declared_lost_at") == "" || a.text("started_at") != "2026-11-02T03:04:05Z" {
		t.Errorf("declared %s", a.raw)
	}
	await(t, "the log to show it", func() bool { return listed() == "gone lost, living" })
	s.root().do("POST", path, reason).want(t, 200) // once more changes nothing

	f := follow(t, brokers(cluster), topics.Producers.Name, topics.Audit.Name)
	var statuses []*rateguardv1.ProducerStatus
	var actions []record
	f.until("status and audit", func(all []record) bool {
		statuses, actions = nil, nil
		for _, r := range all {
			if p := r.event.GetProducerStatus(); p.GetDeclaredLostAtUnixUs() != 0 {
				statuses = append(statuses, p)
			}
			if r.event.GetControlAction().GetAction() == "producer.declare_lost" {
				actions = append(actions, r)
			}
		}
		return len(statuses) > 0 && len(actions) > 0
	})
	if len(statuses) != 1 || len(actions) != 1 {
		t.Fatalf("%d statuses, %d actions", len(statuses), len(actions))
	}
	want := proto.CloneOf(gone)
	want.DeclaredLostAtUnixUs = statuses[0].GetDeclaredLostAtUnixUs()
	if !proto.Equal(want, statuses[0]) {
		t.Errorf("the status lost something: %v", statuses[0])
	}
	action := actions[0].event.GetControlAction()
	if action.GetObject() != "producers/gone" || action.GetActor() != "admin" || !strings.Contains(string(action.GetAfterJson()), "the node burned down") {
		t.Errorf("audited %v", action)
	}
	if hash := control.ActionHash(actions[0].key, actions[0].event.GetOccurredAtUnixUs(), action); !bytes.Equal(hash, action.GetHash()) {
		t.Error("the hash is not that of the action")
	}
}
