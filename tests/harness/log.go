package harness

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// ReadLog calls f for each record of topics, from their beginnings to what their ends are at the call; in order within a partition. It returns an error where
// the broker cannot be read until the context ends.
func (s *System) ReadLog(ctx context.Context, f func(*kgo.Record), topics ...string) error {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(s.Config().Kafka.Seeds()...), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(), // they have offsets too: without them the end would never come
	)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	if err := errors.Join(err, ends.Error()); err != nil {
		return fmt.Errorf("reading the ends of the log: %w", err)
	}
	type part struct {
		topic     string
		partition int32
	}
	left := map[part]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[part{o.Topic, o.Partition}] = o.Offset
		}
	})
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			end, reading := left[part{r.Topic, r.Partition}]
			if !reading || r.Offset >= end {
				return
			}
			if r.Offset == end-1 {
				delete(left, part{r.Topic, r.Partition})
			}
			if !r.Attrs.IsControl() {
				f(r)
			}
		})
	}
	return nil
}
