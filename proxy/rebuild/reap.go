package rebuild

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// watch is what the reaper saw of one producer's heartbeat.
type watch struct {
	seen string
	// since is when seen had this value for the first time, by our own monotonic clock.
	since time.Time
}

// reap closes producers whose heartbeat stands still, until the context ends.
func (r *Rebuilder) reap(ctx context.Context) {
	watches := make(map[string]watch)
	for sleep(ctx, r.cfg.ReapEvery) {
		holds, err := r.redis.Elect(ctx, lua.Reaper, r.cfg.Spool.ProducerID(), r.cfg.GoneAfter/2)
		if err != nil || !holds {
			// Without Redis nobody's heartbeat can be seen, and after it everybody's would look old: begin again.
			clear(watches)
			continue
		}
		candidates := r.candidates()
		gone, err := r.gone(ctx, candidates, watches)
		if err != nil {
			clear(watches)
			continue
		}
		gone = append(gone, slices.DeleteFunc(candidates, func(s *rateguardv1.ProducerStatus) bool {
			return s.GetDeclaredLostAtUnixUs() == 0 || slices.Contains(gone, s)
		})...)
		for _, status := range gone {
			if err := r.reapOne(ctx, status); err != nil && ctx.Err() == nil {
				r.met.failures.Inc()
				r.log.Error("closing gone producer", slog.String("producer_id", status.GetProducerId()), slog.Any("error", err))
			}
		}
	}
}

// reapOne closes a producer, without patience: the others that are gone wait behind it, and among them may be those that budgets wait for.
func (r *Rebuilder) reapOne(ctx context.Context, status *rateguardv1.ProducerStatus) error {
	if !r.roster.Retired(status.GetProducerId()) { // else it was said before
		r.log.Warn("closing a producer that is gone", slog.String("producer_id", status.GetProducerId()), slog.String("host", status.GetHost()))
	}
	if err := r.redis.Fence(ctx, status.GetProducerId(), r.cfg.Spool.ProducerID()); err != nil {
		return err
	}
	return r.close(ctx, gone{status: status})
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
func (r *Rebuilder) candidates() []*rateguardv1.ProducerStatus {
	held := append(r.cfg.Spool.Predecessors(), r.cfg.Spool.ProducerID())
	return slices.DeleteFunc(r.roster.Open(), func(s *rateguardv1.ProducerStatus) bool { return slices.Contains(held, s.GetProducerId()) })
}

// watchSelf retires this producer when the log says that it is closed, also where Redis lost the fence.
func (r *Rebuilder) watchSelf(ctx context.Context) {
	for {
		changed := r.roster.Changed()
		if r.roster.Retired(r.cfg.Spool.ProducerID()) {
			r.retire("log")
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
