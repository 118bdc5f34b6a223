package control

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// tick writes the time into every partition of the ticks topic, at once and then each interval. A tick that cannot be
// written is left out: the next one says more.
func (r *relay) tick(ctx context.Context, client *kgo.Client) error {
	t := time.NewTicker(r.server.cfg.TickInterval)
	defer t.Stop()
	for {
		if err := r.writeTicks(ctx, client); err != nil && ctx.Err() == nil {
			r.server.log.Warn("ticks were not written", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (r *relay) writeTicks(ctx context.Context, client *kgo.Client) error {
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	found, err := kadm.NewClient(client).ListTopics(ctx, topics.Ticks.Name)
	if err == nil {
		err = found.Error()
	}
	if err != nil {
		return fmt.Errorf("asking for the partitions of %s: %w", topics.Ticks.Name, err)
	}
	n := int32(len(found[topics.Ticks.Name].Partitions)) //nolint:gosec // partitions are counted in int32 by Kafka itself
	now := r.server.now().UnixMicro()
	rows := make([]outboxRow, 0, n)
	for p := range n {
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("making an event id: %w", err)
		}
		value, err := envelope.Encode(&rateguardv1.Event{
			Id: id.String(), ProducerId: r.server.producerID, OccurredAtUnixUs: now,
			Body: &rateguardv1.Event_Tick{Tick: &rateguardv1.Tick{Partition: p, TimeUnixUs: now}},
		})
		if err != nil {
			return err
		}
		rows = append(rows, outboxRow{topic: topics.Ticks.Name, key: hash.PartitionKey(p, n), value: value})
	}
	errs, err := produce(ctx, client, rows)
	if err != nil {
		return fmt.Errorf("writing ticks: %w", err)
	}
	for _, err := range errs {
		if err != nil {
			return fmt.Errorf("writing a tick: %w", err)
		}
	}
	return nil
}
