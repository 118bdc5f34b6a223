package spool_test

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/proxy/spool"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// eager is a spool whose watermark moves all the time.
func eager(tb testing.TB, dir string, k *kafka) spool.Config {
	tb.Helper()
	c := config(tb, dir, k)
	c.LowWaterEvery, c.LowWaterRecords, c.SegmentBytes = time.Millisecond, 1, 4<<10
	return c
}

// statuses returns the statuses of a producer in order.
func (k *kafka) statuses(id string) []*rateguardv1.ProducerStatus {
	k.tb.Helper()
	var out []*rateguardv1.ProducerStatus
	for _, r := range k.records(topics.Producers) {
		if string(r.Key) == id {
			out = append(out, decode(k.tb, r.Value).GetProducerStatus())
		}
	}
	return out
}

// latest returns the last status of a producer; nil: none yet.
func (k *kafka) latest(id string) *rateguardv1.ProducerStatus {
	k.tb.Helper()
	if all := k.statuses(id); len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// logged is the whole log as a status is judged by: it says where each reservation was opened and how its request ended.
type logged struct {
	costs, requests []*kgo.Record
	events          map[*kgo.Record]*rateguardv1.Event
	ended, rows     map[string]bool
}

func (k *kafka) log() *logged {
	k.tb.Helper()
	l := &logged{costs: k.records(topics.Costs), requests: k.records(topics.Requests), events: map[*kgo.Record]*rateguardv1.Event{}, ended: map[string]bool{}, rows: map[string]bool{}}
	for _, r := range append(append([]*kgo.Record(nil), l.costs...), l.requests...) {
		e := decode(k.tb, r.Value)
		l.events[r] = e
		if s := e.GetCostSettled(); s != nil {
			l.ended[s.GetOutcome().GetReservationId()] = true
		}
		if row := e.GetRequestRecorded(); row != nil {
			for _, id := range row.GetReservationIds() {
				l.rows[id] = true
			}
		}
	}
	return l
}

// check fails where a status is not right for all that the log holds. Reservations in open have no end, whatever the log says.
func (l *logged) check(tb testing.TB, s *rateguardv1.ProducerStatus, open map[string]spool.Generation) {
	tb.Helper()
	if s.GetGeneration() == 0 {
		return
	}
	marks, begun := map[string]*rateguardv1.WorkspaceMarks{}, map[int32]int64{}
	for _, r := range l.costs {
		g := l.events[r].GetGenerationStarted()
		if g.GetProducerId() != s.GetProducerId() || g.GetGeneration() != s.GetGeneration() {
			continue
		}
		if _, seen := begun[r.Partition]; seen {
			continue
		}
		begun[r.Partition] = r.Offset
		if g.GetPartition() != r.Partition || r.Offset < s.GetCostsOffsets()[r.Partition] {
			tb.Errorf("generation %d of partition %d begins at %d/%d, read from %v", s.GetGeneration(), g.GetPartition(), r.Partition, r.Offset, s.GetCostsOffsets())
		}
		for _, m := range g.GetMarks() {
			marks[m.GetWorkspaceId()] = m
		}
	}
	if len(begun) != partitions {
		tb.Fatalf("generation %d begins in %d partitions, and was published", s.GetGeneration(), len(begun))
	}
	first := map[string]bool{}
	for _, r := range append(append([]*kgo.Record(nil), l.costs...), l.requests...) {
		e := l.events[r]
		if e.GetProducerId() != s.GetProducerId() || e.GetWorkspaceId() == "" {
			continue
		}
		mark, from := marks[string(r.Key)].GetCosts(), s.GetCostsOffsets()[r.Partition]
		if r.Topic == topics.Requests.Name {
			mark, from = marks[string(r.Key)].GetRequests(), s.GetRequestsOffsets()[r.Partition]
		}
		at := fmt.Sprintf("%s/%d/%d, sequence %d of %s", r.Topic, r.Partition, r.Offset, e.GetSequence(), r.Key)
		if e.GetSequence() > mark {
			if r.Offset < from {
				tb.Errorf("%s is of generation %d and stands before it, at %d", at, s.GetGeneration(), from)
			}
			if key := fmt.Sprint(r.Topic, string(r.Key), e.GetSequence()); !first[key] {
				first[key] = true
				if r.Topic == topics.Costs.Name && r.Offset < begun[r.Partition] {
					tb.Errorf("%s stands before its generation began, at %d", at, begun[r.Partition])
				}
			}
			continue
		}
		if o := e.GetReservationOpened(); o != nil {
			if id := o.GetReservationId(); !l.ended[id] || !l.rows[id] {
				tb.Errorf("%s is older than generation %d and has not ended", at, s.GetGeneration())
			} else if _, isOpen := open[id]; isOpen {
				tb.Errorf("%s is older than generation %d and open", at, s.GetGeneration())
			}
		}
	}
}

// Whatever is published is right for all that the log will ever hold: with reservations that stay open, processes that die, and an old copy of the
// disk whose tail is shipped once more.
func TestWatermarkNeverPassesAnOpenReservation(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			k := startKafka(t)
			dir := filepath.Join(t.TempDir(), "spool")
			moved := 0
			var lives []string
			var old string
			for life := range 3 {
				s := open(t, eager(t, dir, k))
				stop := run(t, s)
				lives = append(lives, s.ProducerID())
				unended := map[string]spool.Generation{}
				of := map[string]string{}
				for i := range 120 {
					switch n := rng.IntN(10); {
					case n < 4 || i == 0:
						id, ws := fmt.Sprintf("r%d-%d", life, i), fmt.Sprintf("ws_%d", rng.IntN(4))
						g, err := s.AppendOpen(opened(t, ws, id, 1))
						must(t, err)
						unended[id+"/1"], of[id+"/1"] = g, ws
					case n < 8:
						for id, g := range unended {
							must(t, s.AppendEnd(g, ended(t, of[id], id[:len(id)-2], 1)...))
							delete(unended, id)
							break
						}
					case n < 9:
						flush(t, s)
					default:
						if s := k.latest(s.ProducerID()); s != nil {
							k.log().check(t, s, unended)
						}
					}
				}
				if life == 1 {
					old = copyDir(t, dir)
				}
				stop() // with the rest unshipped
				must(t, s.Close())
			}
			for _, d := range []string{dir, old} {
				s := open(t, eager(t, d, k))
				stop := run(t, s)
				flush(t, s)
				stop()
				must(t, s.Close())
			}
			all := k.log()
			for _, id := range lives {
				for _, s := range k.statuses(id) {
					all.check(t, s, nil)
					if s.GetGeneration() > 0 {
						moved++
					}
				}
			}
			if moved == 0 {
				t.Error("the watermark never moved")
			}
		})
	}
}

// It moves behind everything once nothing is open, also in partitions to which others write, and a long stream holds it back.
func TestWatermarkFollowsTheLogAndWaitsForALongStream(t *testing.T) {
	k := startKafka(t)
	s := open(t, eager(t, filepath.Join(t.TempDir(), "a"), k))
	run(t, s)
	<-s.Announced()
	busy := open(t, config(t, filepath.Join(t.TempDir(), "b"), k))
	run(t, busy)
	request := func(p *spool.Spool, ws, id string) {
		g, err := p.AppendOpen(opened(t, ws, id, 1))
		must(t, err)
		must(t, p.AppendEnd(g, ended(t, ws, id, 1)...))
	}
	request(s, "ws_1", "r1")
	stream, err := s.AppendOpen(opened(t, "ws_2", "stream", 1))
	must(t, err)
	for i := range 20 {
		request(busy, fmt.Sprintf("ws_%d", i), fmt.Sprintf("b%d", i))
		request(s, "ws_1", fmt.Sprintf("s%d", i))
	}
	flush(t, s)
	flush(t, busy)
	started := k.statuses(s.ProducerID())[0]
	held := k.latest(s.ProducerID())
	before := k.log()
	before.check(t, held, map[string]spool.Generation{"stream/1": stream})
	must(t, s.AppendEnd(stream, ended(t, "ws_2", "stream", 1)...))
	flush(t, s)
	ends := map[int32]int64{}
	for _, r := range before.requests {
		ends[r.Partition] = r.Offset + 1
	}
	eventually(t, "the watermark is behind all of it", func() bool {
		status := k.latest(s.ProducerID())
		for p, end := range ends {
			if status.GetRequestsOffsets()[p] < end {
				return false
			}
		}
		return status.GetGeneration() > 0
	})
	last := k.latest(s.ProducerID())
	if fmt.Sprint(last.GetCostsStarted()) != fmt.Sprint(started.GetCostsOffsets()) || fmt.Sprint(last.GetRequestsStarted()) != fmt.Sprint(started.GetRequestsOffsets()) {
		t.Errorf("the start has moved: %v, was %v", last, started)
	}
	k.log().check(t, last, nil)
	if age := s.Stats().WatermarkAge; age > time.Minute {
		t.Errorf("the watermark is %s old", age)
	}
}

// An end counts once Kafka has both of its records.
func TestWatermarkWaitsForTheAcknowledgementOfRows(t *testing.T) {
	k := startKafka(t)
	s := open(t, eager(t, filepath.Join(t.TempDir(), "a"), k))
	run(t, s)
	<-s.Announced()
	flush(t, s)
	var refusing atomic.Bool
	var refused atomic.Int64
	refusing.Store(true)
	id := k.cluster.TopicInfo(topics.Requests.Name).TopicID
	k.cluster.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		k.cluster.KeepControl()
		produce, _ := req.(*kmsg.ProduceRequest)
		for _, topic := range produce.Topics {
			if refusing.Load() && (topic.Topic == topics.Requests.Name || topic.TopicID == id) {
				refused.Add(1)
				return refuseAll(produce), nil, true
			}
		}
		return nil, nil, false
	})
	g, err := s.AppendOpen(opened(t, "ws_1", "r1", 1))
	must(t, err)
	must(t, s.AppendEnd(g, ended(t, "ws_1", "r1", 1)...))
	eventually(t, "the row is refused for a while", func() bool { return refused.Load() > 4 })
	taken := time.Now().UnixMicro()
	refusing.Store(false)
	passed := func() bool { return passedRow(t, k, k.latest(s.ProducerID())) }
	eventually(t, "the watermark has passed the row", passed)
	for _, r := range k.records(topics.Producers) {
		e := decode(t, r.Value)
		if passedRow(t, k, e.GetProducerStatus()) && e.GetOccurredAtUnixUs() < taken {
			t.Error("the watermark has passed a row that Kafka did not have")
		}
	}
	last := k.latest(s.ProducerID())
	k.log().check(t, last, nil)
}

// passedRow reports whether the row of ws_1 is older than the generation of a status.
func passedRow(tb testing.TB, k *kafka, s *rateguardv1.ProducerStatus) bool {
	tb.Helper()
	for _, r := range k.records(topics.Costs) {
		g := decode(tb, r.Value).GetGenerationStarted()
		for _, m := range g.GetMarks() {
			if m.GetWorkspaceId() == "ws_1" && m.GetRequests() == 1 && g.GetGeneration() == s.GetGeneration() {
				return true
			}
		}
	}
	return false
}

// refuseAll is the answer of a broker that leads nothing.
func refuseAll(req *kmsg.ProduceRequest) kmsg.Response {
	resp, _ := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range req.Topics {
		t := kmsg.NewProduceResponseTopic()
		t.Topic, t.TopicID = topic.Topic, topic.TopicID
		for _, part := range topic.Partitions {
			p := kmsg.NewProduceResponseTopicPartition()
			p.Partition, p.ErrorCode = part.Partition, kerr.NotLeaderForPartition.Code
			t.Partitions = append(t.Partitions, p)
		}
		resp.Topics = append(resp.Topics, t)
	}
	return resp
}
