package drift

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/hash"
)

// readPatience bounds one reading of the table to its end.
const readPatience = time.Minute

// table follows the table of spend. It holds the newest value of every key: a state has at most 64 kB, most have one or two.
type table struct {
	client *kgo.Client
	values map[string][]byte
	next   map[int32]int64
	// topicID is that of the costs topic, partitions its number of partitions.
	topicID    []byte
	partitions int32
	// folded is how far a partition of the costs topic is in the table: processors write one value an input, in order, so that the
	// largest offset of any key stands for all keys. By generation.
	folded map[int32]map[uint32]int64
}

func newTable(kafka broker.Config) (*table, error) {
	opts, err := kafka.Options()
	if err != nil {
		return nil, fmt.Errorf("reading Kafka settings: %w", err)
	}
	client, err := kgo.NewClient(append(opts,
		kgo.ClientID("rateguard-control-drift"),
		kgo.ConsumeTopics(topics.SpendTable.Name),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making Kafka client: %w", err)
	}
	return &table{client: client, values: make(map[string][]byte), next: make(map[int32]int64)}, nil
}

// catchUp reads to the end that the table has now.
func (t *table) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	admin := kadm.NewClient(t.client)
	found, err := admin.ListTopics(ctx, topics.Costs.Name)
	if err == nil {
		err = found.Error()
	}
	if err != nil {
		return fmt.Errorf("describing topic %s: %w", topics.Costs.Name, err)
	}
	id := found[topics.Costs.Name].ID
	t.topicID, t.partitions = id[:], int32(len(found[topics.Costs.Name].Partitions)) //nolint:gosec // a number of partitions
	starts, err := admin.ListStartOffsets(ctx, topics.SpendTable.Name)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("listing the starts of the spend table: %w", err)
	}
	ends, err := admin.ListEndOffsets(ctx, topics.SpendTable.Name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("listing the ends of the spend table: %w", err)
	}
	for !t.reached(starts, ends) {
		fetches := t.client.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return fmt.Errorf("reading the spend table: %w", err)
		}
		fetches.EachRecord(t.note)
	}
	return t.progress()
}

func (t *table) reached(starts, ends kadm.ListedOffsets) bool {
	reached := true
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		reached = reached && (end.Offset <= start.Offset || t.next[end.Partition] >= end.Offset)
	})
	return reached
}

func (t *table) note(rec *kgo.Record) {
	t.next[rec.Partition] = rec.Offset + 1
	if key := string(rec.Key); !rec.Attrs.IsControl() && fold.Accept(rec.Value, t.values[key]) {
		t.values[key] = rec.Value
	}
}

func (t *table) progress() error {
	t.folded = make(map[int32]map[uint32]int64)
	for key, value := range t.values {
		v, err := fold.DecodeValue(value)
		if err != nil {
			return fmt.Errorf("reading row %q of the spend table: %w", key, err)
		}
		p := hash.Partition([]byte(key), t.partitions)
		if t.folded[p] == nil {
			t.folded[p] = make(map[uint32]int64)
		}
		if applied := fold.Applied(v, t.topicID); applied >= 0 {
			t.folded[p][v.GetGeneration()] = max(t.folded[p][v.GetGeneration()], applied)
		}
	}
	return nil
}

// row is what the table holds of a workspace: true from its last record up to where its partition is folded.
type row struct {
	state      *rateguardv1.SpendState
	last, upTo int64
}

// row returns the state of a workspace; found is false where the table has none, so that nothing is known.
func (t *table) row(workspace string) (r row, found bool, err error) {
	value, found := t.values[workspace]
	if !found {
		return r, false, nil
	}
	v, err := fold.DecodeValue(value)
	if err != nil {
		return r, false, fmt.Errorf("reading row %q of the spend table: %w", workspace, err)
	}
	if r.last = fold.Applied(v, t.topicID); r.last < 0 {
		return r, false, nil // of a topic that is no more
	}
	if r.state, err = spend.Decode(v.GetState()); err != nil {
		return r, false, err
	}
	r.upTo = t.folded[hash.Partition([]byte(workspace), t.partitions)][v.GetGeneration()]
	return r, true, nil
}

// holds reports whether the row is also what is true at another reader's offset.
func (r row) holds(offset int64) bool { return r.last <= offset && offset <= r.upTo }
