// Package spool is the disk log between the proxy and Kafka: what is appended survives a kill -9
// of the process and hours without a broker, and is shipped in order with acks=all.
//
// One process run is one producer. Its id is minted by Open, its folder is locked, and every
// record gets the next number of its (producer, topic, key) inside the append lock, so that the
// order on disk is the order of the numbers. What a dead predecessor left in the folder is shipped
// first to last under its own id and numbers; package rebuild then closes it.
package spool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/topics"
)

// Errors of the appends and of Open.
var (
	// ErrFull means that the spool's limit or the disk has no room: admit nothing more.
	ErrFull = errors.New("spool is full")
	// ErrTooLarge means that the frame or one record of it is above its limit; nothing was written.
	ErrTooLarge = errors.New("record is too large for the spool")
	// ErrClosed means that the spool is closed, or for AppendOpen that its producer was fenced.
	ErrClosed = errors.New("spool is closed")
	// ErrUnsynced means that the frame stands in the log and will be shipped, but that its fsync
	// returned an error (sync mode always only). An opened reservation has to be ended all the same.
	ErrUnsynced = errors.New("spool was not synced")
	// ErrLocked means that another living process holds the folder.
	ErrLocked = errors.New("spool folder is locked by another process")
)

// Record is one Kafka record. Value is an encoded event without producer and sequence: the spool adds both.
type Record struct {
	Topic   topics.Topic
	Key     string
	Value   []byte
	Headers []envelope.Header
	// Unnumbered records get sequence 0: consumers keep no mark for them and have to know repeats by themselves.
	Unnumbered bool
}

// Stats is the state of everything not yet shipped, predecessors included.
type Stats struct {
	// Depth is the number of records, Bytes their size on disk.
	Depth int64
	Bytes int64
	// OldestAge is the time since the oldest of them was appended; 0 when there is none.
	OldestAge time.Duration
	// UnshippedNanoUSD is the cost of the ends among them.
	UnshippedNanoUSD int64
	// DiskBytes is what the segments take on disk, OpenReservations how many ends have room kept for them.
	DiskBytes        int64
	OpenReservations int64
	// WatermarkAge is how far back this producer has to be read: the time since the generation began that was published last.
	WatermarkAge time.Duration
	// Quarantined counts records that a broker refused for good since the start.
	Quarantined int64
}

// Spool is an open spool folder and its producer. It is safe for concurrent use.
type Spool struct {
	cfg  Config
	log  *slog.Logger
	id   string
	lock *os.File
	met  *metrics

	// statusMu guards lastWord, and own.meta once the producer is announced: this process writes no more of its own status.
	statusMu sync.Mutex
	lastWord bool

	// mu is the append lock. It guards everything down to the blank line.
	mu        sync.Mutex
	closed    bool
	fenced    bool
	w         *writer
	sequences map[sequenceKey]*uint64
	open      int64
	ballast   int64
	// generations are those that may have open reservations, and the newest; newest is the last number given. sinceBegan is what was appended
	// since the newest began, in bytes.
	generations []generation
	newest      Generation
	sinceBegan  int64
	queue       []frame
	queued      int64
	// spilled is true while the shipper has to read from disk: the queue is not a continuation of what it has.
	spilled bool

	// used is the size of all segments on disk.
	used  atomic.Int64
	own   *folder
	wake  chan struct{} // capacity 1; one pending wake-up is enough
	sync  *syncer
	ready chan struct{} // closed when the producer is announced in Kafka
	// partitions of the costs topic; written before ready is closed.
	partitions int
	// watermark is when the generation began that was published last, µs; lossy says that a part of the log on disk could not be shipped.
	watermark atomic.Int64
	lossy     atomic.Bool

	// predMu guards preds.
	predMu sync.Mutex
	preds  []*folder
}

// sequenceKey is what a sequence counts for, within one producer.
type sequenceKey struct{ topic, key string }

// Open locks the folder, repairs the tail that a dead predecessor left and mints a new producer.
// It needs no Kafka. It returns ErrLocked while another process holds the folder.
func Open(ctx context.Context, cfg Config) (*Spool, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("opening spool: %w", err)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening spool: %w", err)
	}
	lock, err := lockFolder(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("opening spool: %w", err)
	}
	s, err := openLocked(ctx, cfg, lock)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening spool %s: %w", cfg.Dir, err), lock.Close())
	}
	return s, nil
}

func openLocked(ctx context.Context, cfg Config, lock *os.File) (*Spool, error) {
	preds, err := openPredecessors(ctx, cfg.Dir, cfg.Log)
	if err != nil {
		return nil, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("minting producer id: %w", err)
	}
	own, err := createFolder(cfg.Dir, id.String())
	if err != nil {
		return nil, err
	}
	if err := cfg.Disk.Allocate(filepath.Join(cfg.Dir, ballastName), 0); err != nil {
		return nil, fmt.Errorf("clearing ballast: %w", err)
	}
	s := &Spool{
		cfg: cfg, log: cfg.Log, id: own.id, lock: lock, own: own, preds: preds,
		sequences: make(map[sequenceKey]*uint64),
		wake:      make(chan struct{}, 1), ready: make(chan struct{}),
		generations: []generation{{n: firstGeneration, began: time.Now()}}, newest: firstGeneration,
	}
	s.watermark.Store(own.meta.StartedAtUnixUS)
	for _, p := range preds {
		s.used.Add(p.diskBytes())
	}
	if s.w, err = newWriter(cfg.Disk, own); err != nil {
		return nil, err
	}
	s.used.Add(s.w.offset)
	s.sync = newSyncer(s)
	if s.met, err = newMetrics(s, cfg.Metrics); err != nil {
		return nil, errors.Join(err, s.w.close())
	}
	s.sync.start()
	return s, nil
}

// ProducerID returns the id of this process run.
func (s *Spool) ProducerID() string { return s.id }

// Announced is closed once Kafka knows the producer: its status with the offsets before its first
// record is acknowledged and its ProducerStarted records are appended.
func (s *Spool) Announced() <-chan struct{} { return s.ready }

// Fence retires the producer: from now on AppendOpen returns ErrClosed. Ends are still taken.
func (s *Spool) Fence() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fenced = true
}

// Stats returns the state of what is not yet shipped.
func (s *Spool) Stats() Stats {
	st := Stats{DiskBytes: s.used.Load(), Quarantined: s.met.quarantinedCount.Load()}
	now := time.Now()
	st.WatermarkAge = s.watermarkAge(now)
	for _, f := range append(s.predecessorFolders(), s.own) {
		st.Depth += f.depth.Load()
		st.Bytes += f.pending.Load()
		st.UnshippedNanoUSD += f.nano.Load()
		if at := f.oldest.Load(); f.depth.Load() > 0 && at > 0 {
			st.OldestAge = max(st.OldestAge, now.Sub(time.UnixMicro(at)))
		}
	}
	s.mu.Lock()
	st.OpenReservations = s.open
	s.mu.Unlock()
	return st
}

// Flush waits until everything appended before the call, and everything that predecessors left, is
// shipped. Run has to be running. It returns the context's error when that ends first.
func (s *Spool) Flush(ctx context.Context) error {
	for _, f := range append(s.predecessorFolders(), s.own) {
		if err := f.waitShipped(ctx, s.endOf(f)); err != nil {
			return fmt.Errorf("flushing spool: %w", err)
		}
	}
	return nil
}

// FlushOwn is Flush without the predecessors.
func (s *Spool) FlushOwn(ctx context.Context) error {
	if err := s.own.waitShipped(ctx, s.endOf(s.own)); err != nil {
		return fmt.Errorf("flushing spool: %w", err)
	}
	return nil
}

// endOf returns the position behind the last frame of a folder.
func (s *Spool) endOf(f *folder) position {
	if f != s.own {
		return f.end
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.position()
}

// Close syncs and closes the files and unlocks the folder. Call it after Run has returned.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.sync.stop()
	s.mu.Lock()
	err := s.w.close()
	s.mu.Unlock()
	s.met.unregister()
	err = errors.Join(err, s.own.saveCheckpoint(), s.lock.Close())
	if err != nil {
		return fmt.Errorf("closing spool: %w", err)
	}
	return nil
}
