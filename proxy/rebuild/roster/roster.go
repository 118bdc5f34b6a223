// Package roster follows the producers topic: which proxy processes there were, which of them are closed, and the newest round of
// each partition of the costs topic. It is separate because everything that waits for other proxies reads it.
package roster

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

// listTimeout bounds one look at the topic's end, retry is the pause after a client that could not be made.
const (
	listTimeout = 10 * time.Second
	retry       = time.Second
)

// RoundKey is the key of the announcement of a partition's newest round. It stands here before the round stands in the partition, so that
// whoever has read this topic behind its own start knows of every round that precedes it there.
func RoundKey(partition int32) string { return fmt.Sprintf("round/%d", partition) }

// Roster is the view of the topic. Its Run has to run.
type Roster struct {
	kafka broker.Config
	log   *slog.Logger

	// mu guards what follows.
	mu     sync.Mutex
	open   map[string]*rateguardv1.ProducerStatus
	closed map[string]time.Time
	// closing are those that somebody began to close, closed or not.
	closing map[string]time.Time
	rounds  map[int32]uint64
	// next is the offset that is read next, by partition.
	next map[int32]int64
	// changed is closed and replaced with each record.
	changed chan struct{}
}

// New returns an empty roster.
func New(kafka broker.Config, log *slog.Logger) *Roster {
	return &Roster{
		kafka: kafka, log: log, open: make(map[string]*rateguardv1.ProducerStatus), closed: make(map[string]time.Time), closing: make(map[string]time.Time),
		rounds: make(map[int32]uint64), next: make(map[int32]int64), changed: make(chan struct{}),
	}
}

// Run reads the topic from its start until ctx ends.
func (r *Roster) Run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.follow(ctx); err != nil && ctx.Err() == nil {
			r.log.Error("reading producers", slog.Any("error", err))
			select {
			case <-ctx.Done():
			case <-time.After(retry):
			}
		}
	}
}

func (r *Roster) follow(ctx context.Context) error {
	cl, err := r.client(
		kgo.ConsumeTopics(topics.Producers.Name),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.KeepControlRecords(),
	)
	if err != nil {
		return err
	}
	defer cl.Close()
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		fetches.EachRecord(r.Apply)
	}
}

func (r *Roster) client(more ...kgo.Opt) (*kgo.Client, error) {
	opts, err := r.kafka.Options()
	if err != nil {
		return nil, fmt.Errorf("reading Kafka settings: %w", err)
	}
	cl, err := kgo.NewClient(append(opts, more...)...)
	if err != nil {
		return nil, fmt.Errorf("making Kafka client: %w", err)
	}
	return cl, nil
}

// Apply takes the next record of a partition of the topic. Run does that.
func (r *Roster) Apply(rec *kgo.Record) {
	e, err := envelope.Decode(rec.Value)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next[rec.Partition] = rec.Offset + 1
	if err == nil { // else a tombstone, or written by a newer release that also closes it
		switch b := e.GetBody().(type) {
		case *rateguardv1.Event_ProducerStatus:
			r.noteStatus(b.ProducerStatus)
		case *rateguardv1.Event_Round:
			r.rounds[b.Round.GetPartition()] = max(r.rounds[b.Round.GetPartition()], b.Round.GetN())
		}
	}
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *Roster) noteStatus(s *rateguardv1.ProducerStatus) {
	id := s.GetProducerId()
	if us := max(s.GetClosingAtUnixUs(), s.GetClosedAtUnixUs()); us > 0 {
		r.closing[id] = time.UnixMicro(us)
	}
	if s.GetClosedAtUnixUs() == 0 {
		if _, closed := r.closed[id]; closed {
			return
		}
		if lost := r.open[id].GetDeclaredLostAtUnixUs(); lost != 0 && s.GetDeclaredLostAtUnixUs() == 0 {
			s.DeclaredLostAtUnixUs = lost // whoever wrote this had not heard of it
		}
		r.open[id] = s
		return
	}
	delete(r.open, id)
	r.closed[id] = time.UnixMicro(s.GetClosedAtUnixUs())
}

// Open returns the producers that are not closed, in the order of their ids.
func (r *Roster) Open() []*rateguardv1.ProducerStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*rateguardv1.ProducerStatus, 0, len(r.open))
	for _, id := range slices.Sorted(maps.Keys(r.open)) {
		out = append(out, r.open[id])
	}
	return out
}

// Closed reports whether a producer is closed: what it left is ended in the log.
func (r *Roster) Closed(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, closed := r.closed[id]
	return closed
}

// LostAt returns when an operator declared a producer lost that is not closed, in µs; 0: nobody did.
func (r *Roster) LostAt(id string) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open[id].GetDeclaredLostAtUnixUs()
}

// Retired reports whether somebody began to close a producer: it must admit nothing more.
func (r *Roster) Retired(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, retired := r.closing[id]
	return retired
}

// RetiredSince returns the producers that somebody began to close after an instant.
func (r *Roster) RetiredSince(t time.Time) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for id, at := range r.closing {
		if at.After(t) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// Rounds returns the newest round of each partition that had one.
func (r *Roster) Rounds() map[int32]uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.rounds)
}

// Changed is closed when the roster is no more what it was at the call.
func (r *Roster) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Sync returns once everything that stood in the topic at the call is read.
func (r *Roster) Sync(ctx context.Context) error {
	cl, err := r.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	lctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	ends, err := kadm.NewClient(cl).ListEndOffsets(lctx, topics.Producers.Name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("listing the ends of the producers topic: %w", err)
	}
	for {
		changed := r.Changed()
		if r.reached(ends) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("reading producers: %w", context.Cause(ctx))
		}
	}
}

func (r *Roster) reached(ends kadm.ListedOffsets) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	reached := true
	ends.Each(func(o kadm.ListedOffset) { reached = reached && r.next[o.Partition] >= o.Offset })
	return reached
}
