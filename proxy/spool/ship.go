package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/topics/hash"
)

const (
	// keepEvery is how often the ship position is saved and shipped segments are removed.
	keepEvery = 200 * time.Millisecond
	// What the client may hold: more waits on disk.
	bufferedRecords = 16 << 10
	bufferedBytes   = 32 << 20
	// largeFrame is what may not fit the client's usual batch of 1 MB. Brokers measure a batch compressed, so
	// that a large record may pass their limit of 1 MiB all the same.
	largeFrame = 900 << 10
	largeBatch = 96 << 20
	backoffMin = 100 * time.Millisecond
	backoffMax = 5 * time.Second
)

// Run ships until the context ends and returns nil then. It waits for Kafka as long as that takes.
func (s *Spool) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.shipOwn(ctx) })
	wg.Go(func() { s.shipPredecessors(ctx) })
	wg.Wait()
	return nil
}

func (s *Spool) shipOwn(ctx context.Context) {
	if !s.announce(ctx, s.own) {
		return
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.appendStarted(ctx) })
	wg.Go(func() { s.raiseWatermark(ctx) })
	r := newReader(s.own.dir, position{segment: 1}, s.log)
	r.lost = func(segment uint64) {
		if segment >= s.own.shippedTo().segment {
			s.lossy.Store(true)
		}
	}
	sh := &shipper{s: s, f: s.own, src: &ownSource{s, r}}
	sh.run(ctx)
}

// shipPredecessors ships the old tails, oldest first, under their own ids and numbers.
func (s *Spool) shipPredecessors(ctx context.Context) {
	for _, f := range s.predecessorFolders() {
		if !s.announce(ctx, f) {
			return
		}
		sh := &shipper{s: s, f: f, src: &tailSource{f, newReader(f.dir, f.shippedTo(), s.log)}}
		sh.run(ctx)
		if ctx.Err() != nil {
			return
		}
		close(f.drained)
	}
}

// shipper sends one log to Kafka in sessions: a session is one client, and ends with the first error that
// the client does not mend by itself. The next one sends again from the ship position.
type shipper struct {
	s   *Spool
	f   *folder
	src source
	// carefulMu guards careful: the position up to which records go one by one, because one before it was refused.
	carefulMu sync.Mutex
	careful   position
	// mistimed is how far a record's time may not be from now, in µs, as the broker's refusals have shown; 0: none refused yet.
	mistimed int64
}

func (sh *shipper) run(ctx context.Context) {
	var wg sync.WaitGroup
	kctx, stop := context.WithCancel(ctx)
	wg.Go(func() { sh.keep(kctx) })
	defer func() {
		stop()
		wg.Wait()
		sh.src.close()
		sh.housekeep()
	}()
	delay := backoffMin
	for {
		before := sh.f.shippedTo()
		err := sh.session(ctx)
		if ctx.Err() != nil || err == nil {
			return
		}
		sh.s.met.sessions.Inc()
		sh.s.log.Error("shipping spool", slog.String("producer_id", sh.f.id), slog.Any("error", err))
		if before != sh.f.shippedTo() {
			delay = backoffMin
		}
		if !sleep(ctx, delay) {
			return
		}
		delay = min(2*delay, backoffMax)
	}
}

// sleep waits and reports false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// keep saves the ship position and removes what is shipped, until the context ends.
func (sh *shipper) keep(ctx context.Context) {
	for sleep(ctx, keepEvery) {
		sh.housekeep()
	}
}

func (sh *shipper) housekeep() {
	err := sh.f.saveCheckpoint()
	freed, rerr := sh.f.removeShipped()
	sh.s.used.Add(-freed)
	if err = errors.Join(err, rerr); err != nil {
		sh.s.log.Warn("keeping spool folder", slog.String("producer_id", sh.f.id), slog.Any("error", err))
	}
}

// client makes a client of the settings that order and exactness need.
func (s *Spool) client(log *slog.Logger, more ...kgo.Opt) (*kgo.Client, error) {
	opts, err := s.cfg.Kafka.Options()
	if err != nil {
		return nil, fmt.Errorf("reading Kafka settings: %w", err)
	}
	opts = append(opts,
		kgo.RequiredAcks(kgo.AllISRAcks()), // idempotent is the client's default
		kgo.RecordPartitioner(kgo.BasicConsistentPartitioner(func(string) func(*kgo.Record, int) int {
			return func(r *kgo.Record, n int) int { return int(hash.Partition(r.Key, int32(n))) } //nolint:gosec // partitions fit 31 bits
		})),
		kgo.ProducerLinger(s.cfg.Linger/8), // only for the partitions to fill evenly: the shipper waits the rest before it takes frames
		kgo.MaxBufferedRecords(bufferedRecords),
		kgo.MaxBufferedBytes(bufferedBytes),
		kgo.UnknownTopicRetries(-1), // a topic that is not provisioned yet, or a broker that has not heard of it, is waited for
		kgo.MetadataMinAge(250*time.Millisecond),
		kgo.RetryBackoffFn(func(tries int) time.Duration {
			return min(backoffMin<<min(tries, 5), backoffMax)
		}),
		kgo.WithLogger(kgoLogger{log}),
	)
	cl, err := kgo.NewClient(append(opts, more...)...)
	if err != nil {
		return nil, fmt.Errorf("making Kafka client: %w", err)
	}
	return cl, nil
}

// session ships until the context ends, an error, or the end of a predecessor's log (nil).
func (sh *shipper) session(ctx context.Context) error {
	cl, err := sh.s.client(sh.s.log)
	if err != nil {
		return err
	}
	sctx, cancel := context.WithCancelCause(ctx)
	defer sh.f.ground() // what Close fails is no longer in the list
	defer cl.Close()
	defer cancel(nil)
	sh.src.reset()
	for {
		frames, err := sh.src.next(sctx)
		if errors.Is(err, errDrained) {
			return sh.f.waitShipped(sctx, sh.f.end)
		}
		if err != nil {
			return err
		}
		for i := range frames {
			switch f := &frames[i]; {
			case len(f.data) > largeFrame:
				err = sh.sendLarge(sctx, f)
			case sh.isSuspect(f.end):
				err = sh.sendCarefully(sctx, cl, f)
			default:
				err = sh.send(sctx, cl, f, cancel)
			}
			if err != nil {
				return err
			}
		}
	}
}

// send hands a frame to the client. The client blocks while its buffers are full; the rest stays on disk.
func (sh *shipper) send(ctx context.Context, cl *kgo.Client, f *frame, fail context.CancelCauseFunc) error {
	records, err := f.decode()
	if err != nil {
		return err
	}
	fl := sh.f.launch(f, len(records))
	promise := func(_ *kgo.Record, err error) {
		if err == nil {
			if fl.left.Add(-1) == 0 {
				sh.f.landed(fl)
			}
			return
		}
		if refused(err) || errors.Is(err, kerr.InvalidTimestamp) { // the whole batch is: which of its records is to blame shows when they go alone
			sh.suspect(fl.end)
		}
		if ctx.Err() == nil { // the first error; those of the shutdown follow from it
			fail(fmt.Errorf("producing: %w", err))
		}
	}
	krecs := make([]kgo.Record, len(records))
	for i := range records {
		fillRecord(&krecs[i], &records[i], sh.stamp(f.at))
		cl.Produce(ctx, &krecs[i], promise)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (sh *shipper) suspect(until position) {
	sh.carefulMu.Lock()
	defer sh.carefulMu.Unlock()
	if sh.careful.before(until) {
		sh.careful = until
	}
}

func (sh *shipper) isSuspect(end position) bool {
	sh.carefulMu.Lock()
	defer sh.carefulMu.Unlock()
	return !sh.careful.before(end)
}

// refused reports whether a broker will never take the record (or one of the records of its batch).
func refused(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge) ||
		errors.Is(err, kerr.InvalidRecord) || errors.Is(err, kerr.UnsupportedForMessageFormat)
}

// stamp returns the time that a record goes with: when it was appended, or now where the broker would refuse that.
func (sh *shipper) stamp(at int64) int64 {
	sh.carefulMu.Lock()
	defer sh.carefulMu.Unlock()
	now := time.Now().UnixMicro()
	if sh.mistimed > 0 && max(now-at, at-now) >= sh.mistimed {
		return now
	}
	return at
}

// noteMistimed notes that the broker refused the time of a record.
func (sh *shipper) noteMistimed(at int64) {
	sh.carefulMu.Lock()
	defer sh.carefulMu.Unlock()
	now := time.Now().UnixMicro()
	far := max(now-at, at-now, 1)
	if sh.mistimed == 0 || far < sh.mistimed {
		sh.mistimed = far
	}
}

func fillRecord(k *kgo.Record, r *stored, at int64) {
	k.Topic, k.Key, k.Value = string(r.topic), r.key, r.value
	k.Timestamp = time.UnixMicro(at)
	if len(r.headers) > 0 {
		k.Headers = make([]kgo.RecordHeader, len(r.headers))
		for i, h := range r.headers {
			k.Headers[i] = kgo.RecordHeader{Key: h.Key, Value: h.Value}
		}
	}
}

// kgoLogger passes the client's warnings on; the client's own Info is a running commentary.
type kgoLogger struct{ log *slog.Logger }

func (l kgoLogger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l kgoLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	if level <= kgo.LogLevelWarn {
		l.log.Warn("kafka client", append([]any{"detail", msg}, keyvals...)...)
	}
}
