package rebuild_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/rebuild"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func startKafka(tb testing.TB) broker.Config {
	tb.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(tb.TempDir()), kfake.SyncWrites(),
		kfake.SeedTopics(4, topics.Costs.Name, topics.Requests.Name), kfake.SeedTopics(1, topics.Producers.Name),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "31536000000", "message.max.bytes": fmt.Sprint(topics.Costs.MaxMessageBytes)}))
	must(tb, err)
	tb.Cleanup(c.Close)
	return broker.Config{Brokers: strings.Join(c.ListenAddrs(), ",")}
}

func startRedis(tb testing.TB) *redis.Client {
	tb.Helper()
	return redistest.Start(tb).Client()
}

// proxy is one process: a spool, its shipper and a rebuilder, each of which can be stopped as a crash would.
type proxy struct {
	*spool.Spool
	tb      testing.TB
	rebuild *rebuild.Rebuilder
	stops   []func()
	// generations are those in which requests were opened.
	generations map[string]spool.Generation
}

func (p *proxy) background(f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	p.stops = append(p.stops, func() {
		cancel()
		if err := <-done; err != nil {
			p.tb.Error(err)
		}
	})
}

// kill ends the process without any farewell to others; what is not shipped stays in the folder.
func (p *proxy) kill() {
	p.tb.Helper()
	for _, stop := range p.stops {
		stop()
	}
	p.stops = nil
	must(p.tb, p.Close())
}

type options struct {
	dir   string
	kafka broker.Config
	redis *redis.Client
	// noShip: the process never reaches Kafka; noRebuild: it neither closes nor sends heartbeats.
	noShip, noRebuild bool
	// eager: its watermark moves all the time.
	eager bool
	// metrics of the rebuilder; nil: none.
	metrics prometheus.Registerer
}

func start(tb testing.TB, o options) *proxy {
	tb.Helper()
	log := slog.New(slog.NewTextHandler(tb.Output(), nil))
	c := spool.Config{Dir: o.dir, Kafka: o.kafka, Log: log, Linger: time.Millisecond, MaxEndBytes: 8 << 10}
	if o.eager {
		c.LowWaterEvery, c.LowWaterRecords = time.Millisecond, 1
	}
	s, err := spool.Open(tb.Context(), c)
	must(tb, err)
	p := &proxy{Spool: s, tb: tb, generations: make(map[string]spool.Generation)}
	tb.Cleanup(p.kill)
	cfg := rebuild.Config{Spool: s, Kafka: o.kafka, Log: log, Heartbeat: 20 * time.Millisecond, GoneAfter: 400 * time.Millisecond, ReapEvery: 20 * time.Millisecond, Metrics: o.metrics}
	if o.redis != nil {
		cfg.Redis = o.redis
	}
	p.rebuild, err = rebuild.New(cfg)
	must(tb, err)
	if !o.noShip {
		p.background(s.Run)
	}
	if !o.noRebuild {
		p.background(p.rebuild.Run)
	}
	return p
}

func (p *proxy) flush() {
	p.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must(p.tb, p.FlushOwn(ctx))
}

func (p *proxy) open(ws, request string, bound int64) {
	p.tb.Helper()
	p.openIn(ws, request, bound, &rateguardv1.RequestContext{Method: "POST"})
}

func (p *proxy) openIn(ws, request string, bound int64, about *rateguardv1.RequestContext) {
	p.tb.Helper()
	g, err := p.AppendOpen(record(p.tb, topics.Costs, ws, &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{
		ReservationOpened: &rateguardv1.ReservationOpened{
			ReservationId: request + "/1", BoundNanoUsd: &bound, UnknownCostNanoUsd: &bound,
			Subject: &rateguardv1.Subject{RequestId: request, Attempt: 1, Model: "m", OpenedAtUnixUs: 1},
			Holds:   []*rateguardv1.Hold{{BudgetId: "b", AmountNanoUsd: bound}},
			Context: about,
		},
	}}))
	must(p.tb, err)
	p.generations[request] = g
}

func settled(tb testing.TB, ws, request string, cost int64) spool.Record {
	tb.Helper()
	return record(tb, topics.Costs, ws, &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{
		Outcome: &rateguardv1.Outcome{
			ReservationId: request + "/1", Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED,
			CostNanoUsd: &cost, Usage: &rateguardv1.Usage{InputTokens: 3}, Subject: &rateguardv1.Subject{RequestId: request, Attempt: 1, Model: "m", OpenedAtUnixUs: 1},
		},
	}}})
}

func row(tb testing.TB, ws, request string, cost int64) spool.Record {
	tb.Helper()
	return record(tb, topics.Requests, ws, &rateguardv1.Event{Body: &rateguardv1.Event_RequestRecorded{RequestRecorded: &rateguardv1.RequestRecorded{
		RequestId: request, CostNanoUsd: &cost, ReservationIds: []string{request + "/1"}, Decision: rateguardv1.Decision_DECISION_FORWARDED,
	}}})
}

func (p *proxy) settle(ws, request string, cost int64) {
	p.tb.Helper()
	must(p.tb, p.AppendEnd(p.generations[request], settled(p.tb, ws, request, cost), row(p.tb, ws, request, cost)))
}

func record(tb testing.TB, topic topics.Topic, key string, e *rateguardv1.Event) spool.Record {
	tb.Helper()
	e.Id, e.WorkspaceId, e.OccurredAtUnixUs = "e", key, 1
	b, err := envelope.Encode(e)
	must(tb, err)
	return spool.Record{Topic: topic, Key: key, Value: b, Headers: envelope.Headers(e, "")}
}

// books are the ledger and the request table as the consumers of the two topics would hold them. They are
// written from the protocol, not from the package under test.
type books struct {
	costs map[string]cost
	rows  map[string]*rateguardv1.RequestRecorded
	// corrections by reservation: ends after the first that differ.
	corrections map[string]int64
	// ends counts what says how a reservation ended, whatever it says.
	ends      map[string]int
	opened    int
	ignored   int // ProducerClosed that were not taken
	closed    int
	closedIDs map[string]bool
}

type cost struct {
	nano      int64
	kind      rateguardv1.OutcomeKind
	estimated bool
}

func read(tb testing.TB, kafka broker.Config) *books {
	tb.Helper()
	b := &books{costs: map[string]cost{}, rows: map[string]*rateguardv1.RequestRecorded{}, corrections: map[string]int64{}, ends: map[string]int{}, closedIDs: map[string]bool{}}
	// First, so that what a closed status promises is in the topics read after it.
	for _, rec := range fetch(tb, kafka, topics.Producers) {
		e, err := envelope.Decode(rec.Value)
		must(tb, err)
		b.closedIDs[string(rec.Key)] = e.GetProducerStatus().GetClosedAtUnixUs() > 0
	}
	marks, accepted := map[string]uint64{}, map[string]bool{}
	end := func(o *rateguardv1.Outcome) {
		b.ends[o.GetReservationId()]++
		if was, ok := b.costs[o.GetReservationId()]; ok {
			if was.nano != o.GetCostNanoUsd() {
				b.corrections[o.GetReservationId()] = o.GetCostNanoUsd()
			}
			return
		}
		b.costs[o.GetReservationId()] = cost{o.GetCostNanoUsd(), o.GetKind(), o.GetEstimated()}
	}
	add := func(r *rateguardv1.RequestRecorded) {
		if b.rows[r.GetRequestId()] != nil {
			tb.Errorf("two rows for %s", r.GetRequestId())
		}
		b.rows[r.GetRequestId()] = r
	}
	for _, topic := range []topics.Topic{topics.Costs, topics.Requests} {
		for _, rec := range fetch(tb, kafka, topic) {
			e, err := envelope.Decode(rec.Value)
			must(tb, err)
			id := fmt.Sprintf("%s %s %s", topic.Name, rec.Key, e.GetProducerId())
			if e.GetSequence() > 0 {
				if e.GetSequence() <= marks[id] {
					continue
				}
				if e.GetSequence() != marks[id]+1 {
					tb.Errorf("hole before %d of %s", e.GetSequence(), id)
				}
				marks[id] = e.GetSequence()
			}
			if c := e.GetProducerClosed(); c != nil {
				of := fmt.Sprintf("%s %s %s", topic.Name, rec.Key, c.GetProducerId())
				if accepted[of] || c.GetMark() != marks[of] {
					b.ignored++
					continue
				}
				accepted[of] = true
				b.closed++
				for _, o := range c.GetEnds() {
					end(o)
				}
				for _, r := range c.GetRows() {
					add(r)
				}
			}
			switch body := e.GetBody().(type) {
			case *rateguardv1.Event_ReservationOpened:
				b.opened++
			case *rateguardv1.Event_CostSettled:
				end(body.CostSettled.GetOutcome())
			case *rateguardv1.Event_ReservationExpired:
				end(body.ReservationExpired.GetOutcome())
			case *rateguardv1.Event_RequestRecorded:
				if !accepted[id] {
					add(body.RequestRecorded)
				}
			}
		}
	}
	return b
}

func fetch(tb testing.TB, kafka broker.Config, topic topics.Topic) []*kgo.Record {
	tb.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Seeds()...), kgo.ConsumeTopics(topic.Name),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	must(tb, err)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic.Name)
	must(tb, err)
	starts, err := kadm.NewClient(cl).ListStartOffsets(ctx, topic.Name)
	must(tb, err)
	want := int64(0)
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	starts.Each(func(o kadm.ListedOffset) { want -= o.Offset })
	var got []*kgo.Record
	for int64(len(got)) < want {
		got = append(got, cl.PollFetches(ctx).Records()...)
		must(tb, ctx.Err())
	}
	return got
}

// waitClosed waits until the producer's last status says closed.
func waitClosed(tb testing.TB, kafka broker.Config, id string) *books {
	tb.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for {
		if b := read(tb, kafka); b.closedIDs[id] {
			return b
		}
		select {
		case <-tick.C:
		case <-timeout:
			tb.Fatalf("producer %s was not closed", id)
		}
	}
}
