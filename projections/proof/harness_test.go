package proof_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections/proof"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const (
	partitions = 4
	ws         = "ws_1"
	usd        = 1_000_000_000
)

// start is when the period of the tests begins.
var start = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// script writes a log.
type script struct {
	t      *testing.T
	client *kgo.Client
	log    *proof.Log
	seq    map[string]uint64
	// now is the time of the next event.
	now time.Time
	op  uint64
}

func newScript(t *testing.T) *script {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topics.Costs.Name, topics.PolicyHistory.Name))
	must(t, err)
	t.Cleanup(c.Close)
	seeds := strings.Join(c.ListenAddrs(), ",")
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds))
	must(t, err)
	t.Cleanup(client.Close)
	return &script{t: t, client: client, log: proof.NewLog(broker.Config{Brokers: seeds}), seq: map[string]uint64{}, now: start.Add(time.Hour)}
}

func (s *script) write(topic topics.Topic, workspace string, e *rateguardv1.Event) {
	s.t.Helper()
	e.Id, e.WorkspaceId, e.OccurredAtUnixUs = "e", workspace, s.now.UnixMicro()
	b, err := envelope.Encode(e)
	must(s.t, err)
	must(s.t, s.client.ProduceSync(s.t.Context(), &kgo.Record{Topic: topic.Name, Key: []byte(workspace), Value: b}).FirstErr())
	s.now = s.now.Add(time.Second)
}

// numbered gives an event the next sequence of a producer.
func (s *script) numbered(producer string, e *rateguardv1.Event) *rateguardv1.Event {
	s.seq[producer]++
	e.ProducerId, e.Sequence = producer, s.seq[producer]
	return e
}

// policy publishes a version with one budget.
func (s *script) policy(version uint64, limit int64, change func(*rateguardv1.Budget)) {
	s.t.Helper()
	b := &rateguardv1.Budget{
		Id: "month", Generation: 1, Scope: "workspace", LimitNanoUsd: limit, Period: "month", Timezone: "UTC", Enforcement: "hard",
		BoundariesUnixUs: []int64{start.UnixMicro(), start.AddDate(0, 1, 0).UnixMicro()},
	}
	if change != nil {
		change(b)
	}
	s.write(topics.PolicyHistory, ws, &rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: &rateguardv1.WorkspacePolicy{
		WorkspaceId: ws, Version: version, Budgets: []*rateguardv1.Budget{b},
	}}})
}

// grant is one opening; zero fields are those of an honest one.
type grant struct {
	producer, id, balance    string
	amount, posted, reserved int64
	limit                    int64
	policy                   uint64
	epoch, op                uint64
	bound                    int64
	// lease: it is a lease. from is the lease that it was taken from.
	lease bool
	from  string
}

func (g grant) hold() *rateguardv1.Hold {
	return &rateguardv1.Hold{
		BudgetId: "month", BudgetGeneration: 1, Balance: g.balance, PeriodStartUnixUs: start.UnixMicro(), AmountNanoUsd: g.amount,
		PostedNanoUsd: g.posted, ReservedNanoUsd: g.reserved, LimitNanoUsd: g.limit,
	}
}

// opening returns the event of a grant; its number is the next one where it has none.
func (s *script) opening(g grant) *rateguardv1.Event {
	if g.op == 0 && g.from == "" {
		s.op++
		g.op = s.op
	}
	if g.epoch == 0 {
		g.epoch = 1
	}
	if g.policy == 0 {
		g.policy = 1
	}
	if g.bound == 0 {
		g.bound = g.amount
	}
	o := &rateguardv1.ReservationOpened{
		ReservationId: g.id, Epoch: g.epoch, Op: g.op, Holds: []*rateguardv1.Hold{g.hold()}, Lease: g.lease, LeaseId: g.from,
		Subject: &rateguardv1.Subject{RequestId: g.id, KeyId: "key_1", Route: "openai", Model: "gpt", PriceVersion: "v1", PolicyVersion: g.policy, OpenedAtUnixUs: s.now.UnixMicro()},
	}
	if !g.lease {
		o.BoundNanoUsd = &g.bound
	}
	return &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: o}}
}

func (s *script) open(g grant) {
	s.t.Helper()
	s.write(topics.Costs, ws, s.numbered(g.producer, s.opening(g)))
}

func (s *script) outcome(g grant, cost int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{
		ReservationId: g.id, Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, CostNanoUsd: &cost, BoundNanoUsd: &g.amount,
		Holds: []*rateguardv1.Hold{g.hold()}, Subject: &rateguardv1.Subject{RequestId: g.id, OpenedAtUnixUs: s.now.UnixMicro()}, LeaseId: g.from,
	}
}

// leaseOutcome ends a lease of which an amount is left.
func (s *script) leaseOutcome(g grant, left, cost int64) *rateguardv1.Outcome {
	o := s.outcome(g, cost)
	o.Lease, o.BoundNanoUsd, o.Kind = true, nil, rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED
	o.Holds[0].AmountNanoUsd = left
	if cost == 0 {
		o.Kind = rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED
	}
	return o
}

func (s *script) endingLease(g grant, left int64) *rateguardv1.Event {
	return s.numbered(g.producer, &rateguardv1.Event{Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{Outcome: s.leaseOutcome(g, left, 0)}}})
}

func (s *script) endLease(g grant, left int64) {
	s.t.Helper()
	s.write(topics.Costs, ws, s.endingLease(g, left))
}

func (s *script) settling(g grant, cost int64) *rateguardv1.Event {
	return &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: s.outcome(g, cost)}}}
}

func (s *script) settle(g grant, cost int64) {
	s.t.Helper()
	s.write(topics.Costs, ws, s.numbered(g.producer, s.settling(g, cost)))
}

func (s *script) correct(g grant, previous, cost int64) {
	s.t.Helper()
	o := s.outcome(g, cost)
	o.Revision = 2
	s.write(topics.Costs, ws, &rateguardv1.Event{ProducerId: "control", Body: &rateguardv1.Event_CostCorrected{CostCorrected: &rateguardv1.CostCorrected{
		Outcome: o, Reason: "price corrected", PreviousCostNanoUsd: &previous,
	}}})
}

func (s *script) close(producer string, mark uint64, ends ...*rateguardv1.Outcome) {
	s.t.Helper()
	s.write(topics.Costs, ws, &rateguardv1.Event{ProducerId: "closer", Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{
		ProducerId: producer, Mark: mark, Ends: ends,
	}}})
}

func (s *script) prove(change func(*proof.Question)) *proof.Proof {
	s.t.Helper()
	q := proof.Question{Workspace: ws, Budget: "month", At: s.now}
	if change != nil {
		change(&q)
	}
	p, err := s.log.Prove(s.t.Context(), q)
	must(s.t, err)
	return p
}

func id(n int) string { return "r" + strconv.Itoa(n) + "/1" }
