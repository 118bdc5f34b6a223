package spool

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// raiseWatermark keeps the place from which this producer has to be read close to the end of the log, until the context ends.
func (s *Spool) raiseWatermark(ctx context.Context) {
	select {
	case <-s.ready:
	case <-ctx.Done():
		return
	}
	s.mu.Lock()
	s.generations[0].from = offsets{s.own.meta.CostsStarted, s.own.meta.RequestsStarted}
	s.mu.Unlock()
	failing := false
	for sleep(ctx, s.cfg.LowWaterEvery) {
		err := s.raiseOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			s.log.Warn("raising the low watermark, trying on", slog.Any("error", err))
		}
		failing = err != nil
	}
}

// raiseOnce begins a generation where that is worth it, and publishes the newest one before which nothing is open.
func (s *Spool) raiseOnce(ctx context.Context) error {
	if err := s.tryGeneration(ctx); err != nil {
		return err
	}
	published := Generation(s.own.meta.Generation)
	g, until, ok := s.settledGeneration(published)
	if !ok {
		return nil
	}
	// Every end of an older generation stands before this position, and every record that its marks count.
	if err := s.own.waitShipped(ctx, until); err != nil {
		return fmt.Errorf("waiting for generation %d to be shipped: %w", g.n, err)
	}
	if s.lossy.Load() {
		return nil // a part of the log on disk was unreadable: the marks count what no consumer has seen
	}
	return s.publish(ctx, g)
}

func (s *Spool) tryGeneration(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	cl, err := s.client(s.log)
	if err != nil {
		return err
	}
	defer cl.Close()
	var ends offsets
	if ends.costs, ends.requests, err = firstOffsets(ctx, cl, false); err != nil {
		return err
	}
	if len(ends.costs) != s.CostsPartitions() {
		return fmt.Errorf("the costs topic has %d partitions, had %d when this producer started", len(ends.costs), s.CostsPartitions())
	}
	if !s.worthGeneration(ends) {
		return nil
	}
	return s.beginGeneration(ends)
}

// publish makes a generation the one that this producer is read from: for everybody by its status in Kafka, then for the next process by
// the file in its folder. A crash in between leaves the older one there, which is as right.
func (s *Spool) publish(ctx context.Context, g generation) error {
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	cl, err := s.client(s.log)
	if err != nil {
		return err
	}
	defer cl.Close()
	s.statusMu.Lock()
	defer s.statusMu.Unlock()
	if s.lastWord {
		return nil
	}
	meta := s.own.meta
	meta.Generation, meta.CostsOffsets, meta.RequestsOffsets = uint64(g.n), g.from.costs, g.from.requests
	if err := s.produceStatus(ctx, cl, s.status(&meta)); err != nil {
		return err
	}
	s.own.meta = meta
	s.watermark.Store(g.began.UnixMicro())
	return s.own.saveMeta()
}

// watermarkAge is how long ago the generation began that this producer is read from.
func (s *Spool) watermarkAge(now time.Time) time.Duration {
	at := s.watermark.Load()
	return max(0, now.Sub(time.UnixMicro(at)))
}
