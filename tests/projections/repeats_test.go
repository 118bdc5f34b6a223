package projections_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// A shipper that is killed between the broker's acknowledgement and its own note sends records again: they are in the log at two
// offsets, in one batch or in two, before or after a restart of the projections.
func TestRepeatsAtTwoOffsetsAreDropped(t *testing.T) {
	r, tr := newRig(t), newTraffic(3)
	first := tr.load(60)
	stop := r.start()
	r.send(first...)
	r.send(again(first[:30])...)
	r.caughtUp()
	r.send(again(first)...)
	r.caughtUp()
	stop()
	r.send(again(first)...)
	r.send(tr.load(30)...)
	r.start()
	r.caughtUp()
	r.verify(tr.want)
}

func again(records []*kgo.Record) []*kgo.Record {
	out := make([]*kgo.Record, len(records))
	for i, rec := range records {
		out[i] = &kgo.Record{Topic: rec.Topic, Key: rec.Key, Value: rec.Value}
	}
	return out
}

// A record that never came is a hole; when it comes at last (a dead letter is sent again) it counts, once.
func TestLateRecordFillsItsHoleOnce(t *testing.T) {
	r, tr := newRig(t), newTraffic(4)
	r.start()
	var late []*kgo.Record
	for i := range 20 {
		records := tr.whole(tr.newRequest("ws_1", "producer-1"))
		if i%5 == 2 {
			late = append(late, records...)
			continue
		}
		r.send(records...)
	}
	r.send(late...)
	r.send(again(late)...)
	r.caughtUp()
	r.verify(tr.want)
}

// A record that cannot be read or applied goes to the dead letters with its bytes, and what follows it is applied.
func TestPoisonGoesToTheDeadLetters(t *testing.T) {
	r, tr := newRig(t), newTraffic(5)
	r.start()
	r.send(tr.load(10)...)
	poison := []*kgo.Record{
		{Topic: topics.Requests.Name, Key: []byte("ws_1"), Value: []byte("\xff\xff no event")},
		{Topic: topics.Requests.Name, Key: []byte("ws_1")},
		{Topic: topics.Requests.Name, Value: tr.recorded(tr.newRequest("ws_9", "producer-1")).Value},
		{Topic: topics.Requests.Name, Key: []byte("ws_other"), Value: tr.recorded(tr.newRequest("ws_8", "producer-1")).Value},
		tr.record(topics.Requests, "ws_1", "producer-9", &rateguardv1.Event{Body: &rateguardv1.Event_RequestRecorded{
			RequestRecorded: &rateguardv1.RequestRecorded{RequestId: "no time"},
		}}),
		// The same record is refused by ledger and by balances.
		tr.record(topics.Costs, "ws_1", "producer-9", &rateguardv1.Event{
			OccurredAtUnixUs: epoch.UnixMicro(),
			Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{
				Outcome: tr.newRequest("ws_1", "").outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, -1),
			}},
		}),
	}
	r.send(poison...)
	r.send(tr.load(10)...)
	r.caughtUp()
	r.verify(tr.want)
	r.deadLetters(len(poison) + 1)
}

// deadLetters waits for n dead letters and checks that each holds the bytes of the record that it names.
func (r *rig) deadLetters(n int) {
	r.t.Helper()
	c, err := kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ConsumeTopics(topics.DeadLetters.Name),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		r.t.Fatalf("opening a consumer: %v", err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	seen := map[string]bool{}
	for len(seen) < n {
		fetches := c.PollFetches(ctx)
		if err := ctx.Err(); err != nil {
			r.t.Fatalf("waiting for %d dead letters, got %d: %v", n, len(seen), err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			event, err := envelope.Decode(rec.Value)
			if err != nil {
				r.t.Fatalf("decoding a dead letter: %v", err)
			}
			d := event.GetDeadLetter()
			if d.GetError() == "" || string(d.GetKey()) != string(rec.Key) {
				r.t.Errorf("dead letter %v: no error, or another key than its record", d)
			}
			seen[fmt.Sprint(d.GetConsumer(), d.GetTopic(), d.GetPartition(), d.GetOffset())] = true
		})
	}
	if len(seen) != n {
		r.t.Errorf("dead letters: got %d, want %d", len(seen), n)
	}
}
