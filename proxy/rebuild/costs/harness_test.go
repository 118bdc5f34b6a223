package costs_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/hash"
)

const partitions = 4

// at is the time of every event.
var at = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// cluster is a broker with the costs topic and the spend table.
type cluster struct {
	tb     testing.TB
	fake   *kfake.Cluster
	client *kgo.Client
	admin  *kadm.Client
	kafka  broker.Config
}

func startKafka(tb testing.TB) *cluster {
	tb.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topics.Costs.Name, topics.SpendTable.Name))
	must(tb, err)
	tb.Cleanup(c.Close)
	k := &cluster{tb: tb, fake: c, kafka: broker.Config{Brokers: strings.Join(c.ListenAddrs(), ",")}}
	k.client, err = kgo.NewClient(kgo.SeedBrokers(k.kafka.Seeds()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	must(tb, err)
	tb.Cleanup(k.client.Close)
	k.admin = kadm.NewClient(k.client)
	return k
}

func (k *cluster) topicID() []byte {
	k.tb.Helper()
	details, err := k.admin.ListTopics(k.tb.Context(), topics.Costs.Name)
	must(k.tb, err)
	id := details[topics.Costs.Name].ID
	return id[:]
}

// partition is one partition of the costs topic, with what was written to it.
type partition struct {
	*cluster
	n int32
	// events are those of the offsets from 0; nil where nobody can read the record.
	events []*rateguardv1.Event
	keys   []string
}

func (k *cluster) partition(n int32) *partition { return &partition{cluster: k, n: n} }

// workspace returns the id of the partition's i-th workspace.
func (p *partition) workspace(i int) string {
	for n := 0; ; n++ {
		if id := fmt.Sprintf("ws_%d", n); hash.Partition([]byte(id), partitions) == p.n {
			if i == 0 {
				return id
			}
			i--
		}
	}
}

func (p *partition) key() string { return hash.PartitionKey(p.n, partitions) }

func (p *partition) produce(topic, key string, value []byte) {
	p.tb.Helper()
	must(p.tb, p.client.ProduceSync(p.tb.Context(), &kgo.Record{Topic: topic, Partition: p.n, Key: []byte(key), Value: value}).FirstErr())
}

// write appends an event of a workspace, or of the partition where it has none, and returns its offset.
func (p *partition) write(e *rateguardv1.Event) int64 {
	p.tb.Helper()
	e = proto.CloneOf(e)
	e.Id, e.OccurredAtUnixUs = "e", at.UnixMicro()
	key := e.GetWorkspaceId()
	if key == "" {
		key = p.key()
	}
	b, err := envelope.Encode(e)
	must(p.tb, err)
	return p.raw(key, b, e)
}

func (p *partition) raw(key string, value []byte, e *rateguardv1.Event) int64 {
	p.tb.Helper()
	p.produce(topics.Costs.Name, key, value)
	p.events, p.keys = append(p.events, e), append(p.keys, key)
	return int64(len(p.events) - 1)
}

// rows returns the values of the table that processors make of the offsets up to one, by key.
func (p *partition) rows(upTo int64) map[string]*rateguardv1.TableValue {
	p.tb.Helper()
	id := p.topicID()
	rows := map[string]*rateguardv1.TableValue{}
	states := map[string]*rateguardv1.SpendState{}
	rounds := map[string]*rateguardv1.Event{}
	for o, e := range p.events[:upTo+1] {
		key := p.keys[o]
		if rows[key] == nil {
			rows[key], states[key] = &rateguardv1.TableValue{Generation: 1}, new(rateguardv1.SpendState)
		}
		fold.SetApplied(rows[key], id, int64(o))
		switch {
		case e == nil:
		case hash.IsPartitionKey(key):
			rounds[key] = spend.LaterRound(rounds[key], e)
		default:
			spend.Fold(states[key], proto.CloneOf(e))
		}
	}
	var err error
	for key, row := range rows {
		if !hash.IsPartitionKey(key) {
			row.State, err = spend.Encode(states[key])
		} else if rounds[key] != nil {
			row.State, err = envelope.Encode(rounds[key])
		}
		must(p.tb, err)
	}
	return rows
}

// fold writes the table as processors have it once they are at an offset.
func (p *partition) fold(upTo int64) {
	p.tb.Helper()
	rows := p.rows(upTo)
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		p.row(key, rows[key])
	}
}

func (p *partition) row(key string, v *rateguardv1.TableValue) {
	p.tb.Helper()
	b, err := fold.EncodeValue(v)
	must(p.tb, err)
	p.produce(topics.SpendTable.Name, key, b)
}

// reading is a reader with the steps it has returned.
type reading struct {
	*costs.Reader
	tb    testing.TB
	steps []costs.Step
}

func (p *partition) options(from int64) costs.Options {
	return costs.Options{
		Poll:  100 * time.Millisecond,
		Kafka: p.kafka, Partition: p.n, From: func(context.Context) (costs.From, error) { return costs.From{Offset: from}, nil },
		Log: slog.New(slog.DiscardHandler),
	}
}

func (p *partition) read(from int64) *reading {
	p.tb.Helper()
	r, err := costs.New(p.tb.Context(), p.options(from))
	must(p.tb, err)
	p.tb.Cleanup(r.Close)
	return &reading{Reader: r, tb: p.tb}
}

// toEnd reads until the reader has caught up with what was written before the call.
func (r *reading) toEnd() *costs.View {
	r.tb.Helper()
	for {
		b, err := r.Next(r.tb.Context())
		must(r.tb, err)
		r.steps = append(r.steps, b.Steps...)
		if b.CaughtUp {
			return r.View()
		}
	}
}

// ended returns what the steps say of a workspace: the ids in order, and the offsets they reach.
func (r *reading) ended(workspace string) (ids []string, from, to int64) {
	r.tb.Helper()
	from, to = -2, -2
	for _, s := range r.steps {
		if s.Workspace != workspace {
			continue
		}
		if from == -2 {
			from = s.From
		} else if s.From != to {
			r.tb.Errorf("step of %s begins at %d, the one before ended at %d", workspace, s.From, to)
		}
		if s.To <= s.From {
			r.tb.Errorf("step of %s from %d to %d", workspace, s.From, s.To)
		}
		to = s.To
		ids = append(ids, s.Ended...)
	}
	return ids, from, to
}

// writer is a producer: it numbers its records by workspace.
type writer struct {
	p   *partition
	id  string
	seq map[string]uint64
}

func (p *partition) producer(id string) *writer { return &writer{p, id, map[string]uint64{}} }

func (w *writer) next(ws string, e *rateguardv1.Event) *rateguardv1.Event {
	w.seq[ws]++
	e.ProducerId, e.WorkspaceId, e.Sequence = w.id, ws, w.seq[ws]
	return e
}

func (w *writer) started() int64 {
	return w.p.write(w.next("", &rateguardv1.Event{Body: &rateguardv1.Event_ProducerStarted{ProducerStarted: &rateguardv1.ProducerStarted{ProducerId: w.id}}}))
}

func (w *writer) round(n uint64) int64 {
	return w.p.write(w.next("", &rateguardv1.Event{Body: &rateguardv1.Event_Round{Round: &rateguardv1.Round{N: n}}}))
}

func (w *writer) seal(n uint64) int64 {
	return w.p.write(w.next("", &rateguardv1.Event{Body: &rateguardv1.Event_Seal{Seal: &rateguardv1.Seal{N: n, ProducerId: w.id}}}))
}

func (w *writer) opening(ws, id string, amount int64) *rateguardv1.Event {
	return w.next(ws, &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
		ReservationId: id, BoundNanoUsd: &amount, Holds: holds(amount), Subject: &rateguardv1.Subject{OpenedAtUnixUs: at.UnixMicro()},
	}}})
}

// lease is the opening of a lease, taking that of a reservation from it.
func (w *writer) lease(ws, id string, amount int64) *rateguardv1.Event {
	e := w.opening(ws, id, amount)
	e.GetReservationOpened().Lease, e.GetReservationOpened().BoundNanoUsd = true, nil
	return e
}

func (w *writer) taking(ws, id, lease string, amount int64) *rateguardv1.Event {
	e := w.opening(ws, id, amount)
	e.GetReservationOpened().LeaseId = lease
	return e
}

func (w *writer) open(ws, id string, amount int64) int64 { return w.p.write(w.opening(ws, id, amount)) }

func (w *writer) settling(ws, id string, amount, cost int64) *rateguardv1.Event {
	return w.next(ws, &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: outcome(id, amount, cost)}}})
}

func (w *writer) settle(ws, id string, amount, cost int64) int64 {
	return w.p.write(w.settling(ws, id, amount, cost))
}

// close appends a ProducerClosed without a sequence, as closers do.
func (w *writer) close(ws, producer string, mark uint64, ends ...*rateguardv1.Outcome) int64 {
	return w.p.write(&rateguardv1.Event{ProducerId: w.id, WorkspaceId: ws, Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{
		ProducerId: producer, Mark: mark, Ends: ends,
	}}})
}

func holds(amount int64) []*rateguardv1.Hold {
	return []*rateguardv1.Hold{{BudgetId: "b", BudgetGeneration: 1, PeriodStartUnixUs: at.UnixMicro(), AmountNanoUsd: amount}}
}

func outcome(id string, amount, cost int64) *rateguardv1.Outcome {
	return &rateguardv1.Outcome{
		ReservationId: id, Revision: 1, CostNanoUsd: &cost, BoundNanoUsd: &amount, Holds: holds(amount),
		Subject: &rateguardv1.Subject{OpenedAtUnixUs: at.UnixMicro()},
	}
}

var period = keyspace.BudgetPeriod{Budget: "b", Generation: 1, StartUS: at.UnixMicro()}

// want compares a workspace with what it has to be: posted and open reservations, of which the sums know.
func want(tb testing.TB, v *costs.View, ws string, posted int64, open ...string) {
	tb.Helper()
	w := v.Workspace(ws)
	if w == nil {
		tb.Fatalf("workspace %s is not in the view", ws)
	}
	if got := w.Posted()[period]; got != posted {
		tb.Errorf("%s: posted %d, want %d", ws, got, posted)
	}
	if got := slices.Sorted(maps.Keys(w.Open)); !slices.Equal(got, open) {
		tb.Errorf("%s: open %v, want %v", ws, got, open)
	}
	if err := w.Whole(); err != nil {
		tb.Errorf("%s is not whole: %v", ws, err)
	}
}
