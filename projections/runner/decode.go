package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// entry is a fetched record.
type entry struct {
	offset int64
	time   time.Time
	record Record
	// control says that the record belongs to its partition and to no workspace.
	control bool
	// poison is why the record cannot be applied; raw is kept for the dead letter only.
	poison error
	raw    *kgo.Record
}

// decode reads a record. It never fails: what cannot be applied is marked as poison. The sequence of a poison record that can be
// read is left as a hole, so that it can be applied when it is sent again.
func decode(rec *kgo.Record, check func(*rateguardv1.Event) error) entry {
	e := entry{offset: rec.Offset, time: rec.Timestamp}
	key := string(rec.Key)
	if hash.IsPartitionKey(key) {
		e.control = true
		return e
	}
	event, err := envelope.Decode(rec.Value)
	if err == nil {
		err = plausible(key, event)
	}
	if err == nil {
		e.record = Record{Offset: rec.Offset, Workspace: key, Event: event}
		err = check(event)
	}
	if err != nil {
		e.poison, e.raw = err, rec
	}
	return e
}

func plausible(key string, event *rateguardv1.Event) error {
	switch {
	case key == "":
		return errors.New("record has no key")
	case event.GetWorkspaceId() != "" && event.GetWorkspaceId() != key:
		return fmt.Errorf("event of workspace %q under key %q", event.GetWorkspaceId(), key)
	case event.GetSequence() > math.MaxInt64:
		return fmt.Errorf("sequence %d is out of range", event.GetSequence())
	case event.GetProducerClosed().GetMark() > math.MaxInt64:
		return fmt.Errorf("mark %d is out of range", event.GetProducerClosed().GetMark())
	}
	return nil
}

// fresh returns the records of a batch that have to be applied and takes their sequences into the marks.
func (s *session) fresh(ctx context.Context, p *partition, entries []entry) ([]Record, error) {
	keys := map[markKey]bool{}
	for _, e := range entries {
		event := e.record.Event
		if e.control || event == nil {
			continue
		}
		if id := event.GetProducerId(); id != "" && event.GetSequence() > 0 {
			keys[markKey{e.record.Workspace, id}] = true
		}
		if closed := event.GetProducerClosed(); closed != nil {
			keys[markKey{e.record.Workspace, closed.GetProducerId()}] = true
		}
	}
	if err := p.marks.load(ctx, s.r.cfg.Pool, s.scope, keys); err != nil {
		return nil, err
	}
	records := make([]Record, 0, len(entries))
	for _, e := range entries {
		rec := e.record
		if e.control || rec.Event == nil {
			continue
		}
		if e.poison != nil {
			p.marks.refuse(rec)
			continue
		}
		if s.take(p, &rec) {
			records = append(records, rec)
		}
	}
	return records, nil
}

// take reports whether a record is to be applied, by the marks of its partition.
func (s *session) take(p *partition, rec *Record) bool {
	event := rec.Event
	log := s.r.log.With(slog.String("workspace", rec.Workspace), slog.String("producer", event.GetProducerId()),
		slog.Uint64("sequence", event.GetSequence()), slog.Int64("offset", rec.Offset))
	if event.GetProducerId() != "" && event.GetSequence() > 0 {
		key := markKey{rec.Workspace, event.GetProducerId()}
		mark := p.marks.marks[key]
		rec.AfterClose = mark.Closed
		fresh, skipped := mark.Observe(event.GetSequence())
		if !fresh {
			s.r.cfg.Metrics.repeats.WithLabelValues(s.projection).Inc()
			return false
		}
		p.marks.dirty[key] = true
		if skipped > 0 {
			s.r.cfg.Metrics.missing.WithLabelValues(s.projection).Add(float64(skipped))
			log.Error("records of a producer are missing", slog.Uint64("missing", skipped))
		}
	}
	if skipped := event.GetSkipped(); skipped != nil {
		log.Error("a producer's record was refused by the broker", slog.String("reason", skipped.GetReason()))
		return false
	}
	if closed := event.GetProducerClosed(); closed != nil {
		key := markKey{rec.Workspace, closed.GetProducerId()}
		if !p.marks.marks[key].Close(closed.GetMark()) {
			log.Warn("ignoring the closing of a producer", slog.String("closed_producer", closed.GetProducerId()),
				slog.Uint64("mark", closed.GetMark()))
			return false
		}
		p.marks.dirty[key] = true
	}
	return true
}

// bury sends the poison records of a batch to the dead letters and waits for the broker. It may be
// repeated after a crash; the letter's id is then the same.
func (s *session) bury(ctx context.Context, p *partition, entries []entry) error {
	for _, e := range entries {
		if e.poison == nil {
			continue
		}
		s.r.log.Error("record goes to the dead letters", slog.Int("partition", int(p.partition)), slog.Int64("offset", e.offset),
			slog.Any("error", e.poison))
		s.r.cfg.Metrics.deadLetters.WithLabelValues(s.projection).Inc()
		rec, err := deadLetter(s.projection, s.topicID, e)
		if err != nil {
			return err
		}
		err = s.client.ProduceSync(ctx, rec).FirstErr()
		if errors.Is(err, kerr.MessageTooLarge) {
			// It can never be sent; the record itself stays in its topic, at the logged offset.
			s.r.log.Error("record is too large for the dead letters", slog.Int64("offset", e.offset))
			continue
		}
		if err != nil {
			return fmt.Errorf("writing a dead letter: %w", err)
		}
	}
	return nil
}

func deadLetter(consumer string, topicID uuid.UUID, e entry) (*kgo.Record, error) {
	place := fmt.Sprintf("%s/%s/%d/%d", consumer, topicID, e.raw.Partition, e.offset)
	headers := map[string][]byte{}
	for _, h := range e.raw.Headers {
		headers[h.Key] = h.Value
	}
	event := &rateguardv1.Event{
		Id:               uuid.NewSHA1(topicID, []byte(place)).String(),
		OccurredAtUnixUs: e.time.UnixMicro(),
		Body: &rateguardv1.Event_DeadLetter{DeadLetter: &rateguardv1.DeadLetter{
			Topic: e.raw.Topic, Partition: e.raw.Partition, Offset: e.offset, Key: e.raw.Key, Value: e.raw.Value, Headers: headers,
			Consumer: consumer, Error: e.poison.Error(),
		}},
	}
	value, err := envelope.Encode(event)
	if err != nil {
		return nil, fmt.Errorf("encoding a dead letter: %w", err)
	}
	rec := &kgo.Record{Topic: topics.DeadLetters.Name, Key: e.raw.Key, Value: value}
	for _, h := range envelope.Headers(event, "") {
		rec.Headers = append(rec.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return rec, nil
}
