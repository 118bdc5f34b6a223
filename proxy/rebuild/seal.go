package rebuild

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// Gate is where epochs are given up; *epoch.Gate is one.
type Gate interface {
	Start(partitions int, least map[int32]uint64)
	Seal(partition int32, n uint64, do func() error) (bool, error)
}

// sealRetry is the pause after a seal that the spool did not take.
const sealRetry = 100 * time.Millisecond

// sealKey is a partition and who is sealed in it.
type sealKey struct {
	producer  string
	partition int32
}

// seal opens the gate once this process is known to everybody who starts a round, and answers each round with a seal: its own, and
// those of the predecessors in its folder, whose records are all in the log.
func (r *Rebuilder) seal(ctx context.Context) {
	select {
	case <-r.cfg.Spool.Announced():
	case <-ctx.Done():
		return
	}
	// A round that does not wait for us stands in its partition before our Started, and its announcement before that.
	for delay := sealRetry; ; delay = min(2*delay, 10*time.Second) {
		err := r.cfg.Spool.FlushOwn(ctx)
		if err == nil {
			err = r.roster.Sync(ctx)
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return
		}
		r.log.Warn("reading the rounds of the log, trying on", slog.Any("error", err))
		if !sleep(ctx, delay) {
			return
		}
	}
	partitions := r.cfg.Spool.CostsPartitions()
	r.cfg.Gate.Start(partitions, r.roster.Rounds())
	sealed := make(map[sealKey]uint64)
	for {
		changed := r.roster.Changed()
		again := r.answer(ctx, int32(partitions), sealed) //nolint:gosec // a number of partitions
		var retry <-chan time.Time
		if again {
			retry = time.After(sealRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-r.drained:
		case <-retry:
		}
	}
}

// answer appends the seals that are missing, and reports whether one could not be appended.
func (r *Rebuilder) answer(ctx context.Context, partitions int32, sealed map[sealKey]uint64) (again bool) {
	rounds := r.roster.Rounds()
	for _, p := range slices.Sorted(maps.Keys(rounds)) {
		n := rounds[p]
		own := sealKey{r.cfg.Spool.ProducerID(), p}
		if sealed[own] < n {
			done, err := r.cfg.Gate.Seal(p, n, func() error { return r.appendSeal(own, n, partitions) })
			if err != nil || !done {
				r.log.Warn("sealing an epoch, trying on", slog.Int("partition", int(p)), slog.Any("error", err))
				again = true
				continue
			}
			sealed[own] = n
		}
		for _, id := range r.shipped() {
			old := sealKey{id, p}
			if sealed[old] >= n {
				continue
			}
			if err := r.appendSeal(old, n, partitions); err != nil {
				again = true
				continue
			}
			sealed[old] = n
		}
	}
	return again && ctx.Err() == nil
}

func (r *Rebuilder) appendSeal(k sealKey, n uint64, partitions int32) error {
	rec, err := record(topics.Costs, hash.PartitionKey(k.partition, partitions), &rateguardv1.Event{
		Body: &rateguardv1.Event_Seal{Seal: &rateguardv1.Seal{N: n, ProducerId: k.producer, Partition: k.partition}},
	})
	if err != nil {
		return err
	}
	rec.Unnumbered = true // the largest counts, however often it stands there
	return r.cfg.Spool.Append(rec)
}

// shipped returns the predecessors whose records are all in the log, and that ended without a power cut: one may have taken the last of them.
func (r *Rebuilder) shipped() []string {
	r.predMu.Lock()
	defer r.predMu.Unlock()
	return slices.Clone(r.whole)
}

// ship notes that all records of a predecessor are in the log.
func (r *Rebuilder) ship(id string) {
	r.predMu.Lock()
	r.whole = append(r.whole, id)
	r.predMu.Unlock()
	select {
	case r.drained <- struct{}{}:
	default:
	}
}
