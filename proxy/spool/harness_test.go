package spool_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const partitions = 4

// kafka is a broker that can be stopped and started again with its data and address.
type kafka struct {
	tb      testing.TB
	dir     string
	port    int
	limit   string // message.max.bytes; empty: the broker's
	cluster *kfake.Cluster
}

func startKafka(tb testing.TB) *kafka {
	tb.Helper()
	k := &kafka{tb: tb, dir: tb.TempDir(), port: freePort(tb)}
	k.start()
	tb.Cleanup(func() { k.cluster.Close() })
	return k
}

func freePort(tb testing.TB) int {
	tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	n, err := strconv.Atoi(port)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func (k *kafka) start() {
	k.tb.Helper()
	settings := map[string]string{"log.cleaner.backoff.ms": "31536000000"}
	if k.limit != "" {
		settings["message.max.bytes"] = k.limit
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(k.port), kfake.DataDir(k.dir), kfake.SyncWrites(),
		kfake.SeedTopics(partitions, topics.Costs.Name, topics.Requests.Name), kfake.SeedTopics(1, topics.Producers.Name),
		kfake.BrokerConfigs(settings))
	if err != nil {
		k.tb.Fatal(err)
	}
	k.cluster = c
}

func (k *kafka) config() broker.Config {
	return broker.Config{Brokers: fmt.Sprintf("127.0.0.1:%d", k.port)}
}

// records returns everything in a topic, in the order of each partition.
func (k *kafka) records(topic topics.Topic) []*kgo.Record {
	k.tb.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.config().Brokers), kgo.ConsumeTopics(topic.Name),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	if err != nil {
		k.tb.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic.Name)
	if err != nil {
		k.tb.Fatal(err)
	}
	want := int64(0)
	ends.Each(func(o kadm.ListedOffset) { want += o.Offset })
	var got []*kgo.Record
	for int64(len(got)) < want {
		f := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			k.tb.Fatalf("read %d of %d records of %s", len(got), want, topic.Name)
		}
		got = append(got, f.Records()...)
	}
	return got
}

// ledger is what a consumer keeps after it dropped repeats by its marks.
type ledger struct {
	marks   map[string]uint64
	holes   map[string]map[uint64]bool
	applied []*rateguardv1.Event
	keys    []string
	repeats int
}

func consume(tb testing.TB, records []*kgo.Record) *ledger {
	tb.Helper()
	l := &ledger{marks: map[string]uint64{}, holes: map[string]map[uint64]bool{}}
	for _, r := range records {
		e, err := envelope.Decode(r.Value)
		if err != nil {
			tb.Fatal(err)
		}
		id := e.GetProducerId() + " " + string(r.Key)
		if e.GetSequence() == 0 || e.GetProducerId() == "" {
			tb.Fatalf("record without producer or sequence: %v", e)
		}
		if e.GetSequence() <= l.marks[id] && !l.holes[id][e.GetSequence()] {
			l.repeats++
			continue
		}
		delete(l.holes[id], e.GetSequence())
		for s := l.marks[id] + 1; s < e.GetSequence(); s++ {
			if l.holes[id] == nil {
				l.holes[id] = map[uint64]bool{}
			}
			l.holes[id][s] = true
		}
		l.marks[id] = max(l.marks[id], e.GetSequence())
		if !strings.HasPrefix(string(r.Key), "~") {
			l.applied, l.keys = append(l.applied, e), append(l.keys, string(r.Key))
		}
	}
	return l
}

func (l *ledger) missing() int {
	n := 0
	for _, h := range l.holes {
		n += len(h)
	}
	return n
}

func config(tb testing.TB, dir string, k *kafka) spool.Config {
	tb.Helper()
	c := spool.Config{Dir: dir, Log: slog.New(slog.NewTextHandler(tb.Output(), nil)), Linger: time.Millisecond, SegmentBytes: 64 << 10}
	c.Kafka = broker.Config{Brokers: "127.0.0.1:1"} // nobody listens there
	if k != nil {
		c.Kafka = k.config()
	}
	return c
}

func open(tb testing.TB, c spool.Config) *spool.Spool {
	tb.Helper()
	s, err := spool.Open(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// run ships in the background and returns what stops that.
func run(tb testing.TB, s *spool.Spool) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	}
	tb.Cleanup(stop)
	return stop
}

func flush(tb testing.TB, s *spool.Spool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		tb.Fatalf("flush: %v; %+v", err, s.Stats())
	}
}

func record(tb testing.TB, topic topics.Topic, key string, e *rateguardv1.Event) spool.Record {
	tb.Helper()
	e.WorkspaceId = key
	b, err := envelope.Encode(e)
	if err != nil {
		tb.Fatal(err)
	}
	return spool.Record{Topic: topic, Key: key, Value: b, Headers: envelope.Headers(e, "")}
}

func opened(tb testing.TB, ws, request string, bound int64) spool.Record {
	tb.Helper()
	return record(tb, topics.Costs, ws, &rateguardv1.Event{Id: request + "-o", OccurredAtUnixUs: 1, Body: &rateguardv1.Event_ReservationOpened{
		ReservationOpened: &rateguardv1.ReservationOpened{
			ReservationId: request + "/1", BoundNanoUsd: &bound, UnknownCostNanoUsd: &bound,
			Subject: &rateguardv1.Subject{RequestId: request, Attempt: 1},
		},
	}})
}

// ended is the frame of an end: the settlement and the row.
func ended(tb testing.TB, ws, request string, cost int64) []spool.Record {
	tb.Helper()
	return []spool.Record{
		record(tb, topics.Costs, ws, &rateguardv1.Event{Id: request + "-s", OccurredAtUnixUs: 2, Body: &rateguardv1.Event_CostSettled{
			CostSettled: &rateguardv1.CostSettled{Outcome: &rateguardv1.Outcome{
				ReservationId: request + "/1", Revision: 1,
				Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, CostNanoUsd: &cost, Subject: &rateguardv1.Subject{RequestId: request, Attempt: 1},
			}},
		}}),
		record(tb, topics.Requests, ws, &rateguardv1.Event{Id: request + "-r", OccurredAtUnixUs: 2, Body: &rateguardv1.Event_RequestRecorded{
			RequestRecorded: &rateguardv1.RequestRecorded{RequestId: request, CostNanoUsd: &cost, ReservationIds: []string{request + "/1"}},
		}}),
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// failure is the error of an opening whose generation a test has no use for: all of them are ended in the first one.
func failure(_ spool.Generation, err error) error { return err }

// copyDir copies a spool folder as a snapshot of its disk would. A segment that is removed meanwhile, as all of it is shipped, begins the copy anew.
func copyDir(tb testing.TB, from string) string {
	tb.Helper()
	for {
		to := filepath.Join(tb.TempDir(), "spool")
		err := os.CopyFS(to, os.DirFS(from))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		must(tb, err)
		return to
	}
}

// segmentsOf lists the segment files of a spool folder.
func segmentsOf(tb testing.TB, dir string) []string {
	tb.Helper()
	m, err := filepath.Glob(filepath.Join(dir, "*", "*.wal"))
	must(tb, err)
	return m
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			tb.Fatalf("never happened: %s", what)
		}
	}
}
