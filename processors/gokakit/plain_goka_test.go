package gokakit_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strconv"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/codec"
	"github.com/lovoo/goka/storage"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

const patience = 30 * time.Second

var quiet = slog.New(slog.DiscardHandler)

// silence is goka's logger for those that run it bare.
type silence struct{}

func (silence) Print(...any)          {}
func (silence) Println(...any)        {}
func (silence) Printf(string, ...any) {}

// Topics of the groups of plain goka that show a trap; they have one partition.
const (
	trapInput  = "trap-input"
	trapOutput = "trap-output"
	trapGroup  = "trap"
	trapTable  = "trap-table"
)

// trapCluster is a broker with the topics of plain goka's groups.
func trapCluster(t *testing.T) *kafkatest.Cluster {
	t.Helper()
	c := kafkatest.StartEmpty(t)
	for _, name := range []string{trapInput, trapOutput, trapTable} {
		if _, err := c.Admin.CreateTopic(t.Context(), 1, 1, nil, name); err != nil {
			t.Fatalf("making %s: %v", name, err)
		}
	}
	return c
}

// plainConfig is goka's configuration as it comes, but for the start offset, so that each test shows one trap only.
func plainConfig() *sarama.Config {
	c := goka.DefaultConfig()
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	return c
}

// runPlain runs a processor of plain goka until it ends or stop is called; ended yields what Run returned.
func runPlain(t *testing.T, c *kafkatest.Cluster, graph *goka.GroupGraph, options ...goka.ProcessorOption) (p *goka.Processor, ended <-chan error, stop func()) {
	t.Helper()
	seeds := c.ListenAddrs()
	options = append([]goka.ProcessorOption{
		goka.WithLogger(silence{}),
		goka.WithConsumerGroupBuilder(goka.ConsumerGroupBuilderWithConfig(plainConfig())),
		goka.WithStorageBuilder(storage.DefaultBuilder(t.TempDir())),
	}, options...)
	p, err := goka.NewProcessor(seeds, graph, options...)
	if err != nil {
		t.Fatalf("building plain goka: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		result <- p.Run(ctx)
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return p, result, stop
}

// write appends values under keys.
func write(t *testing.T, c *kafkatest.Cluster, topic string, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		r := &kgo.Record{Topic: topic, Key: []byte(pairs[i]), Value: []byte(pairs[i+1])}
		if err := c.Client.ProduceSync(t.Context(), r).FirstErr(); err != nil {
			t.Fatalf("writing to %s: %v", topic, err)
		}
	}
}

// committed returns the group's offset of the trap's input; -1 without one.
func committed(t *testing.T, c *kafkatest.Cluster) int64 {
	t.Helper()
	offsets, err := c.Admin.FetchOffsets(t.Context(), trapGroup)
	if err != nil {
		t.Fatalf("fetching offsets: %v", err)
	}
	o, ok := offsets.Lookup(trapInput, 0)
	if !ok {
		return -1
	}
	return o.At
}

// counter is the group that counts inputs by key.
func counter(each func(ctx goka.Context, n int64)) *goka.GroupGraph {
	return goka.DefineGroup(trapGroup, goka.Persist(new(codec.Int64)),
		goka.Input(trapInput, new(codec.String), func(ctx goka.Context, _ any) {
			n, _ := ctx.Value().(int64)
			each(ctx, n)
		}))
}

// tally is a group of ours that counts its inputs: its state is the count in decimal.
func tally() group.Graph {
	return group.Graph{
		Name: topics.SpendGroup, Generation: 1, Input: topics.Costs, Clocks: []topics.Topic{topics.Ticks}, Table: topics.SpendTable,
		Fold: func(state []byte, in group.Input) group.Result {
			if in.Event.GetTick() != nil {
				return group.Result{State: state}
			}
			n, _ := strconv.Atoi(string(state))
			return group.Result{State: []byte(strconv.Itoa(n + 1))}
		},
	}
}

// runKit runs a group of ours until the test ends or stop is called.
func runKit(t *testing.T, c *kafkatest.Cluster, g group.Graph) (r *gokakit.Runner, reg *prometheus.Registry, stop func()) {
	t.Helper()
	reg = prometheus.NewRegistry()
	r, err := gokakit.New(g, gokakit.Settings{Kafka: c.Kafka, Instance: "kit", Session: 2 * time.Second}, quiet, reg)
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	t.Cleanup(stop)
	return r, reg, stop
}

// some returns n events of a workspace.
func some(workspace string, n int) []*rateguardv1.Event {
	var events []*rateguardv1.Event
	for i := range n {
		events = append(events, &rateguardv1.Event{Id: fmt.Sprint(i), WorkspaceId: workspace, Body: &rateguardv1.Event_Round{Round: &rateguardv1.Round{N: uint64(i)}}})
	}
	return events
}

// waitCount waits until a tally shows n for a key.
func waitCount(t *testing.T, r *gokakit.Runner, key string, n int) {
	t.Helper()
	kafkatest.Wait(t, patience, "count of "+key, func() error {
		state, err := r.State(t.Context(), key)
		if err == nil && string(state) != strconv.Itoa(n) {
			err = fmt.Errorf("got %q, want %d", state, n)
		}
		return err
	})
}

var fnv1a = fnv.New32a
