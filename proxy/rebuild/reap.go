package rebuild

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// watch is what the reaper saw of one producer's heartbeat.
type watch struct {
	seen string
	// since is when seen had this value for the first time, by our own monotonic clock.
	since time.Time
}

// roster is the view of the producers topic: who is not closed.
type roster struct {
	// mu guards open.
	mu   sync.Mutex
	open map[string]*rateguardv1.ProducerStatus
}

// reap closes producers whose heartbeat stands still, until the context ends.
func (r *Rebuilder) reap(ctx context.Context) {
	ro := &roster{open: make(map[string]*rateguardv1.ProducerStatus)}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { r.follow(ctx, ro) })
	watches := make(map[string]watch)
	for sleep(ctx, r.cfg.ReapEvery) {
		holds, err := r.redis.Elect(ctx, r.cfg.Spool.ProducerID(), r.cfg.GoneAfter/2)
		if err != nil || !holds {
			// Without Redis nobody's heartbeat can be seen, and after it everybody's would look old: begin again.
			clear(watches)
			continue
		}
		gone, err := r.gone(ctx, ro.candidates(r.cfg.Spool.ProducerID(), r.cfg.Spool.Predecessors()), watches)
		if err != nil {
			clear(watches)
			continue
		}
		for _, status := range gone {
			if err := r.reapOne(ctx, status); err != nil && ctx.Err() == nil {
				r.met.failures.Inc()
				r.log.Error("closing gone producer", slog.String("producer_id", status.GetProducerId()), slog.Any("error", err))
			}
		}
	}
}

func (r *Rebuilder) reapOne(ctx context.Context, status *rateguardv1.ProducerStatus) error {
	r.log.Warn("closing a producer that is gone", slog.String("producer_id", status.GetProducerId()),
		slog.String("host", status.GetHost()))
	if err := r.redis.Fence(ctx, status.GetProducerId(), r.cfg.Spool.ProducerID()); err != nil {
		return err
	}
	return r.close(ctx, status, false)
}

// gone returns the candidates whose heartbeat did not change for the whole time. An error means that Redis does
// not answer, which says nothing about anybody.
func (r *Rebuilder) gone(ctx context.Context, candidates []*rateguardv1.ProducerStatus, watches map[string]watch) ([]*rateguardv1.ProducerStatus, error) {
	var gone []*rateguardv1.ProducerStatus
	now := time.Now()
	for _, c := range candidates {
		id := c.GetProducerId()
		seen, err := r.redis.Seen(ctx, id)
		if err != nil {
			return nil, err
		}
		w, known := watches[id]
		if !known || w.seen != seen {
			watches[id] = watch{seen, now}
			continue
		}
		if now.Sub(w.since) >= r.cfg.GoneAfter {
			gone = append(gone, c)
		}
	}
	maps.DeleteFunc(watches, func(id string, _ watch) bool {
		return !slices.ContainsFunc(candidates, func(c *rateguardv1.ProducerStatus) bool { return c.GetProducerId() == id })
	})
	return gone, nil
}

// candidates are all producers that are not closed, but for ourselves and those whose folder we hold.
func (ro *roster) candidates(self string, held []string) []*rateguardv1.ProducerStatus {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	var list []*rateguardv1.ProducerStatus
	for _, id := range sorted(ro.open) {
		if id != self && !slices.Contains(held, id) {
			list = append(list, ro.open[id])
		}
	}
	return list
}

// follow reads the producers topic from its start until the context ends.
func (r *Rebuilder) follow(ctx context.Context, ro *roster) {
	opts, err := r.cfg.Kafka.Options()
	var cl *kgo.Client
	if err == nil {
		cl, err = kgo.NewClient(append(opts,
			kgo.ConsumeTopics(topics.Producers.Name),
			kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		)...)
	}
	if err != nil {
		r.log.Error("reading producers", slog.Any("error", fmt.Errorf("making Kafka client: %w", err)))
		return
	}
	defer cl.Close()
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return
		}
		fetches.EachRecord(func(rec *kgo.Record) { r.note(ro, rec) })
	}
}

func (r *Rebuilder) note(ro *roster, rec *kgo.Record) {
	e, err := envelope.Decode(rec.Value)
	status := e.GetProducerStatus()
	if err != nil || status == nil {
		return // a tombstone, or written by a newer release that also closes it
	}
	id := status.GetProducerId()
	ro.mu.Lock()
	defer ro.mu.Unlock()
	if status.GetClosedAtUnixUs() == 0 {
		ro.open[id] = status
		return
	}
	delete(ro.open, id)
	if id == r.cfg.Spool.ProducerID() {
		r.retire("log") // also where Redis lost the fence
	}
}
