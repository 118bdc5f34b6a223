package runner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/topics"
)

// parallel bounds the partitions that are written at once.
const parallel = 4

// idlePoll is how long a poll waits for the first record before it lets a rebalance through.
const idlePoll = time.Second

// groupPrefix starts the name of each projection's consumer group. The group only shares out the partitions.
const groupPrefix = "rateguard.projections."

// session is one life of a consumer: from joining the group to the first error.
type session struct {
	scope
	r       *Runner
	topicID uuid.UUID
	client  *kgo.Client
	admin   *kadm.Client
	// stop ends the session with a cause; callbacks of the client have no other way to report.
	stop context.CancelCauseFunc

	// mu guards the map parts, not what is in it: a partition belongs to the poll loop between its callbacks.
	mu    sync.Mutex
	parts map[int32]*partition
}

// partition is an owned partition.
type partition struct {
	checkpoint
	marks *markCache
	// buffer holds fetched records that are not applied: at most one poll, or a pending range that is not complete.
	buffer []entry
}

// session runs until ctx ends (nil) or something fails.
func (r *Runner) session(ctx context.Context) error {
	if err := r.cfg.Migrate(ctx, r.cfg.PostgresURL); err != nil {
		return err
	}
	sc, err := r.prepare(ctx, "")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s := &session{scope: sc, r: r, stop: stop, parts: map[int32]*partition{}}
	admin, err := kgo.NewClient(r.cfg.Kafka...)
	if err != nil {
		return fmt.Errorf("opening a Kafka client: %w", err)
	}
	defer admin.Close()
	s.admin = kadm.NewClient(admin)
	if err := s.findTopic(ctx); err != nil {
		return err
	}
	if s.client, err = kgo.NewClient(s.options()...); err != nil {
		return fmt.Errorf("opening a Kafka consumer: %w", err)
	}
	defer s.client.CloseAllowingRebalance()

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.follow(gctx) })
	g.Go(func() error { return s.report(gctx) })
	err = g.Wait()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

func (s *session) options() []kgo.Opt {
	start := kgo.NewOffset().AtStart()
	opts := append([]kgo.Opt{}, s.r.cfg.Kafka...)
	opts = append(opts,
		kgo.ConsumerGroup(groupPrefix+s.projection), kgo.ConsumeTopics(s.topic), kgo.DisableAutoCommit(),
		kgo.ConsumeStartOffset(start), kgo.ConsumeResetOffset(start),
		kgo.SessionTimeout(sessionTimeout), kgo.HeartbeatInterval(heartbeatInterval), kgo.RebalanceTimeout(writeTimeout),
		kgo.BlockRebalanceOnPoll(), kgo.AdjustFetchOffsetsFn(s.claim),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { s.r.setReady(nil) }),
		kgo.OnPartitionsRevoked(s.release), kgo.OnPartitionsLost(s.release),
		kgo.ProducerBatchMaxBytes(topics.DeadLetters.MaxMessageBytes), kgo.FetchMaxWait(idlePoll/2),
	)
	if s.r.cfg.Instance != "" {
		opts = append(opts, kgo.InstanceID(s.r.cfg.Instance))
	}
	return opts
}

// findTopic reads the topic's id and compares it with the one that was applied before.
func (s *session) findTopic(ctx context.Context) error {
	details, err := s.admin.ListTopics(ctx, s.topic)
	if err != nil {
		return fmt.Errorf("looking for topic %s: %w", s.topic, err)
	}
	d := details[s.topic]
	if d.Err != nil {
		return fmt.Errorf("looking for topic %s: %w", s.topic, d.Err)
	}
	s.topicID = uuid.UUID(d.ID)
	var other *uuid.UUID
	err = s.r.cfg.Pool.QueryRow(ctx, `
SELECT (array_agg(topic_id))[1] FROM projection_checkpoints
 WHERE projection = $1 AND generation = $2 AND topic = $3 AND topic_id <> $4 AND next_offset > 0
   AND NOT EXISTS (SELECT 1 FROM projection_checkpoints
        WHERE projection = $1 AND generation = $2 AND topic = $3 AND topic_id = $4)`,
		s.projection, s.generation, s.topic, s.topicID).Scan(&other)
	if err != nil {
		return fmt.Errorf("reading checkpoints of topic %s: %w", s.topic, err)
	}
	if other == nil {
		return nil
	}
	if !s.r.cfg.AcceptLogLoss {
		return fmt.Errorf("topic %s is %s and was %s, it was made again: %w", s.topic, s.topicID, *other, ErrLogLost)
	}
	s.r.log.Error("topic was made again; its records are added to the rows of the old one", slog.String("topic", s.topic))
	return nil
}

// claim takes partitions over: it fences their former owners and says where to fetch from.
func (s *session) claim(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	for id := range offsets[s.topic] {
		p := &partition{checkpoint: checkpoint{scope: s.scope, topicID: s.topicID, partition: id}, marks: newMarkCache()}
		if err := p.claim(ctx, s.r.cfg.Pool); err != nil {
			s.stop(err)
			return nil, err
		}
		if err := s.compare(ctx, p); err != nil {
			s.stop(err)
			return nil, err
		}
		s.mu.Lock()
		s.parts[id] = p
		s.mu.Unlock()
		offsets[s.topic][id] = kgo.NewOffset().At(p.start()).WithEpoch(-1)
	}
	return offsets, nil
}

// compare looks whether the log still has what comes next.
func (s *session) compare(ctx context.Context, p *partition) error {
	starts, err := s.admin.ListStartOffsets(ctx, s.topic)
	if err != nil {
		return fmt.Errorf("reading the start of topic %s: %w", s.topic, err)
	}
	ends, err := s.admin.ListEndOffsets(ctx, s.topic)
	if err != nil {
		return fmt.Errorf("reading the end of topic %s: %w", s.topic, err)
	}
	start, _ := starts.Lookup(s.topic, p.partition)
	end, _ := ends.Lookup(s.topic, p.partition)
	if err := errors.Join(start.Err, end.Err); err != nil {
		return fmt.Errorf("reading the offsets of partition %d: %w", p.partition, err)
	}
	if first := p.start(); first < start.Offset {
		s.r.cfg.Metrics.damaged.WithLabelValues(s.projection).Inc()
		s.r.log.Error("records are no longer in the log", slog.Int("partition", int(p.partition)),
			slog.Int64("from", first), slog.Int64("to", start.Offset-1))
	}
	if p.next <= end.Offset {
		return nil
	}
	if !s.r.cfg.AcceptLogLoss {
		return fmt.Errorf("partition %d ends at %d and %d was applied, it lost its tail: %w", p.partition, end.Offset, p.next, ErrLogLost)
	}
	s.r.log.Error("partition lost its tail; going on at its end", slog.Int("partition", int(p.partition)),
		slog.Int64("applied", p.next), slog.Int64("end", end.Offset))
	return p.rewind(ctx, s.r.cfg.Pool, end.Offset)
}

// release forgets partitions that another process gets. What is buffered of them is not applied and will be fetched by their owner.
func (s *session) release(_ context.Context, _ *kgo.Client, gone map[string][]int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range gone[s.topic] {
		delete(s.parts, id)
	}
}

// follow applies records until ctx ends. A batch that has begun is finished, so that a stop leaves nothing pending.
func (s *session) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		touched, err := s.poll(ctx)
		if err == nil {
			err = s.write(ctx, touched)
		}
		s.client.AllowRebalance()
		if err != nil {
			return err
		}
	}
	return nil
}

// write applies what is buffered of the partitions.
func (s *session) write(ctx context.Context, touched map[int32]*partition) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for _, p := range touched {
		g.Go(func() error { return s.drain(gctx, p) })
	}
	return g.Wait()
}

// poll buffers records until a batch is full or the linger after the first record has passed.
func (s *session) poll(ctx context.Context) (map[int32]*partition, error) {
	touched := map[int32]*partition{}
	idle, stopIdle := context.WithTimeout(ctx, idlePoll)
	defer stopIdle()
	wait := idle
	for n := 0; n < s.r.cfg.MaxBatch; {
		fetches := s.client.PollRecords(wait, s.r.cfg.MaxBatch-n)
		if fetches.IsClientClosed() {
			return nil, errors.New("fetching: the client is closed")
		}
		for _, e := range fetches.Errors() {
			if wait.Err() != nil && errors.Is(e.Err, wait.Err()) {
				continue
			}
			return nil, fmt.Errorf("fetching partition %d: %w", e.Partition, e.Err)
		}
		if n == 0 && fetches.NumRecords() > 0 {
			linger, stopLinger := context.WithTimeout(ctx, s.r.cfg.Linger)
			defer stopLinger()
			wait = linger
		}
		n += fetches.NumRecords()
		s.buffer(fetches, touched)
		if wait.Err() != nil {
			break
		}
	}
	return touched, nil
}

func (s *session) buffer(fetches kgo.Fetches, touched map[int32]*partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fetches.EachPartition(func(f kgo.FetchTopicPartition) {
		p := s.parts[f.Partition]
		if p == nil {
			return
		}
		for _, rec := range f.Records {
			if rec.Offset < p.start() {
				continue
			}
			p.buffer = append(p.buffer, decode(rec, s.r.cfg.Projection.Check))
		}
		touched[f.Partition] = p
	})
}

// report tells how far the owned partitions are, once a second, and looks at the target now and then.
func (s *session) report(ctx context.Context) error {
	ticker := time.NewTicker(heartbeatInterval)
	defer ticker.Stop()
	for looked := time.Now(); ; {
		if time.Since(looked) > lookEvery {
			looked = time.Now()
			if err := s.r.look(ctx, s.scope); err != nil && ctx.Err() == nil {
				return err
			}
		}
		if err := s.reportOnce(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (s *session) reportOnce(ctx context.Context) error {
	at := time.Now()
	ends, err := s.admin.ListEndOffsets(ctx, s.topic)
	if err != nil {
		return fmt.Errorf("reading the end of topic %s: %w", s.topic, err)
	}
	s.mu.Lock()
	seen := make([]observation, 0, len(s.parts))
	for id, p := range s.parts {
		if end, ok := ends.Lookup(s.topic, id); ok && end.Err == nil {
			// The epoch does not change while the partition is owned.
			seen = append(seen, observation{partition: id, epoch: p.epoch, end: end.Offset})
		}
	}
	s.mu.Unlock()
	if len(seen) == 0 {
		return nil
	}
	lag, err := observe(ctx, s.r.cfg.Pool, s.scope, s.topicID, at, seen)
	if err != nil {
		return err
	}
	s.r.cfg.Metrics.lag.WithLabelValues(s.projection).Set(float64(lag))
	return nil
}
