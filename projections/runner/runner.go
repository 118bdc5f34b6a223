// Package runner moves records of one topic into one projection, each exactly once: it fetches,
// drops repeats, cuts batches, writes them and moves the checkpoint. What a record means is
// the projection's business; how a crash at any step is survived is this package's.
package runner

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kgo"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// Record is one event and its place in the log.
type Record struct {
	Offset int64
	// Workspace is the key of the record.
	Workspace string
	Event     *rateguardv1.Event
	// AfterClose says that the event's producer had been closed in this workspace before this record.
	AfterClose bool
}

// Batch is a run of records of one partition; repeats and control records are gone from it.
type Batch struct {
	Generation string
	TopicID    uuid.UUID
	Partition  int32
	// From and To are the first and the last offset that the batch stands for.
	From, To int64
	Records  []Record
}

// Range names the rows that were made from some offsets of a partition.
type Range struct {
	Generation string
	TopicID    uuid.UUID
	Partition  int32
	From, To   int64
}

// Block is the rows of a batch, ready to be inserted; Rows[i] holds the columns in the target's order.
type Block struct {
	Rows [][]any
	// SHA is the hash of the rows' content in hex: equal batches have equal ones.
	SHA string
}

// NewBlock returns a block of rows, whose values are strings, numbers, times in range and maps of strings.
func NewBlock(rows [][]any) Block {
	h := sha256.New()
	for _, values := range rows {
		b, err := json.Marshal(values) // the keys of maps are sorted
		if err != nil {
			panic("runner: hashing a row: " + err.Error()) //nolint:forbidigo // such values can always be written
		}
		_, _ = h.Write(b) // a hash never fails
	}
	return Block{Rows: rows, SHA: hex.EncodeToString(h.Sum(nil))}
}

// State is what a target shows of itself.
type State struct {
	// Generation is the id that the target carries; empty when it carries none.
	Generation string
	// Missing says that the target does not exist, Empty that it has no rows.
	Missing, Empty bool
}

// Target is where a projection's rows are.
type Target interface {
	// State looks at the target.
	State(ctx context.Context, tx pgx.Tx) (State, error)
	// Reset makes the target an empty one of the generation. What a target outside of PostgreSQL held is kept aside.
	Reset(ctx context.Context, tx pgx.Tx, generation string) error
}

// Transactional is a target in the database of the checkpoints: rows, marks and offset move in one transaction.
type Transactional interface {
	Target
	// Apply writes the rows of a batch and returns their number.
	Apply(ctx context.Context, tx pgx.Tx, b Batch) (int64, error)
}

// Store is a target in another store than the checkpoints. A batch is announced in PostgreSQL, inserted under a token, and then
// acknowledged; what a crash leaves is found by counting.
type Store interface {
	Target
	// Count returns the number of rows that were made from the range.
	Count(ctx context.Context, r Range) (int64, error)
	// Delete removes the rows that were made from the range and returns when they are gone.
	Delete(ctx context.Context, r Range) error
	// Insert writes the rows and returns when they are durable. A second insert with the same token is ignored by the store.
	Insert(ctx context.Context, b Block, token string) error
}

// Ranged is a store of rows that are made from records.
type Ranged interface {
	Store
	// Form makes the rows of a batch; it is pure, so that a batch can be formed again after a crash.
	Form(b Batch) Block
}

// Copied is a store of rows that another projection has made in PostgreSQL, its source. That one only appends, so that rows of a range of
// offsets that it has applied can be read again after a crash.
type Copied interface {
	Store
	// Hold keeps the source from being emptied until the transaction ends.
	Hold(ctx context.Context, tx pgx.Tx) error
	// Read returns the rows of the range, and the last offset that they stand for: that of the range, or an earlier one where there are
	// more rows than most. Zero: all.
	Read(ctx context.Context, tx pgx.Tx, r Range, most int) (b Block, to int64, err error)
}

// Projection is what the runner has to know of a projection.
type Projection struct {
	Name  string
	Topic topics.Topic
	// Check refuses an event that the projection cannot make rows of; such a record goes to the dead letters. It is pure.
	Check func(*rateguardv1.Event) error
	// Span numbers the storage partition (for example the month) of an event, so that a batch stays in few of them; nil: no matter.
	Span func(*rateguardv1.Event) int
	// Source is the projection of the same topic whose rows a Copied target takes; empty for other targets.
	Source string
	// Target is a Transactional, a Ranged or a Copied.
	Target Target
}

// Step is a point of the protocol, for tests that fail there.
type Step string

// The steps, in their order.
const (
	// StepFetched: records are in memory.
	StepFetched Step = "fetched"
	// StepAnnounced: the pending range is recorded (ranged targets).
	StepAnnounced Step = "announced"
	// StepInserted: the rows are in the target (ranged: durable; transactional: not committed).
	StepInserted Step = "inserted"
	// StepAdvanced: the checkpoint has moved.
	StepAdvanced Step = "advanced"
)

// Config is what a Runner works with.
type Config struct {
	Projection Projection
	// PostgresURL is migrated at each start of a session; Pool is open on it.
	PostgresURL string
	Pool        *pgxpool.Pool
	// Migrate brings the schema at PostgresURL up to date.
	Migrate func(ctx context.Context, url string) error
	// Kafka is how to reach the brokers.
	Kafka []kgo.Opt
	// Instance is the stable name of this process in the consumer group: after a crash it gets its partitions back at
	// once. Two processes must not share one. Empty: a dynamic member, whose partitions wait for the session to end.
	Instance string
	// Linger is how long a batch waits for more records (default 150 ms); MaxBatch bounds its records (default 20000).
	Linger   time.Duration
	MaxBatch int
	// AcceptLogLoss continues where a topic was made again or rolled back, instead of stopping: the rows that are there stay, and
	// the new log is read from its start.
	AcceptLogLoss bool
	Log           *slog.Logger
	Metrics       *Metrics
	// Fail, when set, is called after each step; an error ends the session as a crash would. For tests.
	Fail func(Step) error
}

// Defaults of Config and timing of sessions.
const (
	DefaultLinger   = 150 * time.Millisecond
	DefaultMaxBatch = 20_000

	sessionTimeout    = 6 * time.Second
	heartbeatInterval = time.Second
	writeTimeout      = 60 * time.Second
	minBackoff        = 200 * time.Millisecond
	maxBackoff        = 5 * time.Second
	// healthySession is how long a session has to live for the backoff to start anew.
	healthySession = 10 * time.Second
)

// ErrFenced means that another owner has taken the partition or started a new generation.
var ErrFenced = errors.New("fenced by another owner")

// ErrLogLost means that the log is not the one that was applied: its topic was made again or lost its tail.
var ErrLogLost = errors.New("the log is not the one that was applied")

// errNotStarted is the answer of Ready before the first session.
var errNotStarted = errors.New("not started")

// Runner runs one projection.
type Runner struct {
	cfg Config
	log *slog.Logger

	// mu guards ready.
	mu    sync.Mutex
	ready error
}

// New returns a runner; Run starts it.
func New(cfg Config) *Runner {
	if cfg.Linger <= 0 {
		cfg.Linger = DefaultLinger
	}
	if cfg.MaxBatch <= 0 {
		cfg.MaxBatch = DefaultMaxBatch
	}
	if cfg.Fail == nil {
		cfg.Fail = func(Step) error { return nil }
	}
	return &Runner{cfg: cfg, log: cfg.Log.With(slog.String("projection", cfg.Projection.Name)), ready: errNotStarted}
}

// Ready returns nil while a session follows the log, else why not.
func (r *Runner) Ready() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ready != nil {
		return fmt.Errorf("projection %s: %w", r.cfg.Projection.Name, r.ready)
	}
	return nil
}

func (r *Runner) setReady(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ready = err
}

// Run follows the log until ctx ends, and then returns nil. A store or broker that fails ends a
// session, not the runner: the next one starts after a pause and recovers as after a crash.
func (r *Runner) Run(ctx context.Context) error {
	backoff := minBackoff
	for ctx.Err() == nil {
		started := time.Now()
		err := r.life(ctx)
		r.setReady(err)
		if ctx.Err() != nil {
			break
		}
		if time.Since(started) > healthySession {
			backoff = minBackoff
		}
		r.cfg.Metrics.sessionEnded(r.cfg.Projection.Name, err)
		r.log.Error("session ended; starting another", slog.Any("error", err), slog.Duration("pause", backoff))
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
	r.setReady(errNotStarted)
	return nil //nolint:nilerr // the last session ended because it was told to
}

// life is one session, as the target needs it.
func (r *Runner) life(ctx context.Context) error {
	if t, ok := r.cfg.Projection.Target.(Copied); ok {
		return r.copy(ctx, t)
	}
	return r.session(ctx)
}
