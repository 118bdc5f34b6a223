// Package proof answers from the log alone what a budget was, what stood against it, and whether every grant kept to it. It reads the
// topics from their start and asks no store, because what it proves is that the stores were right. It is separate from the
// projections, which follow the log and could share a mistake with what they feed.
package proof

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/hash"
)

const (
	// patience bounds the reading of the log for one answer: the API's own time to answer is a little more.
	patience = 75 * time.Second
	// listTimeout bounds one question to the brokers.
	listTimeout = 10 * time.Second
)

// Log reads topics from their starts to their present ends.
type Log struct{ kafka broker.Config }

// NewLog returns the log of a cluster; it connects with each reading.
func NewLog(kafka broker.Config) *Log { return &Log{kafka: kafka} }

// Extent is the part of a partition that was read: offsets from From to before To.
type Extent struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	// Complete is false where time ran out before the end.
	Complete bool `json:"complete"`
}

// all stands for every partition of a topic.
const all int32 = -1

// read hands every record that stands in a topic at the call to each, in the order of its partition. Where ctx ends before,
// the extents say how far it came, and the error is that of ctx.
func (l *Log) read(ctx context.Context, topic topics.Topic, partition int32, each func(*kgo.Record)) ([]Extent, error) {
	client, err := l.client()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	extents, err := listExtents(ctx, client, topic.Name, partition)
	if err != nil {
		return nil, err
	}
	from := make(map[int32]kgo.Offset)
	rest := make(map[int32]*Extent)
	for i := range extents {
		e := &extents[i]
		if e.From < e.To {
			from[e.Partition], rest[e.Partition] = kgo.NewOffset().At(e.From), e
		}
		e.Complete = e.From >= e.To
	}
	if len(rest) == 0 {
		return extents, nil
	}
	client.AddConsumePartitions(map[string]map[int32]kgo.Offset{topic.Name: from})
	next := make(map[int32]int64)
	for len(rest) > 0 && err == nil {
		fetches := client.PollFetches(ctx)
		fetches.EachRecord(func(rec *kgo.Record) {
			e := rest[rec.Partition]
			if e == nil || rec.Offset >= e.To {
				return
			}
			if next[rec.Partition] = rec.Offset + 1; !rec.Attrs.IsControl() {
				each(rec)
			}
		})
		for p, e := range rest {
			if next[p] >= e.To {
				e.Complete = true
				delete(rest, p)
				client.PauseFetchPartitions(map[string][]int32{topic.Name: {p}})
			}
		}
		if err = ctx.Err(); err == nil {
			err = fetches.Err()
		}
	}
	if len(rest) == 0 {
		return extents, nil
	}
	for p, e := range rest {
		e.To = max(e.From, next[p])
	}
	return extents, fmt.Errorf("reading %s: %w", topic.Name, err)
}

func (l *Log) client() (*kgo.Client, error) {
	opts, err := l.kafka.Options()
	if err != nil {
		return nil, fmt.Errorf("reading Kafka settings: %w", err)
	}
	client, err := kgo.NewClient(append(opts,
		kgo.ClientID("rateguard-control-proof"),
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(time.Second),
		// What retention takes away while it is read is missing: a proof does not jump over it.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making Kafka client: %w", err)
	}
	return client, nil
}

func listExtents(ctx context.Context, client *kgo.Client, topic string, partition int32) ([]Extent, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	admin := kadm.NewClient(client)
	starts, err := admin.ListStartOffsets(ctx, topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("listing the starts of %s: %w", topic, err)
	}
	ends, err := admin.ListEndOffsets(ctx, topic)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("listing the ends of %s: %w", topic, err)
	}
	var extents []Extent
	ends.Each(func(end kadm.ListedOffset) {
		if partition == all || end.Partition == partition {
			start, _ := starts.Lookup(topic, end.Partition)
			extents = append(extents, Extent{Topic: topic, Partition: end.Partition, From: start.Offset, To: end.Offset})
		}
	})
	slices.SortFunc(extents, func(a, b Extent) int { return cmp.Compare(a.Partition, b.Partition) })
	return extents, nil
}

// partitionOf returns the partition of a workspace in all sharded topics.
func (l *Log) partitionOf(ctx context.Context, workspace string) (int32, error) {
	client, err := l.client()
	if err != nil {
		return 0, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	found, err := kadm.NewClient(client).ListTopics(ctx, topics.Costs.Name)
	if err == nil {
		err = found.Error()
	}
	if err != nil {
		return 0, fmt.Errorf("describing topic %s: %w", topics.Costs.Name, err)
	}
	n := int32(len(found[topics.Costs.Name].Partitions)) //nolint:gosec // a number of partitions
	if n == 0 {
		return 0, fmt.Errorf("describing topic %s: it has no partitions", topics.Costs.Name)
	}
	return hash.Partition([]byte(workspace), n), nil
}

// unavailable is the problem of a log that cannot be read.
func unavailable(err error) error {
	return problem.Unavailable(err, "the log does not answer, or is too long to be read in %s", patience)
}
