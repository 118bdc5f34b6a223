package gokakit_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// T9: a record that cannot be read ends plain goka, and ends it again at every start.
func TestPlainGokaEndsOnPoisonForEver(t *testing.T) {
	c := trapCluster(t)
	graph := func() *goka.GroupGraph {
		return goka.DefineGroup(trapGroup, goka.Input(trapInput, new(codec.Int64), func(goka.Context, any) {}))
	}
	write(t, c, trapInput, "k", "no number")
	for range 2 {
		_, ended, stop := runPlain(t, c, graph())
		if err := <-ended; err == nil {
			t.Error("run ended without an error")
		}
		stop()
	}
	if got := committed(t, c); got > 0 {
		t.Errorf("committed: got %d, want nothing", got)
	}
}

func TestPoisonGoesToTheDeadLettersWhole(t *testing.T) {
	c := kafkatest.Start(t)
	poison := []byte{0xff, 0x00, 0xfe}
	c.Produce(t, topics.Costs, some("ws_1", 3)...)
	for _, r := range []*kgo.Record{
		{Topic: topics.Costs.Name, Key: []byte("ws_1"), Value: poison, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}},
		{Topic: topics.Costs.Name, Key: []byte("ws_1"), Value: nil},
	} {
		if err := c.Client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatalf("writing: %v", err)
		}
	}
	c.Produce(t, topics.Costs, some("ws_1", 3)...)
	r, reg, stop := runKit(t, c, tally())
	waitCount(t, r, "ws_1", 6)
	stop()
	letters := c.Read(t, topics.DeadLetters.Name)
	if len(letters) != 1 {
		t.Fatalf("dead letters: got %d, want 1", len(letters))
	}
	e, err := envelope.Decode(letters[0].Value)
	if err != nil {
		t.Fatalf("reading the dead letter: %v", err)
	}
	d := e.GetDeadLetter()
	if string(d.GetValue()) != string(poison) || string(d.GetKey()) != "ws_1" || string(d.GetHeaders()["h"]) != "v" || d.GetOffset() != 3 || d.GetTopic() != topics.Costs.Name {
		t.Errorf("dead letter: got %v", d)
	}
	if n, err := testutil.GatherAndCount(reg, "rateguard_processors_dead_letters_total"); err != nil || n != 1 {
		t.Errorf("metric: got %d, %v", n, err)
	}
}

// A record on another partition than its key's has its state elsewhere: it is not counted, and not lost.
func TestAMisplacedRecordGoesToTheDeadLetters(t *testing.T) {
	c := kafkatest.Start(t)
	wrong := (hash.Partition([]byte("ws_1"), kafkatest.Partitions) + 1) % kafkatest.Partitions
	value, err := envelope.Encode(some("ws_1", 1)[0])
	if err != nil {
		t.Fatalf("encoding: %v", err)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: topics.Costs.Name, Partition: wrong, Key: []byte("ws_1"), Value: value}).FirstErr(); err != nil {
		t.Fatalf("writing: %v", err)
	}
	c.Produce(t, topics.Costs, some("ws_1", 2)...)
	r, _, stop := runKit(t, c, tally())
	waitCount(t, r, "ws_1", 2)
	kafkatest.Wait(t, patience, "the dead letter", func() error {
		if n := len(c.Read(t, topics.DeadLetters.Name)); n != 1 {
			return fmt.Errorf("%d dead letters", n)
		}
		return nil
	})
	stop()
}

// Ticks have offsets of their own: they must not hide an input from the fold.
func TestTicksMoveNoAppliedOffset(t *testing.T) {
	c := kafkatest.Start(t)
	for p := range int32(kafkatest.Partitions) {
		for range 50 {
			c.Produce(t, topics.Ticks, tick(p))
		}
	}
	r, _, stop := runKit(t, c, tally())
	c.Produce(t, topics.Costs, some("ws_1", 5)...)
	waitCount(t, r, "ws_1", 5)
	stop()
	for _, record := range c.Read(t, topics.SpendTable.Name) {
		v := decode(t, record.Value)
		if hash.IsPartitionKey(string(record.Key)) && len(v.GetApplied()) != 0 {
			t.Error(errors.New("a tick moved an applied offset"))
		}
	}
}
