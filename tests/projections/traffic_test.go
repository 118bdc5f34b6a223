package projections_test

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// traffic makes the records of proxies and keeps, in plain sums, what the stores have to show.
type traffic struct {
	rng  *rand.Rand
	seqs map[string]uint64
	want want
}

// want is the oracle.
type want struct {
	requests, cost, input int64
	ledger, posted        int64
	open, reserved        int64
	// corrections counts the ledger's rows that rows of requests do not show.
	corrections int64
}

var epoch = time.Date(2026, 10, 30, 12, 0, 0, 0, time.UTC)

func newTraffic(seed uint64) *traffic {
	return &traffic{rng: rand.New(rand.NewPCG(seed, 1)), seqs: map[string]uint64{}}
}

// record encodes an event as its proxy's spool does.
func (tr *traffic) record(topic topics.Topic, workspace, producer string, e *rateguardv1.Event) *kgo.Record {
	e.Id = uuid.NewString()
	e.WorkspaceId = workspace
	value, err := envelope.Encode(e)
	if err != nil {
		panic(err)
	}
	if producer != "" {
		key := topic.Name + workspace + producer
		tr.seqs[key]++
		value = envelope.AppendSequence(value, producer, tr.seqs[key])
	}
	return &kgo.Record{Topic: topic.Name, Key: []byte(workspace), Value: value}
}

// request is one forwarded request.
type request struct {
	id, workspace, producer string
	at                      time.Time
	cost, bound, input      int64
	model                   string
}

func (tr *traffic) newRequest(workspace, producer string) request {
	return request{
		id: uuid.NewString(), workspace: workspace, producer: producer,
		// Over five days around the turn of a month, so that batches touch two partitions of the table.
		at:   epoch.Add(time.Duration(tr.rng.Int64N(int64(5 * 24 * time.Hour)))).Truncate(time.Microsecond),
		cost: tr.rng.Int64N(5_000_000), bound: 10_000_000, input: tr.rng.Int64N(1000), model: []string{"gpt-4o", "o3"}[tr.rng.IntN(2)],
	}
}

func (q request) subject() *rateguardv1.Subject {
	return &rateguardv1.Subject{
		RequestId: q.id, Attempt: 1, KeyId: "key_1", Route: "openai", Provider: "openai", Model: q.model, Endpoint: "/v1/chat/completions",
		OpenedAtUnixUs: q.at.UnixMicro(), PriceVersion: "p1", PolicyVersion: 3,
	}
}

func (q request) holds() []*rateguardv1.Hold {
	return []*rateguardv1.Hold{{BudgetId: "b1", BudgetGeneration: 1, PeriodStartUnixUs: epoch.UnixMicro(), AmountNanoUsd: q.bound}}
}

func (q request) outcome(kind rateguardv1.OutcomeKind, cost int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{
		ReservationId: q.id + "/1", Revision: 1, Kind: kind, CostNanoUsd: &cost, Subject: q.subject(), Holds: q.holds(),
		BoundNanoUsd: &q.bound, Usage: &rateguardv1.Usage{InputTokens: q.input, Requests: 1},
	}
}

func (q request) row() *rateguardv1.RequestRecorded {
	return &rateguardv1.RequestRecorded{
		RequestId: q.id, KeyId: "key_1", Route: "openai", Provider: "openai", Model: q.model, Endpoint: "/v1/chat/completions",
		Decision: rateguardv1.Decision_DECISION_FORWARDED, Status: 200, UpstreamStatus: 200, CostNanoUsd: &q.cost, PriceVersion: "p1",
		Context: &rateguardv1.RequestContext{Method: "POST", ClientIp: "10.0.0.1", Tags: map[string]string{"user": "u\x00ü", "b": "2"}},
		Usage:   &rateguardv1.Usage{InputTokens: q.input}, LatencyUs: 1500, ReservationIds: []string{q.id + "/1"}, StartedAtUnixUs: q.at.UnixMicro(),
	}
}

func (tr *traffic) opened(q request) *kgo.Record {
	return tr.record(topics.Costs, q.workspace, q.producer, &rateguardv1.Event{
		OccurredAtUnixUs: q.at.UnixMicro(),
		Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
			ReservationId: q.id + "/1", Subject: q.subject(), BoundNanoUsd: &q.bound, UnknownCostNanoUsd: &q.bound, Holds: q.holds(),
		}},
	})
}

func (tr *traffic) settled(q request) *kgo.Record {
	return tr.record(topics.Costs, q.workspace, q.producer, &rateguardv1.Event{
		OccurredAtUnixUs: q.at.Add(time.Second).UnixMicro(),
		Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{
			Outcome: q.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, q.cost),
		}},
	})
}

func (tr *traffic) recorded(q request) *kgo.Record {
	return tr.record(topics.Requests, q.workspace, q.producer, &rateguardv1.Event{
		OccurredAtUnixUs: q.at.UnixMicro(), Body: &rateguardv1.Event_RequestRecorded{RequestRecorded: q.row()},
	})
}

// whole returns the three records of a request and adds it to the oracle.
func (tr *traffic) whole(q request) []*kgo.Record {
	tr.want.requests++
	tr.want.cost += q.cost
	tr.want.input += q.input
	tr.want.ledger++
	tr.want.posted += q.cost
	return []*kgo.Record{tr.opened(q), tr.settled(q), tr.recorded(q)}
}

// load returns the records of n requests over some workspaces and producers.
func (tr *traffic) load(n int) []*kgo.Record {
	var out []*kgo.Record
	for i := range n {
		out = append(out, tr.whole(tr.newRequest(fmt.Sprintf("ws_%d", i%5), fmt.Sprintf("producer-%d", i%2)))...)
	}
	return out
}
