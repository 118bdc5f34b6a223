package gokakit

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// outboxReader publishes what the records of a group's table have in their outbox. The order is: publish, acknowledge, commit. A
// crash between two of them publishes again, under the same ids; an entry leaves the table only once it is published. It needs no merge: a stale
// record of a paused process has the same entries under the same ids as the one that supersedes it.
type outboxReader struct {
	*Runner
	client *kgo.Client
	// published are the entries of each key's last record, all of which are published: until the group has taken the acknowledgement,
	// every record of the key carries them again. A key whose last record had none is not here.
	published map[string]map[string]bool
}

func newOutboxReader(r *Runner) (*outboxReader, error) {
	opts, err := r.settings.Kafka.Options()
	if err != nil {
		return nil, err
	}
	start := kgo.NewOffset().AtStart()
	opts = append(opts, kgo.ClientID("rateguard-outbox"), kgo.ConsumerGroup(r.graph.Name+"-outbox"), kgo.ConsumeTopics(r.graph.Table.Name),
		kgo.ConsumeStartOffset(start), kgo.ConsumeResetOffset(start), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(r.settings.Session), kgo.HeartbeatInterval(r.settings.Session/heartbeats), kgo.ProducerLinger(0))
	if r.settings.Instance != "" {
		opts = append(opts, kgo.InstanceID(r.settings.Instance))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("connecting the outbox reader of group %s: %w", r.graph.Name, err)
	}
	return &outboxReader{Runner: r, client: client, published: map[string]map[string]bool{}}, nil
}

// poll takes the next records of the table.
func (o *outboxReader) poll(ctx context.Context) error {
	fetches := o.client.PollFetches(ctx)
	if err := fetches.Err(); err != nil {
		return fmt.Errorf("reading %s: %w", o.graph.Table.Name, err)
	}
	var events, acknowledgements []*kgo.Record
	for _, record := range fetches.Records() {
		entries, ids := o.unpublished(record)
		if len(entries) == 0 {
			continue
		}
		acknowledged, err := o.acknowledgement(record, ids)
		if err != nil {
			return err
		}
		events, acknowledgements = append(events, entries...), append(acknowledgements, acknowledged)
	}
	if err := o.client.ProduceSync(ctx, events...).FirstErr(); err != nil {
		return fmt.Errorf("writing %d events: %w", len(events), err)
	}
	o.metrics.published.Add(float64(len(events)))
	if err := o.client.ProduceSync(ctx, acknowledgements...).FirstErr(); err != nil {
		return fmt.Errorf("acknowledging %d events: %w", len(events), err)
	}
	if err := o.client.CommitUncommittedOffsets(ctx); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return nil
}

// unpublished returns the records and ids of a table record's entries that are not published yet, and counts them as published.
func (o *outboxReader) unpublished(record *kgo.Record) (out []*kgo.Record, ids []string) {
	key := string(record.Key)
	v, err := fold.DecodeValue(record.Value)
	if err != nil {
		o.warn(key, err)
		return nil, nil
	}
	if len(v.GetOutbox()) == 0 {
		delete(o.published, key)
		return nil, nil
	}
	now := make(map[string]bool, len(v.GetOutbox()))
	for _, entry := range v.GetOutbox() {
		if !o.published[key][entry.GetId()] {
			event, err := envelope.Decode(entry.GetEvent())
			if err != nil {
				o.warn(key, err)
				continue
			}
			out, ids = append(out, newRecord(entry.GetTopic(), record.Key, entry.GetEvent(), event)), append(ids, entry.GetId())
		}
		now[entry.GetId()] = true
	}
	o.published[key] = now
	return out, ids
}

// acknowledgement tells the group that entries of a table record are published.
func (o *outboxReader) acknowledgement(record *kgo.Record, ids []string) (*kgo.Record, error) {
	event := &rateguardv1.Event{
		Id: uuid.NewSHA1(outputSpace, []byte(strings.Join(ids, "/"))).String(), WorkspaceId: string(record.Key),
		OccurredAtUnixUs: record.Timestamp.UnixMicro(), Body: &rateguardv1.Event_OutboxAcknowledged{OutboxAcknowledged: &rateguardv1.OutboxAcknowledged{Ids: ids}},
	}
	value, err := envelope.Encode(event)
	if err != nil {
		return nil, err
	}
	return newRecord(o.graph.Loop.Name, record.Key, value, event), nil
}

// newRecord returns the record of an encoded event, with its headers.
func newRecord(topic string, key, value []byte, e *rateguardv1.Event) *kgo.Record {
	r := &kgo.Record{Topic: topic, Key: key, Value: value}
	for _, h := range envelope.Headers(e, "") {
		r.Headers = append(r.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return r
}
