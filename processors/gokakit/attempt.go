package gokakit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"
	"github.com/lovoo/goka/storage"
	"github.com/twmb/franz-go/pkg/kadm"
	"golang.org/x/sync/errgroup"

	gohash "hash"

	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
	"github.com/rateguard/rateguard/topics/provision"
)

// errTaken means that somebody wrote a stale record behind this process' back: the partition
// is recovered again, which publishes the right value once more before compaction forgets it.
var errTaken = errors.New("a stale record was written to a partition of this process")

// attempt is one life of a group in this process: a processor, a view of the whole table, and what they share.
type attempt struct {
	*Runner
	publisher  *publisher
	partitions int32
	replicas   int
	topicIDs   map[string][]byte
	owned      *merger // of the processor's partitions
	processor  *goka.Processor
	view       *goka.View
	taken      chan struct{}

	mu        sync.Mutex // guards what follows
	assigned  map[int32]bool
	tables    map[int32]*mapStorage // what the view has read, by partition
	recovered map[int32]bool        // partitions that the view has read to their end
}

func newAttempt(ctx context.Context, r *Runner) (*attempt, error) {
	p, err := newPublisher(r.settings, r.graph.Name)
	if err != nil {
		return nil, err
	}
	a := &attempt{
		Runner: r, publisher: p, topicIDs: map[string][]byte{}, taken: make(chan struct{}, 1), assigned: map[int32]bool{},
		tables: map[int32]*mapStorage{}, recovered: map[int32]bool{},
	}
	a.owned = &merger{onRefused: func(partition int32, key string) {
		r.metrics.refused.Inc()
		r.log.Warn("stale table record refused", slog.Int("partition", int(partition)), slog.String("key", key))
	}}
	if err := errors.Join(a.inspect(ctx), selfTest(newHasher, a.partitions)); err != nil {
		p.close()
		return nil, err
	}
	if err := a.build(ctx); err != nil {
		p.close()
		return nil, err
	}
	return a, nil
}

// inspect reads from the cluster what the group rests on. Nothing is created: topics are provisioned before.
func (a *attempt) inspect(ctx context.Context) error {
	client := kadm.NewClient(a.publisher.client)
	n, err := provision.Shards(ctx, client)
	if err != nil {
		return err
	}
	a.partitions = n
	names := []string{a.graph.Input.Name, a.graph.Table.Name}
	for _, t := range a.graph.Clocks {
		names = append(names, t.Name)
	}
	if len(a.graph.Outputs) > 0 {
		names = append(names, a.graph.Loop.Name)
	}
	details, err := client.ListTopics(ctx, names...)
	if err != nil {
		return fmt.Errorf("describing topics of group %s: %w", a.graph.Name, err)
	}
	for _, name := range names {
		d := details[name]
		if d.Err != nil {
			return fmt.Errorf("describing topic %s: %w", name, d.Err)
		}
		a.topicIDs[name] = d.ID[:]
	}
	a.replicas = details[a.graph.Table.Name].Partitions.NumReplicas()
	return nil
}

func (a *attempt) build(ctx context.Context) error {
	view := &merger{onRefused: func(partition int32, _ string) {
		if a.viewRecovered() && a.owns(partition) {
			select {
			case a.taken <- struct{}{}:
			default:
			}
		}
	}}
	seeds := a.settings.Kafka.Seeds()
	var err error
	a.view, err = goka.NewView(seeds, goka.Table(a.graph.Table.Name), valueCodec{},
		goka.WithViewHasher(newHasher),
		goka.WithViewCallback(view.Update),
		goka.WithViewClientID("rateguard-view"),
		goka.WithViewLogger(gokaLog{a.log}),
		goka.WithViewStorageBuilder(a.newViewStorage),
		goka.WithViewConsumerSaramaBuilder(a.newConsumer),
		goka.WithViewTopicManagerBuilder(a.newTopicManager))
	if err != nil {
		return fmt.Errorf("building the view of %s: %w", a.graph.Table.Name, err)
	}
	a.processor, err = goka.NewProcessor(seeds, a.define(ctx),
		goka.WithHasher(newHasher),
		goka.WithUpdateCallback(a.owned.Update),
		goka.WithClientID("rateguard-processor"),
		goka.WithLogger(gokaLog{a.log}),
		goka.WithStorageBuilder(a.newStorage(ctx)),
		goka.WithConsumerGroupBuilder(a.newGroup),
		goka.WithConsumerSaramaBuilder(a.newConsumer),
		goka.WithProducerBuilder(a.newProducer),
		goka.WithTopicManagerBuilder(a.newTopicManager),
		goka.WithRebalanceCallback(a.rebalanced))
	if err != nil {
		return fmt.Errorf("building the processor of group %s: %w", a.graph.Name, err)
	}
	return nil
}

func (a *attempt) define(ctx context.Context) *goka.GroupGraph {
	edges := []goka.Edge{goka.Persist(valueCodec{}), goka.Input(goka.Stream(a.graph.Input.Name), eventCodec{}, a.callback(ctx, counted))}
	for _, t := range a.graph.Clocks {
		edges = append(edges, goka.Input(goka.Stream(t.Name), eventCodec{}, a.callback(ctx, clock)))
	}
	if len(a.graph.Outputs) > 0 {
		edges = append(edges, goka.Loop(eventCodec{}, a.callback(ctx, acknowledgement))) // of the name <group>-loop
	}
	return goka.DefineGroup(goka.Group(a.graph.Name), edges...)
}

// callback returns goka's callback of an input: one step, one SetValue.
func (a *attempt) callback(ctx context.Context, kind inputKind) goka.ProcessCallback {
	return func(g goka.Context, message any) {
		in, ok := message.(*record)
		if !ok {
			g.Fail(fmt.Errorf("input of %s: got %T", g.Topic(), message))
			return
		}
		if p := hash.Partition([]byte(g.Key()), a.partitions); p != g.Partition() {
			// Its state is on another partition, of another process perhaps: it cannot be counted here.
			a.bury(ctx, g, in, fmt.Errorf("key belongs to partition %d", p))
			return
		}
		held, _ := g.Value().(*rateguardv1.TableValue)
		at := position{topicID: a.topicIDs[string(g.Topic())], partition: g.Partition(), offset: g.Offset(), kind: kind}
		next, what, notes := step(a.graph, held, at, g.Key(), in)
		if in.err != nil { // also when repeated: the first time may have failed before it was durable
			a.bury(ctx, g, in, in.err)
		}
		a.metrics.inputs.WithLabelValues(string(what)).Inc()
		for _, n := range notes {
			a.metrics.notes.WithLabelValues(n.Kind).Inc()
			a.log.Warn("fold note", slog.String("kind", n.Kind), slog.String("detail", n.Detail), slog.String("workspace", g.Key()))
		}
		if next != nil {
			g.SetValue(next)
		}
	}
}

// bury sends an input to the dead letters, and returns once it is there.
func (a *attempt) bury(ctx context.Context, g goka.Context, in *record, cause error) {
	s := source{
		topic: string(g.Topic()), partition: g.Partition(), offset: g.Offset(), key: []byte(g.Key()), value: in.value,
		headers: g.Headers(), unixUS: g.Timestamp().UnixMicro(),
	}
	if err := a.publisher.deadLetter(ctx, s, cause); err != nil {
		g.Fail(err)
	}
	a.metrics.deadLetters.Inc()
	a.log.Error("input sent to the dead letters", slog.String("topic", s.topic), slog.Int("partition", int(s.partition)),
		slog.Int64("offset", s.offset), slog.Any("error", cause))
}

// newStorage returns a builder of empty stores: what a failed or killed life left behind may never have reached the topic.
func (a *attempt) newStorage(ctx context.Context) storage.Builder {
	return func(table string, partition int32) (storage.Storage, error) {
		a.owned.take(partition)
		var s *mapStorage
		s = newMapStorage(func() error {
			winners := map[string][]byte{}
			for _, key := range a.owned.take(partition) {
				value, err := s.Get(key)
				if err != nil {
					return err
				}
				winners[key] = value
			}
			return a.publisher.republish(ctx, table, winners)
		})
		return s, nil
	}
}

// newViewStorage keeps hold of the view's stores: reading through goka's View races with its closing.
func (a *attempt) newViewStorage(_ string, partition int32) (storage.Storage, error) {
	s := newMapStorage(func() error {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.recovered[partition] = true
		return nil
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tables[partition] = s
	return s, nil
}

// viewRecovered reports whether every partition of the table has been read to its end.
func (a *attempt) viewRecovered() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.recovered) == int(a.partitions)
}

// get returns the state of a key as the view has it; nil without one.
func (a *attempt) get(key string) ([]byte, error) {
	a.mu.Lock()
	s := a.tables[hash.Partition([]byte(key), a.partitions)]
	a.mu.Unlock()
	value, err := s.Get(key)
	if err != nil || value == nil {
		return nil, err
	}
	v, err := fold.DecodeValue(value)
	return v.GetState(), err
}

func (a *attempt) newGroup(brokers []string, name, clientID string) (sarama.ConsumerGroup, error) {
	c, err := a.settings.sarama()
	if err != nil {
		return nil, err
	}
	c.ClientID = clientID
	inner, err := sarama.NewConsumerGroup(brokers, name, c)
	if err != nil {
		return nil, fmt.Errorf("joining group %s: %w", name, err)
	}
	return newConsumerGroup(inner, a.log), nil
}

func (a *attempt) newConsumer(brokers []string, clientID string) (sarama.Consumer, error) {
	c, err := a.settings.sarama()
	if err != nil {
		return nil, err
	}
	return goka.SaramaConsumerBuilderWithConfig(c)(brokers, clientID)
}

func (a *attempt) newProducer(brokers []string, clientID string, hasher func() gohash.Hash32) (goka.Producer, error) {
	c, err := a.settings.sarama()
	if err != nil {
		return nil, err
	}
	c.Producer.MaxMessageBytes = int(topics.SpendTable.MaxMessageBytes)
	return goka.ProducerBuilderWithConfig(c)(brokers, clientID, hasher)
}

func (a *attempt) newTopicManager(brokers []string) (goka.TopicManager, error) {
	c, err := a.settings.sarama()
	if err != nil {
		return nil, err
	}
	t := goka.NewTopicManagerConfig()
	t.NoCreate = true
	t.MismatchBehavior = goka.TMConfigMismatchBehaviorFail
	t.Table.Replication = a.replicas
	t.Stream.Replication, t.Stream.Retention = a.replicas, a.graph.Loop.Retention
	return goka.TopicManagerBuilderWithConfig(c, t)(brokers)
}

func (a *attempt) rebalanced(assignment goka.Assignment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.assigned)
	for p := range assignment {
		a.assigned[p] = true
	}
	a.log.Info("partitions assigned", slog.Int("count", len(assignment)))
}

func (a *attempt) owns(partition int32) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.assigned[partition]
}

// run returns when the processor or the view ends, for whatever reason, and the other has ended too.
func (a *attempt) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	ended := errors.New("ended without an error")
	first := func(err error) error {
		if err == nil {
			return ended
		}
		return err
	}
	g.Go(func() error { return first(a.processor.Run(ctx)) })
	g.Go(func() error { return first(a.view.Run(ctx)) })
	g.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case <-a.taken:
			return errTaken
		}
	})
	return g.Wait()
}
