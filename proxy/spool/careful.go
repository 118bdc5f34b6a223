package spool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

const quarantineName = "quarantine.jsonl"

// quarantinedRecord is a line of the quarantine file: everything needed to send the record by hand.
type quarantinedRecord struct {
	Time       time.Time         `json:"time"`
	ProducerID string            `json:"producer_id"`
	Topic      string            `json:"topic"`
	Key        string            `json:"key"`
	Sequence   uint64            `json:"sequence"`
	Reason     string            `json:"reason"`
	Headers    map[string][]byte `json:"headers,omitempty"`
	Value      []byte            `json:"value"`
}

// sendCarefully sends the records of a frame one by one, so that the one that is refused is known and
// its neighbours in a batch are not blamed. It is quarantined, and Skipped goes in its place.
func (sh *shipper) sendCarefully(ctx context.Context, cl *kgo.Client, f *frame) error {
	records, err := f.decode()
	if err != nil {
		return err
	}
	fl := sh.f.launch(f, 1)
	for i := range records {
		var k kgo.Record
		at := sh.stamp(f.at)
		fillRecord(&k, &records[i], at)
		err := cl.ProduceSync(ctx, &k).FirstErr()
		if errors.Is(err, kerr.InvalidTimestamp) {
			// It is no record to lose: it goes with the time of now, and where the broker does not take that either, one of
			// the two clocks is wrong and the next session tries on.
			sh.noteMistimed(at)
			err = sh.sendNow(ctx, &records[i])
		}
		if refused(err) {
			err = sh.skip(ctx, &records[i], f.at, err)
		}
		if err != nil {
			return fmt.Errorf("producing one by one: %w", err)
		}
	}
	fl.left.Store(0)
	sh.f.landed(fl)
	return nil
}

// sendNow sends a record with the time of now.
func (sh *shipper) sendNow(ctx context.Context, r *stored) error {
	k := new(kgo.Record)
	fillRecord(k, r, time.Now().UnixMicro())
	return sh.sendApart(ctx, k)
}

// sendApart sends a record through a client of its own: after a refusal the broker waits for the number that the refused batch had.
func (sh *shipper) sendApart(ctx context.Context, k *kgo.Record) error {
	cl, err := sh.s.client(sh.s.log, kgo.ProducerBatchMaxBytes(largeBatch), kgo.MaxBufferedBytes(2*largeBatch), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	if err != nil {
		return err
	}
	defer cl.Close()
	return cl.ProduceSync(ctx, k).FirstErr()
}

// sendLarge sends a frame of large records behind everything before it, through a client that takes them.
func (sh *shipper) sendLarge(ctx context.Context, f *frame) error {
	if err := sh.f.waitLanded(ctx); err != nil {
		return err
	}
	cl, err := sh.s.client(sh.s.log, kgo.ProducerBatchMaxBytes(largeBatch), kgo.MaxBufferedBytes(2*largeBatch), kgo.ProducerBatchCompression(kgo.ZstdCompression()))
	if err != nil {
		return err
	}
	defer cl.Close()
	return sh.sendCarefully(ctx, cl, f)
}

// skip quarantines a record and sends it without its tags, or tells its consumers that its number stays empty. The order matters: the
// record is safe on disk before anybody stops waiting for it; a crash in between only repeats both.
func (sh *shipper) skip(ctx context.Context, r *stored, at int64, cause error) error {
	if r.sequence > 0 { // others may be repeated: whoever wrote one writes it again
		if err := sh.s.quarantine(sh.f.id, r, cause); err != nil {
			return err
		}
	}
	sh.s.met.quarantined.Inc()
	sh.s.met.quarantinedCount.Add(1)
	sh.s.log.Error("record refused by the broker, quarantined", slog.String("topic", string(r.topic)), slog.String("key", string(r.key)),
		slog.String("producer_id", sh.f.id), slog.Uint64("sequence", r.sequence), slog.Int("bytes", len(r.value)), slog.Any("error", cause))
	if t := string(r.topic); r.sequence == 0 || t != topics.Costs.Name && t != topics.Requests.Name {
		return nil // nobody counts
	}
	if l := untagged(r); l != nil {
		k := new(kgo.Record)
		fillRecord(k, l, sh.stamp(at))
		if err := sh.sendApart(ctx, k); !refused(err) {
			return err
		}
	}
	k, err := skippedRecord(sh.f.id, r, at, cause)
	if err != nil {
		return err
	}
	if err := sh.sendApart(ctx, k); err != nil {
		return fmt.Errorf("producing skipped: %w", err)
	}
	return nil
}

// untagged returns a record without what its client says about itself, the one part of an event that a client can make large; nil where it has none. Without an opening in the log what it
// holds would be forgotten with Redis, and its end would take off what nobody had added.
func untagged(r *stored) *stored {
	e, err := envelope.Decode(r.value)
	if err != nil {
		return nil
	}
	var about *rateguardv1.RequestContext
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		about = b.ReservationOpened.GetContext()
	case *rateguardv1.Event_RequestRecorded:
		about = b.RequestRecorded.GetContext()
	}
	if len(about.GetTags()) == 0 {
		return nil
	}
	about.Tags = nil
	l := *r
	if l.value, err = envelope.Encode(e); err != nil {
		return nil
	}
	return &l
}

func skippedRecord(producer string, r *stored, at int64, cause error) (*kgo.Record, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("minting event id: %w", err)
	}
	e := &rateguardv1.Event{
		Id: id.String(), WorkspaceId: string(r.key), OccurredAtUnixUs: at,
		Body: &rateguardv1.Event_Skipped{Skipped: &rateguardv1.Skipped{Sequence: r.sequence, Reason: cause.Error()}},
	}
	b, err := envelope.Encode(e)
	if err != nil {
		return nil, err
	}
	k := new(kgo.Record)
	fillRecord(k, &stored{
		topic: r.topic, key: r.key, headers: envelope.Headers(e, ""),
		value: envelope.AppendSequence(b, producer, r.sequence),
	}, at)
	return k, nil
}

// quarantine keeps the record on disk for an operator.
func (s *Spool) quarantine(producer string, r *stored, cause error) (err error) {
	q := quarantinedRecord{
		Time: time.Now().UTC(), ProducerID: producer, Topic: string(r.topic), Key: string(r.key),
		Sequence: r.sequence, Reason: cause.Error(), Headers: make(map[string][]byte, len(r.headers)), Value: r.value,
	}
	for _, h := range r.headers {
		q.Headers[h.Key] = h.Value
	}
	line, err := json.Marshal(q)
	if err != nil {
		return fmt.Errorf("quarantining record: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(s.cfg.Dir, quarantineName), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("quarantining record: %w", err)
	}
	_, err = f.Write(append(line, '\n'))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("quarantining record: %w", err)
	}
	return nil
}
