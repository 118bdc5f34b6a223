package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

// Times of the follower.
const (
	// maxSnapshotAge is the age from which a snapshot is served but not resumed: the topics are read anew.
	maxSnapshotAge = 12 * time.Hour
	// quiet is how long nothing must come before a topic whose last records were compacted away counts as read.
	quiet = 3 * time.Second
	// saveDelay is how long changes are collected before they are saved; saveEvery renews the position of an unchanged view.
	saveDelay = time.Second
	saveEvery = 10 * time.Minute
	// recheck is how often the topics are looked at for being made anew or having more partitions.
	recheck = time.Minute
	// retry is the pause after a session that ended with an error.
	retry = 500 * time.Millisecond
	// patience is how long a start waits for what the topics have beyond the snapshot. Then Kafka is taken to be away, and the snapshot is served as it is.
	patience = 2 * time.Second
)

// ErrNotReady means that neither a snapshot nor Kafka has given the configuration yet.
var ErrNotReady = errors.New("configuration is not read yet")

// errTopicsChanged ends a session whose topics were made anew or have grown.
var errTopicsChanged = errors.New("configuration topics changed")

// Follower keeps a View in step with the topics.
type Follower struct {
	view  *View
	kafka broker.Config
	path  string
	log   *slog.Logger

	ready    atomic.Bool
	rejected prometheus.Counter
	// settled is closed once the topics are read, or patience is over.
	settled  chan struct{}
	once     sync.Once
	progress progress

	// Fields below belong to Run.
	pos        position
	generation uint64
	dirty      bool
	changedAt  time.Time
	savedAt    time.Time
}

// NewFollower returns a follower that keeps its snapshot at path, and loads the one that is there.
func NewFollower(view *View, kafka broker.Config, path string, log *slog.Logger, reg prometheus.Registerer) *Follower {
	f := &Follower{
		view: view, kafka: kafka, path: path, log: log, pos: position{Topics: map[string]topicPosition{}}, settled: make(chan struct{}),
		rejected: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_proxy_config_rejected_total", Help: "Configuration records that could not be read.",
		}),
	}
	reg.MustRegister(f.rejected)
	p, err := view.load(path)
	switch {
	case err == nil:
		f.pos = p
	case !errors.Is(err, os.ErrNotExist):
		log.Error("configuration snapshot is not used", slog.Any("error", err))
	}
	return f
}

// Ready returns nil once the view can be served from.
func (f *Follower) Ready() error {
	if !f.ready.Load() {
		return ErrNotReady
	}
	return nil
}

// Await waits for what was configured before this process started: until the topics are read, or Kafka is taken to be away. What was configured while the last
// process on this folder did not run is not in its snapshot, and a budget of that time must not be passed by. Run has to run.
func (f *Follower) Await(ctx context.Context) {
	select {
	case <-f.settled:
	case <-ctx.Done():
	}
}

// settle ends the wait.
func (f *Follower) settle() { f.once.Do(func() { close(f.settled) }) }

// waitPatiently serves the snapshot, if there is one, where Kafka does not bring what is newer.
func (f *Follower) waitPatiently(ctx context.Context, snapshot time.Time) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-f.settled:
	case <-ctx.Done():
	case <-t.C:
		if !snapshot.IsZero() && f.ready.CompareAndSwap(false, true) {
			f.log.Warn("configuration is served from the snapshot: Kafka does not say what is newer", slog.String("age", time.Since(snapshot).Round(time.Second).String()))
		}
		f.settle()
	}
}

// Run follows the topics until ctx ends. It returns nil; Kafka's troubles are logged and tried again.
func (f *Follower) Run(ctx context.Context) error {
	opts, err := f.kafka.Options()
	if err != nil {
		return fmt.Errorf("following the configuration: %w", err)
	}
	var wait sync.WaitGroup
	defer wait.Wait()
	snapshot := f.pos.At
	wait.Go(func() { f.waitPatiently(ctx, snapshot) })
	var last string
	for ctx.Err() == nil {
		err := f.session(ctx, opts)
		if ctx.Err() != nil {
			break
		}
		// The same trouble is said once, not twice a second.
		if text := err.Error(); text != last && !errors.Is(err, errTopicsChanged) {
			f.log.Warn("configuration topics cannot be followed, trying again", slog.Any("error", err))
			last = text
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry):
		}
	}
	f.persist(true)
	return nil
}

func followed() []string {
	return []string{topics.Keys.Name, topics.Policies.Name, topics.Prices.Name}
}

// reading is the state of one session.
type reading struct {
	ids map[string]kadm.TopicID
	// missing are the offsets to reach before a topic counts as read, by topic and partition.
	missing map[string]map[int32]int64
	// whole are the topics that are read from their start.
	whole map[string]bool
	last  time.Time
	// checked is when the topics were looked at last.
	checked time.Time
}

// session follows the topics with one client.
func (f *Follower) session(ctx context.Context, opts []kgo.Opt) error {
	probe, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer probe.Close()
	r, offsets, err := f.plan(ctx, kadm.NewClient(probe))
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(append(opts[:len(opts):len(opts)],
		kgo.ConsumePartitions(offsets), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(time.Second))...)
	if err != nil {
		return err
	}
	defer client.Close()
	for {
		f.reached(ctx, kadm.NewClient(probe), r)
		if time.Since(r.checked) > recheck {
			if err := f.recheck(ctx, kadm.NewClient(probe), r); err != nil {
				return err
			}
		}
		f.persist(false)
		pollCtx, cancel := context.WithTimeout(ctx, saveDelay)
		fetches := client.PollFetches(pollCtx)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := f.take(fetches, r); err != nil {
			return err
		}
	}
}

// plan decides from where each partition is read.
func (f *Follower) plan(ctx context.Context, adm *kadm.Client) (*reading, map[string]map[int32]kgo.Offset, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	details, err := adm.ListTopics(ctx, followed()...)
	if err != nil {
		return nil, nil, fmt.Errorf("listing configuration topics: %w", err)
	}
	if err := details.Error(); err != nil {
		return nil, nil, fmt.Errorf("listing configuration topics: %w", err)
	}
	ends, err := adm.ListEndOffsets(ctx, followed()...)
	if err != nil {
		return nil, nil, fmt.Errorf("listing offsets of configuration topics: %w", err)
	}
	if err := ends.Error(); err != nil {
		return nil, nil, fmt.Errorf("listing offsets of configuration topics: %w", err)
	}
	f.generation++
	r := &reading{
		ids: map[string]kadm.TopicID{}, missing: map[string]map[int32]int64{}, whole: map[string]bool{},
		last: time.Now(), checked: time.Now(),
	}
	offsets := map[string]map[int32]kgo.Offset{}
	for name, d := range details {
		r.ids[name] = d.ID
		known := f.pos.Topics[name]
		r.whole[name] = known.ID != d.ID.String() || len(known.Next) != len(d.Partitions) || time.Since(f.pos.At) > maxSnapshotAge
		if r.whole[name] {
			known = topicPosition{ID: d.ID.String(), Next: map[int32]int64{}}
		}
		offsets[name], r.missing[name] = map[int32]kgo.Offset{}, map[int32]int64{}
		for p := range d.Partitions {
			offsets[name][p] = kgo.NewOffset().AtStart()
			if !r.whole[name] {
				offsets[name][p] = kgo.NewOffset().At(known.Next[p])
			}
			if end, ok := ends.Lookup(name, p); ok && end.Offset > known.Next[p] {
				r.missing[name][p] = end.Offset
			}
			if _, ok := known.Next[p]; !ok {
				known.Next[p] = 0
			}
		}
		f.pos.Topics[name] = known
	}
	return r, offsets, nil
}

// take applies what was fetched.
func (f *Follower) take(fetches kgo.Fetches, r *reading) error {
	for _, e := range fetches.Errors() {
		if !errors.Is(e.Err, context.DeadlineExceeded) && !errors.Is(e.Err, context.Canceled) {
			return fmt.Errorf("reading %s: %w", e.Topic, e.Err)
		}
	}
	defer func() { f.progress.set(f.pos.Topics[topics.Policies.Name].Next) }()
	fetches.EachRecord(func(rec *kgo.Record) {
		r.last = time.Now()
		changed, err := f.view.Apply(rec.Topic, string(rec.Key), rec.Value, f.generation)
		if err != nil {
			f.rejected.Inc()
			f.log.Error("configuration record is ignored", slog.String("topic", rec.Topic), slog.Int("partition", int(rec.Partition)),
				slog.Int64("offset", rec.Offset), slog.Any("error", err))
		}
		f.pos.Topics[rec.Topic].Next[rec.Partition] = rec.Offset + 1
		if end, ok := r.missing[rec.Topic][rec.Partition]; ok && rec.Offset+1 >= end {
			delete(r.missing[rec.Topic], rec.Partition)
		}
		if changed && !f.dirty {
			f.dirty, f.changedAt = true, time.Now()
		}
	})
	return nil
}

// reached notes topics that are read to the end they had at the session's start.
func (f *Follower) reached(ctx context.Context, adm *kadm.Client, r *reading) {
	if len(r.missing) == 0 {
		return
	}
	left := 0
	for _, missing := range r.missing {
		left += len(missing)
	}
	if left > 0 {
		if time.Since(r.last) < quiet {
			return
		}
		// The last records of a compacted topic may be gone, so that its end is never reached. Silence says so only
		// while the brokers answer.
		ctx, cancel := context.WithTimeout(ctx, quiet)
		defer cancel()
		r.last = time.Now()
		if ends, err := adm.ListEndOffsets(ctx, followed()...); err != nil || ends.Error() != nil {
			return
		}
	}
	for topic := range r.missing {
		if r.whole[topic] {
			f.view.forget(topic, f.generation)
			f.dirty = true
		}
	}
	clear(r.missing)
	f.pos.At = time.Now()
	if f.ready.CompareAndSwap(false, true) {
		f.log.Info("configuration is read")
	}
	f.settle()
}

func (f *Follower) recheck(ctx context.Context, adm *kadm.Client, r *reading) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	r.checked = time.Now()
	details, err := adm.ListTopics(ctx, followed()...)
	if err != nil {
		return fmt.Errorf("listing configuration topics: %w", err)
	}
	for name, d := range details {
		if d.Err == nil && (d.ID != r.ids[name] || len(d.Partitions) != len(f.pos.Topics[name].Next)) {
			return errTopicsChanged
		}
	}
	if len(r.missing) == 0 {
		f.pos.At = time.Now()
	}
	return nil
}

// persist saves the snapshot when it is due; now saves what has changed at once.
func (f *Follower) persist(now bool) {
	if !f.ready.Load() || f.pos.At.IsZero() {
		return
	}
	due := f.dirty && (now || time.Since(f.changedAt) >= saveDelay) || time.Since(f.savedAt) >= saveEvery
	if !due {
		return
	}
	f.savedAt = time.Now()
	if err := f.view.save(f.path, f.pos); err != nil {
		f.log.Error("configuration snapshot is not saved", slog.Any("error", err))
		return
	}
	f.dirty = false
}
