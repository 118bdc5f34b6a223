package costs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/topics"
)

// Processors send what nobody can read to the dead letters and go on. The view does the same, or it would not have their sums.
func TestRecordsThatNobodyCanReadMoveOnlyTheOffset(t *testing.T) {
	p := startKafka(t).partition(0)
	ws := p.workspace(0)
	one := p.producer("one")
	one.open(ws, "r1", 100)
	p.raw(ws, []byte{0xff}, nil)
	p.raw(p.key(), nil, nil)
	one.settle(ws, "r1", 100, 70)
	for folded := int64(-1); folded < int64(len(p.events)); folded++ {
		if folded >= 0 {
			p.fold(folded)
		}
		r := p.read(0)
		v := r.toEnd()
		want(t, v, ws, 70)
		if _, from, to := r.ended(ws); v.Undecodable != 2 || v.Next != 4 || from != -1 || to != 3 {
			t.Errorf("table at %d: %d undecodable, next %d, steps from %d to %d", folded, v.Undecodable, v.Next, from, to)
		}
	}
}

// A record whose key belongs to another partition is counted by nobody.
func TestMisplacedRecordsAreInNoSum(t *testing.T) {
	k := startKafka(t)
	p := k.partition(0)
	elsewhere := k.partition(1).workspace(0)
	p.producer("one").open(elsewhere, "r1", 100)
	v := p.read(-1).toEnd()
	if len(v.Workspaces()) != 0 || v.Misplaced != 1 || v.Next != 1 {
		t.Errorf("workspaces %v, %d misplaced, next %d", v.Workspaces(), v.Misplaced, v.Next)
	}
}

// A newer release writes what this one cannot read and its processors count: the sums of this process would be too small.
func TestNewerSchemaEndsTheReading(t *testing.T) {
	p := startKafka(t).partition(0)
	ws := p.workspace(0)
	one := p.producer("one")
	one.open(ws, "r1", 100)
	newer := one.opening(ws, "r2", 10)
	newer.SchemaVersion = envelope.SchemaVersion + 1
	b, err := proto.Marshal(newer)
	must(t, err)
	p.raw(ws, b, newer)
	r := p.read(0)
	for err = nil; err == nil; {
		_, err = r.Next(t.Context())
	}
	if !errors.Is(err, envelope.ErrNewerSchema) || r.View().Next != 1 {
		t.Errorf("got %v at %d, want a newer schema at 1", err, r.View().Next)
	}
	if _, again := r.Next(t.Context()); !errors.Is(again, envelope.ErrNewerSchema) {
		t.Errorf("the next call: %v", again)
	}
}

// What retention takes from under the reader cannot be jumped over.
func TestOffsetThatTheLogNoLongerHasEndsTheReading(t *testing.T) {
	p := startKafka(t).partition(0)
	ws := p.workspace(0)
	p.producer("one").open(ws, "r1", 1)
	r := p.read(0)
	r.toEnd()
	var id [16]byte
	copy(id[:], p.topicID())
	p.fake.ControlKey(int16(kmsg.Fetch), func(req kmsg.Request) (kmsg.Response, error, bool) {
		p.fake.KeepControl()
		resp, _ := req.ResponseKind().(*kmsg.FetchResponse)
		topic, part := kmsg.NewFetchResponseTopic(), kmsg.NewFetchResponseTopicPartition()
		part.Partition, part.ErrorCode = p.n, kerr.OffsetOutOfRange.Code
		topic.TopicID, topic.Topic, topic.Partitions = id, topics.Costs.Name, append(topic.Partitions, part)
		resp.Topics = append(resp.Topics, topic)
		return resp, nil, true
	})
	var err error
	for err == nil {
		_, err = r.Next(t.Context())
	}
	if !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Errorf("got %v", err)
	}
}

func TestNextIsIdleWithoutRecordsAndGoesOnAfterACancelledCall(t *testing.T) {
	p := startKafka(t).partition(0)
	ws := p.workspace(0)
	r := p.read(0)
	v := r.toEnd()
	if b, err := r.Next(t.Context()); err != nil || b.Records != 0 || len(b.Steps) != 0 || !b.CaughtUp || v.Next != 0 {
		t.Errorf("idle: %+v, %v", b, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	p.producer("one").open(ws, "r1", 100)
	want(t, r.toEnd(), ws, 0, "r1")
}

// While brokers are away nothing says where the log ends.
func TestReaderWithoutBrokersIsNotCaughtUp(t *testing.T) {
	p := startKafka(t).partition(0)
	r := p.read(0)
	r.toEnd()
	p.fake.Close()
	for range 2 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		b, err := r.Next(ctx)
		cancel()
		if err != nil || b.CaughtUp {
			t.Errorf("got %+v, %v; want a batch that is not caught up", b, err)
		}
	}
}

func TestErrorOfFromIsReturned(t *testing.T) {
	p := startKafka(t).partition(0)
	o := p.options(0)
	o.From = func(context.Context) (costs.From, error) { return costs.From{}, context.DeadlineExceeded }
	if _, err := costs.New(t.Context(), o); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
