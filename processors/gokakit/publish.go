package gokakit

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// publisher writes what does not go through goka: dead letters, and winners of a merge.
// Its client is idempotent and never transactional, as a table's writers have to be.
type publisher struct {
	client *kgo.Client
	group  string
}

func newPublisher(s Settings, group string) (*publisher, error) {
	opts, err := s.Kafka.Options()
	if err != nil {
		return nil, err
	}
	opts = append(opts, kgo.ProducerBatchMaxBytes(topics.DeadLetters.MaxMessageBytes), kgo.ProducerLinger(0))
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("connecting the publisher of group %s: %w", group, err)
	}
	return &publisher{client: client, group: group}, nil
}

// deadLetterSpace makes the ids of dead letters: the same input gives the same id, however often it is read.
var deadLetterSpace = uuid.MustParse("6b0a3e0b-6a55-4f0e-8a53-7d4c1c9a2c11")

// source is where a dead letter comes from.
type source struct {
	topic     string
	partition int32
	offset    int64
	key       []byte
	value     []byte
	headers   map[string][]byte
	unixUS    int64
}

// deadLetter writes an input that could not be read or is misplaced, and returns once it is durable.
func (p *publisher) deadLetter(ctx context.Context, s source, cause error) error {
	id := s.topic + "/" + strconv.Itoa(int(s.partition)) + "/" + strconv.FormatInt(s.offset, 10) + "/" + p.group
	e := &rateguardv1.Event{
		Id:               uuid.NewSHA1(deadLetterSpace, []byte(id)).String(),
		OccurredAtUnixUs: s.unixUS,
		Body: &rateguardv1.Event_DeadLetter{DeadLetter: &rateguardv1.DeadLetter{
			Topic: s.topic, Partition: s.partition, Offset: s.offset, Key: s.key, Value: s.value,
			Headers: s.headers, Consumer: p.group, Error: cause.Error(),
		}},
	}
	value, err := envelope.Encode(e)
	if err != nil {
		return fmt.Errorf("encoding a dead letter: %w", err)
	}
	if err := p.client.ProduceSync(ctx, newRecord(topics.DeadLetters.Name, s.key, value, e)).FirstErr(); err != nil {
		return fmt.Errorf("writing a dead letter of %s: %w", id, err)
	}
	return nil
}

// republish writes values to a table again and returns once they are durable. One by one: a
// batch of many could be larger than the table's topic takes, and there are few.
func (p *publisher) republish(ctx context.Context, table string, values map[string][]byte) error {
	for key, value := range values {
		r := &kgo.Record{Topic: table, Key: []byte(key), Value: value}
		if err := p.client.ProduceSync(ctx, r).FirstErr(); err != nil {
			return fmt.Errorf("publishing the winner of %q to %s again: %w", key, table, err)
		}
	}
	return nil
}

func (p *publisher) close() { p.client.Close() }
