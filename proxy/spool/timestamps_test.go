package spool_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/topics"
)

// A broker may bound how far the time of a record is from its own. A proxy with a wrong clock, or one whose spool
// waited long, has such records: they are money, and no time is wrong enough to lose them.
func TestRecordsOfAnotherTimeAreNotLost(t *testing.T) {
	k := startKafka(t)
	cfg := config(t, t.TempDir(), k)
	s := open(t, cfg)
	for i := range 5 {
		id := fmt.Sprintf("r%d", i)
		must(t, failure(s.AppendOpen(opened(t, "ws_1", id, 10))))
		must(t, s.AppendEnd(1, ended(t, "ws_1", id, 5)...))
	}
	limit := time.Now().UnixMilli() + 1
	k.cluster.ControlKey(kmsg.Produce.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
		k.cluster.KeepControl()
		req, ok := r.(*kmsg.ProduceRequest)
		if !ok {
			return nil, nil, false
		}
		resp, old := req.ResponseKind().(*kmsg.ProduceResponse), false
		for _, rt := range req.Topics {
			st := kmsg.NewProduceResponseTopic()
			st.Topic, st.TopicID = rt.Topic, rt.TopicID
			for _, rp := range rt.Partitions {
				var b kmsg.RecordBatch
				if err := b.ReadFrom(rp.Records); err != nil {
					t.Error(err)
				}
				old = old || b.FirstTimestamp < limit
				sp := kmsg.NewProduceResponseTopicPartition()
				sp.Partition, sp.ErrorCode = rp.Partition, kerr.InvalidTimestamp.Code
				st.Partitions = append(st.Partitions, sp)
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, old
	})
	for time.Now().UnixMilli() <= limit { // a millisecond
	}
	run(t, s)
	flush(t, s)
	for topic, want := range map[string]int{topics.Costs.Name: 10, topics.Requests.Name: 5} {
		tp, err := topics.ByName(topic)
		must(t, err)
		if l := consume(t, k.records(tp)); l.missing() != 0 || len(l.applied) != want {
			t.Errorf("%s: %d holes, %d records; want 0, %d", topic, l.missing(), len(l.applied), want)
		}
	}
	if n := s.Stats().Quarantined; n != 0 {
		t.Errorf("%d quarantined, want 0", n)
	}
}
