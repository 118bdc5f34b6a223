package rebuild_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

// status returns the last status of a producer.
func status(tb testing.TB, kafka broker.Config, id string) *rateguardv1.ProducerStatus {
	tb.Helper()
	var last *rateguardv1.ProducerStatus
	for _, rec := range fetch(tb, kafka, topics.Producers) {
		if string(rec.Key) == id {
			e, err := envelope.Decode(rec.Value)
			must(tb, err)
			last = e.GetProducerStatus()
		}
	}
	return last
}

// awaitWatermark waits until everything that the topics hold of a producer now is before its watermark.
func awaitWatermark(tb testing.TB, kafka broker.Config, id string) {
	tb.Helper()
	type part struct {
		topic string
		n     int32
	}
	last := map[part]int64{}
	for _, topic := range []topics.Topic{topics.Costs, topics.Requests} {
		for _, rec := range fetch(tb, kafka, topic) {
			if e, err := envelope.Decode(rec.Value); err == nil && e.GetProducerId() == id && e.GetWorkspaceId() != "" {
				last[part{topic.Name, rec.Partition}] = rec.Offset
			}
		}
	}
	behind := func() bool {
		s := status(tb, kafka, id)
		for p, o := range last {
			offsets := s.GetCostsOffsets()
			if p.topic == topics.Requests.Name {
				offsets = s.GetRequestsOffsets()
			}
			if offsets[p.n] <= o {
				return false
			}
		}
		return s.GetGeneration() > 0
	}
	eventually(tb, "the watermark of "+id+" moves", behind)
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			tb.Fatalf("never happened: %s", what)
		}
	}
}

// A producer is read from its watermark, and closed as if it had been read from its start: with the marks that consumers have, also in topics and workspaces
// to which it wrote nothing since.
func TestClosingFromTheWatermark(t *testing.T) {
	for _, by := range []string{"the next process", "a reaper", "a reaper, the generation is not in the log"} {
		t.Run(by, func(t *testing.T) {
			kafka, rdb := startKafka(t), startRedis(t)
			dir := filepath.Join(t.TempDir(), "a")
			first := start(t, options{dir: dir, kafka: kafka, redis: rdb, eager: true})
			const n = 60
			for i := range n {
				id := fmt.Sprintf("r%d", i)
				first.open(fmt.Sprintf("ws_%d", i%3), id, 100)
				first.settle(fmt.Sprintf("ws_%d", i%3), id, 1)
			}
			first.flush()
			awaitWatermark(t, kafka, first.ProducerID())
			first.open("ws_1", "cut", 100)
			first.open("ws_2", "done", 100)
			first.settle("ws_2", "done", 2)
			first.open("ws_new", "new", 70)
			first.flush()
			last := status(t, kafka, first.ProducerID())
			first.kill()
			if by == "the next process" {
				rdb = nil
			} else {
				must(t, os.RemoveAll(dir))
			}
			if by == "a reaper, the generation is not in the log" {
				last = proto.CloneOf(last)
				last.Generation = 1 << 20
				publish(t, kafka, last)
			}
			reg := prometheus.NewRegistry()
			start(t, options{dir: dir, kafka: kafka, redis: rdb, metrics: reg})
			b := waitClosed(t, kafka, first.ProducerID())
			wantCost(t, b, "cut/1", cost{100, kindExpired, true})
			wantCost(t, b, "new/1", cost{70, kindExpired, true})
			wantCost(t, b, "done/1", cost{2, kindSettled, false})
			wantRow(t, b, "cut", 100, true)
			wantRow(t, b, "new", 70, true)
			wantRow(t, b, "done", 2, false)
			closed, records := 6, 5 // ws_1, ws_2 and ws_new in both topics
			if by == "a reaper, the generation is not in the log" {
				closed, records = 8, 3*n+5 // ws_0 too
			}
			if len(b.costs) != n+3 || len(b.rows) != n+3 || b.closed != closed || b.ignored != 0 {
				t.Errorf("%d costs, %d rows, %d closings, %d ignored; want %d, %d, %d, 0", len(b.costs), len(b.rows), b.closed, b.ignored, n+3, n+3, closed)
			}
			eventually(t, "the records that were read are counted", func() bool { return recordsRead(t, reg) > 0 })
			if got := recordsRead(t, reg); got != float64(records) {
				t.Errorf("read %v records, want %d", got, records)
			}
		})
	}
}

// recordsRead returns how many records of closed producers were read.
func recordsRead(tb testing.TB, reg *prometheus.Registry) float64 {
	tb.Helper()
	families, err := reg.Gather()
	must(tb, err)
	for _, f := range families {
		if f.GetName() == "rateguard_rebuild_records_read_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

func publish(tb testing.TB, kafka broker.Config, s *rateguardv1.ProducerStatus) {
	tb.Helper()
	value, err := envelope.Encode(&rateguardv1.Event{Id: "s", Body: &rateguardv1.Event_ProducerStatus{ProducerStatus: s}})
	must(tb, err)
	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Seeds()...))
	must(tb, err)
	defer cl.Close()
	must(tb, cl.ProduceSync(context.Background(), &kgo.Record{Topic: topics.Producers.Name, Key: []byte(s.GetProducerId()), Value: value}).FirstErr())
}

// An old copy of the disk ships an opening once more, behind a watermark that has passed its end. Nobody ends it again.
func TestOldDiskShipsAgainWhatIsBeforeTheWatermark(t *testing.T) {
	for _, by := range []string{"a reaper", "the process on the old disk"} {
		t.Run(by, func(t *testing.T) {
			kafka, rdb := startKafka(t), startRedis(t)
			dir, old := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "old")
			first := start(t, options{dir: dir, kafka: kafka, redis: rdb, eager: true})
			for i := range 5 {
				id := fmt.Sprintf("r%d", i)
				first.open("ws_1", id, 100)
				first.settle("ws_1", id, 1)
			}
			first.open("ws_1", "last", 100)
			first.flush()
			must(t, os.CopyFS(old, os.DirFS(dir)))
			must(t, os.RemoveAll(filepath.Join(old, first.ProducerID(), "checkpoint"))) // a disk that is put back may lack it
			first.settle("ws_1", "last", 7)
			first.flush()
			awaitWatermark(t, kafka, first.ProducerID())
			first.kill()
			var unreaped *redis.Client
			again := start(t, options{dir: old, kafka: kafka, redis: unreaped, noRebuild: by == "a reaper"})
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			must(t, again.Flush(ctx))
			if by == "a reaper" {
				again.kill()
				start(t, options{dir: filepath.Join(t.TempDir(), "b"), kafka: kafka, redis: rdb})
			}
			b := waitClosed(t, kafka, first.ProducerID())
			wantCost(t, b, "last/1", cost{7, kindSettled, false})
			if b.ends["last/1"] != 1 || len(b.costs) != 6 || len(b.rows) != 6 || b.ignored != 0 {
				t.Errorf("ends %v, %d rows, %d closings ignored", b.ends, len(b.rows), b.ignored)
			}
		})
	}
}
