package costs

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/fold"
	"github.com/rateguard/rateguard/topics"
)

// base is where a view begins: the rows of the spend table and the offset of the first record that is read on top of them.
type base struct {
	// rows by key, partition keys too. Each holds the present costs topic up to an offset.
	rows map[string]row
	// start is the first offset that is read, partitions the number of partitions of the topic.
	start      int64
	partitions int32
	// generations are those of From.
	generations map[string]uint64
}

// row is a value of the table: the state of a key at an offset.
type row struct {
	state   []byte
	applied int64
}

// readBase reads the partition of the table once, to its end, and decides where in the log reading begins.
func readBase(ctx context.Context, o Options, connect []kgo.Opt) (*base, error) {
	table, costs := place{topics.SpendTable.Name, o.Partition}, place{topics.Costs.Name, o.Partition}
	client, err := kgo.NewClient(append(connect,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{table.topic: {table.partition: kgo.NewOffset().AtStart()}}),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(),
		kgo.FetchMaxWait(o.Poll),
	)...)
	if err != nil {
		return nil, fmt.Errorf("making Kafka client: %w", err)
	}
	defer client.Close()
	topicID, partitions, err := describe(ctx, client)
	if err != nil {
		return nil, err
	}
	// Before From: a producer that From does not know yet writes its first record behind this end.
	end, err := listOffset(ctx, client, costs, endOffset)
	if err != nil {
		return nil, err
	}
	from, err := o.From(ctx)
	if err != nil {
		return nil, fmt.Errorf("looking where to read costs/%d from: %w", o.Partition, err)
	}
	values, err := readTable(ctx, client, table)
	if err != nil {
		return nil, err
	}
	b := &base{partitions: partitions, generations: from.Generations}
	folded, err := b.take(values, topicID)
	if err != nil {
		return nil, err
	}
	oldest, err := listOffset(ctx, client, costs, startOffset)
	if err != nil {
		return nil, err
	}
	newest, err := listOffset(ctx, client, costs, endOffset)
	if err != nil {
		return nil, err
	}
	switch {
	case folded+1 < oldest:
		return nil, fmt.Errorf("costs/%d begins at offset %d and the spend table ends at %d: what is between is in no sum", o.Partition, oldest, folded)
	case folded+1 > newest:
		return nil, fmt.Errorf("costs/%d ends at offset %d and the spend table at %d: the log has lost records", o.Partition, newest, folded+1)
	}
	// Behind the table every record is needed for the sums; before it only those of producers that may hold something.
	b.start = max(min(from.Offset, end, folded+1), oldest)
	return b, nil
}

// describe returns the id of the costs topic and its number of partitions.
func describe(ctx context.Context, client *kgo.Client) ([]byte, int32, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	details, err := kadm.NewClient(client).ListTopics(ctx, topics.Costs.Name)
	if err != nil {
		return nil, 0, fmt.Errorf("describing topic %s: %w", topics.Costs.Name, err)
	}
	d := details[topics.Costs.Name]
	if d.Err != nil {
		return nil, 0, fmt.Errorf("describing topic %s: %w", topics.Costs.Name, d.Err)
	}
	return d.ID[:], int32(len(d.Partitions)), nil //nolint:gosec // a number of partitions
}

// readTable returns the value of every key at the table's present end.
func readTable(ctx context.Context, client *kgo.Client, at place) (map[string][]byte, error) {
	next, err := listOffset(ctx, client, at, startOffset)
	if err != nil {
		return nil, err
	}
	end, err := listOffset(ctx, client, at, endOffset)
	if err != nil {
		return nil, err
	}
	values := make(map[string][]byte)
	for next < end {
		pctx, cancel := context.WithTimeout(ctx, tablePause)
		fetches := client.PollFetches(pctx)
		cancel()
		for _, f := range fetches.Errors() {
			return nil, fmt.Errorf("reading %s/%d: %w", at.topic, at.partition, f.Err)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			next = rec.Offset + 1
			if key := string(rec.Key); !rec.Attrs.IsControl() && fold.Accept(rec.Value, values[key]) {
				values[key] = rec.Value
			}
		})
	}
	return values, nil
}

// tablePause is how long the table may bring nothing before reading it is given up.
const tablePause = 30 * time.Second

// take keeps the values that are of the present costs topic, and returns the offset up to which the table holds all of it; -1
// for nothing. Processors write one value an input, in the order of the log, so that the largest offset of any key stands
// for all keys. Another generation of the group is a prefix of its own.
func (b *base) take(values map[string][]byte, topicID []byte) (int64, error) {
	b.rows = make(map[string]row)
	folded := make(map[uint32]int64)
	for key, value := range values {
		v, err := fold.DecodeValue(value)
		if err != nil {
			return 0, fmt.Errorf("reading row %q: %w", key, err)
		}
		applied := fold.Applied(v, topicID)
		if applied < 0 {
			continue // of a topic that is no more
		}
		b.rows[key] = row{state: v.GetState(), applied: applied}
		folded[v.GetGeneration()] = max(folded[v.GetGeneration()], applied)
	}
	least := int64(-1)
	for _, offset := range folded {
		if least < 0 || offset < least {
			least = offset
		}
	}
	return least, nil
}
