package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// announceTimeout bounds one attempt to reach Kafka before a producer's first record.
const announceTimeout = 10 * time.Second

// announce makes a producer known before its first record is shipped: the end offsets of the partitions
// are written to its folder, then its status to Kafka. Whoever closes it later scans from there. It
// tries until it succeeds, and returns false when the context ended first.
func (s *Spool) announce(ctx context.Context, f *folder) bool {
	delay := backoffMin
	for !f.meta.Announced {
		err := s.announceOnce(ctx, f)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if delay == backoffMin {
			s.log.Warn("announcing producer, trying on", slog.String("producer_id", f.id), slog.Any("error", err))
		}
		if !sleep(ctx, delay) {
			return false
		}
		delay = min(2*delay, backoffMax/2)
	}
	return ctx.Err() == nil
}

func (s *Spool) announceOnce(ctx context.Context, f *folder) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	cl, err := s.client(s.log)
	if err != nil {
		return err
	}
	defer cl.Close()
	if f.meta.CostsOffsets == nil {
		costs, requests, err := firstOffsets(ctx, cl, f.lost)
		if err != nil {
			return err
		}
		f.meta.CostsOffsets, f.meta.RequestsOffsets = costs, requests
		f.meta.CostsStarted, f.meta.RequestsStarted = costs, requests
		if err := f.saveMeta(); err != nil {
			f.meta.CostsOffsets, f.meta.RequestsOffsets = nil, nil
			return err
		}
	}
	if err := s.produceStatus(ctx, cl, s.status(&f.meta)); err != nil {
		return err
	}
	f.meta.Announced = true
	return f.saveMeta()
}

// firstOffsets returns offsets before which no record of the producer stands: the ends of the partitions while
// nothing of it is shipped, their starts when that is not known.
func firstOffsets(ctx context.Context, cl *kgo.Client, unknown bool) (costs, requests map[int32]int64, err error) {
	list := kadm.NewClient(cl).ListEndOffsets
	if unknown {
		list = kadm.NewClient(cl).ListStartOffsets
	}
	listed, err := list(ctx, topics.Costs.Name, topics.Requests.Name)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("listing offsets: %w", err)
	}
	ends := func(topic string) map[int32]int64 {
		m := make(map[int32]int64)
		for p, o := range listed[topic] {
			m[p] = o.Offset
		}
		return m
	}
	costs, requests = ends(topics.Costs.Name), ends(topics.Requests.Name)
	if len(costs) == 0 || len(requests) == 0 {
		return nil, nil, errors.New("listing offsets: topic without partitions")
	}
	return costs, requests, nil
}

// produceStatus writes a producer's status directly: it has no sequence, and the log it would go
// through waits for it.
func (s *Spool) produceStatus(ctx context.Context, cl *kgo.Client, status *rateguardv1.ProducerStatus) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("minting event id: %w", err)
	}
	e := &rateguardv1.Event{
		Id: id.String(), ProducerId: s.id, OccurredAtUnixUs: time.Now().UnixMicro(),
		Body: &rateguardv1.Event_ProducerStatus{ProducerStatus: status},
	}
	b, err := envelope.Encode(e)
	if err != nil {
		return err
	}
	k := new(kgo.Record)
	fillRecord(k, &stored{topic: []byte(topics.Producers.Name), key: []byte(status.GetProducerId()), value: b, headers: envelope.Headers(e, "")}, e.GetOccurredAtUnixUs())
	if err := cl.ProduceSync(ctx, k).FirstErr(); err != nil {
		return fmt.Errorf("producing producer status: %w", err)
	}
	return nil
}

func (s *Spool) status(m *producerFile) *rateguardv1.ProducerStatus {
	host := s.cfg.Host
	if host == "" {
		host, _ = os.Hostname()
	}
	return &rateguardv1.ProducerStatus{
		ProducerId: m.ProducerID, Host: host, StartedAtUnixUs: m.StartedAtUnixUS, Generation: m.Generation,
		CostsOffsets: m.CostsOffsets, RequestsOffsets: m.RequestsOffsets, CostsStarted: m.CostsStarted, RequestsStarted: m.RequestsStarted,
	}
}

// CostsPartitions returns the number of partitions of the costs topic; call it after Announced.
func (s *Spool) CostsPartitions() int { return s.partitions }

// LastStatus returns what Kafka knows of this producer, and writes no other one from here on: what the caller makes of it stays the last word. Call it
// after Announced.
func (s *Spool) LastStatus() *rateguardv1.ProducerStatus {
	s.statusMu.Lock()
	defer s.statusMu.Unlock()
	s.lastWord = true
	return s.status(&s.own.meta)
}

// appendStarted appends ProducerStarted for every partition of the costs topic and then opens Announced.
// A full disk is waited for: shipping makes room.
func (s *Spool) appendStarted(ctx context.Context) {
	s.partitions = len(s.own.meta.CostsStarted) // before Announced, and never again
	n := int32(s.CostsPartitions())             //nolint:gosec // a number of partitions
	for p := int32(0); p < n; {
		err := s.appendStartedTo(p, n)
		if err == nil {
			p++
			continue
		}
		if errors.Is(err, ErrClosed) {
			return
		}
		s.log.Warn("appending producer started, trying on", slog.Int("partition", int(p)), slog.Any("error", err))
		if !sleep(ctx, backoffMax) {
			return
		}
	}
	close(s.ready)
}

func (s *Spool) appendStartedTo(p, n int32) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("minting event id: %w", err)
	}
	e := &rateguardv1.Event{
		Id: id.String(), OccurredAtUnixUs: time.Now().UnixMicro(),
		Body: &rateguardv1.Event_ProducerStarted{ProducerStarted: &rateguardv1.ProducerStarted{ProducerId: s.id, Partition: p}},
	}
	b, err := envelope.Encode(e)
	if err != nil {
		return err
	}
	return s.Append(Record{Topic: topics.Costs, Key: hash.PartitionKey(p, n), Value: b, Headers: envelope.Headers(e, "")})
}
