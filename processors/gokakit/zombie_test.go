package gokakit_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// rawCodec hands table values out as they stand.
type rawCodec struct{}

func (rawCodec) Encode(v any) ([]byte, error) { return v.([]byte), nil } //nolint:forcetypeassert // a test's codec
func (rawCodec) Decode(b []byte) (any, error) { return b, nil }

// viewOf returns the state of a key as a view of the spend table shows it.
func viewOf(t *testing.T, c *kafkatest.Cluster, key string, options ...goka.ViewOption) string {
	t.Helper()
	options = append([]goka.ViewOption{
		goka.WithViewHasher(gokakit.NewHasher), goka.WithViewLogger(silence{}),
		goka.WithViewStorageBuilder(storage.MemoryBuilder()),
	}, options...)
	view, err := goka.NewView(c.ListenAddrs(), goka.Table(topics.SpendTable.Name), rawCodec{}, options...)
	if err != nil {
		t.Fatalf("building a view: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- view.Run(ctx) }()
	kafkatest.Wait(t, patience, "the view", func() error {
		if !view.Recovered() {
			return errors.New("not recovered")
		}
		return nil
	})
	raw, err := view.Get(key)
	cancel()
	if err := errors.Join(err, <-done); err != nil {
		t.Fatalf("reading the view: %v", err)
	}
	v := new(rateguardv1.TableValue)
	if err := proto.Unmarshal(raw.([]byte), v); err != nil { //nolint:forcetypeassert // of rawCodec
		t.Fatalf("reading the view: %v", err)
	}
	return string(v.GetState())
}

// T8: a process that was paused past its session writes the state it had.
func TestAStaleRecordDoesNotTakeAKeyBack(t *testing.T) {
	c := kafkatest.Start(t)
	r, _, stop := runKit(t, c, tally())
	c.Produce(t, topics.Costs, some("ws_1", 50)...)
	waitCount(t, r, "ws_1", 50)
	stop()
	var stale *kgo.Record
	for _, record := range c.Read(t, topics.SpendTable.Name) {
		stale = &kgo.Record{Topic: record.Topic, Key: record.Key, Value: record.Value}
		break
	}
	if err := c.Client.ProduceSync(t.Context(), stale).FirstErr(); err != nil {
		t.Fatalf("writing the stale record: %v", err)
	}
	if got := viewOf(t, c, "ws_1"); got != "1" {
		t.Errorf("plain view: got %s, want the stale 1", got)
	}
	if got := viewOf(t, c, "ws_1", goka.WithViewCallback(gokakit.NewMerge())); got != "50" {
		t.Errorf("merging view: got %s, want 50", got)
	}

	r, _, stop = runKit(t, c, tally())
	waitCount(t, r, "ws_1", 50)
	kafkatest.Wait(t, patience, "readiness", r.Ready)
	// The winner is the last record again, so that compaction keeps it and a plain reader sees it.
	if got := viewOf(t, c, "ws_1"); got != "50" {
		t.Errorf("plain view after a start: got %s, want 50", got)
	}

	// And a stale record that comes while the group runs is answered without a restart by hand.
	if err := c.Client.ProduceSync(t.Context(), stale).FirstErr(); err != nil {
		t.Fatalf("writing the stale record: %v", err)
	}
	kafkatest.Wait(t, patience, "the winner to be published again", func() error {
		if got := viewOf(t, c, "ws_1"); got != "50" {
			return fmt.Errorf("plain view: %s", got)
		}
		return nil
	})
	c.Produce(t, topics.Costs, some("ws_1", 50)...)
	waitCount(t, r, "ws_1", 100)
	stop()
}
