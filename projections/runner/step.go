package runner

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
)

// maxSpans bounds the storage partitions that one batch touches.
const maxSpans = 3

// drain applies what is buffered of a partition, batch by batch. It leaves an incomplete pending range for the next fetch.
func (s *session) drain(ctx context.Context, p *partition) error {
	for len(p.buffer) > 0 {
		n, complete := s.cut(p)
		if !complete {
			return nil
		}
		if err := s.apply(ctx, p, p.buffer[:n]); err != nil {
			return err
		}
		p.buffer = p.buffer[n:]
	}
	p.buffer = nil
	return nil
}

// cut returns the number of records of the next batch: exactly the pending range where there is one, else as many as fit.
func (s *session) cut(p *partition) (n int, complete bool) {
	if w := p.pending; w != nil {
		for n < len(p.buffer) && p.buffer[n].offset <= w.to {
			n++
		}
		return n, p.buffer[len(p.buffer)-1].offset >= w.to
	}
	span := s.r.cfg.Projection.Span
	spans := map[int]bool{}
	for n < len(p.buffer) && n < s.r.cfg.MaxBatch {
		e := p.buffer[n]
		if span != nil && !e.control && e.poison == nil {
			spans[span(e.record.Event)] = true
			if len(spans) > maxSpans {
				break
			}
		}
		n++
	}
	return n, true
}

// apply takes one batch through the protocol of the projection's target.
func (s *session) apply(ctx context.Context, p *partition, entries []entry) error {
	started := time.Now()
	if err := s.r.cfg.Fail(StepFetched); err != nil {
		return err
	}
	records, err := s.fresh(ctx, p, entries)
	if err != nil {
		return err
	}
	if err := s.bury(ctx, p, entries); err != nil {
		return err
	}
	b := Batch{Generation: s.generation, TopicID: s.topicID, Partition: p.partition, From: p.next, Records: records}
	if w := p.pending; w != nil {
		// The range starts where the crashed owner's did; records before it that the log no longer has cannot come.
		b.From, b.To = w.from, w.to
	} else {
		b.To = entries[len(entries)-1].offset
	}
	var newest time.Time
	for _, e := range entries {
		if e.time.After(newest) {
			newest = e.time
		}
	}
	var rows int64
	switch target := s.r.cfg.Projection.Target.(type) {
	case Transactional:
		rows, err = s.applyTransactional(ctx, p, target, b, newest)
	case Ranged:
		rows, err = s.applyBlock(ctx, p, target, b.rng(), target.Form(b), newest)
	default:
		err = fmt.Errorf("target %T is neither transactional nor ranged", target)
	}
	if err != nil {
		return err
	}
	s.r.cfg.Metrics.written(s.projection, rows, newest, time.Since(started))
	return s.r.cfg.Fail(StepAdvanced)
}

// applyTransactional writes rows, marks and offset in one transaction.
func (s *session) applyTransactional(ctx context.Context, p *partition, t Transactional, b Batch, newest time.Time) (rows int64, err error) {
	err = pgx.BeginFunc(ctx, s.r.cfg.Pool, func(tx pgx.Tx) error {
		// The checkpoint is locked first, so that a zombie waits here and then finds itself fenced.
		if err := p.lock(ctx, tx); err != nil {
			return err
		}
		rows, err = t.Apply(ctx, tx, b)
		if err != nil {
			return fmt.Errorf("writing %d-%d of partition %d: %w", b.From, b.To, p.partition, err)
		}
		if err := s.r.cfg.Fail(StepInserted); err != nil {
			return err
		}
		return s.advance(ctx, tx, p, b.To, rows, newest)
	})
	if err != nil {
		return 0, err
	}
	p.moved(b.To)
	return rows, nil
}

func (s *session) advance(ctx context.Context, tx pgx.Tx, p *partition, to, rows int64, newest time.Time) error {
	if err := p.advance(ctx, tx, to, rows, newest); err != nil {
		return err
	}
	return p.marks.save(ctx, tx, s.scope)
}

// applyBlock announces the range, inserts its rows and acknowledges it.
func (s *session) applyBlock(ctx context.Context, p *partition, t Store, b Range, block Block, newest time.Time) (int64, error) {
	rows := int64(len(block.Rows))
	token := fmt.Sprintf("%s/%s/%s/%d/%d-%d/%s", s.projection, b.Generation, b.TopicID, b.Partition, b.From, b.To, block.SHA)
	insert := rows > 0
	recovering := p.pending != nil
	if recovering {
		var err error
		if insert, token, err = s.recover(ctx, p, t, b, block, token); err != nil {
			return 0, err
		}
	} else if insert {
		if err := p.announce(ctx, s.r.cfg.Pool, pending{from: b.From, to: b.To, rows: rows, sha: block.SHA}); err != nil {
			return 0, err
		}
		if err := s.r.cfg.Fail(StepAnnounced); err != nil {
			return 0, err
		}
	}
	if insert {
		if err := s.insert(ctx, p, t, b, block, token, recovering); err != nil {
			return 0, err
		}
	}
	err := pgx.BeginFunc(ctx, s.r.cfg.Pool, func(tx pgx.Tx) error { return s.advance(ctx, tx, p, b.To, rows, newest) })
	if err != nil {
		return 0, err
	}
	p.moved(b.To)
	return rows, nil
}

// insert writes the block. After a recovery it counts again: a zombie of an older release may have formed other rows under another
// token (then the next session cleans up), and an earlier recovery may have died between its delete and
// its insert (then the store ignores the token, and the block goes in under another one).
func (s *session) insert(ctx context.Context, p *partition, t Store, b Range, block Block, token string, recovering bool) error {
	want := int64(len(block.Rows))
	tokens := []string{token}
	if recovering {
		tokens = append(tokens, fmt.Sprintf("%s/epoch-%d-again", token, p.epoch))
	}
	for _, token := range tokens {
		if err := t.Insert(ctx, block, token); err != nil {
			return fmt.Errorf("inserting %d-%d of partition %d: %w", b.From, b.To, p.partition, err)
		}
		if err := s.r.cfg.Fail(StepInserted); err != nil {
			return err
		}
		if !recovering {
			return nil
		}
		got, err := t.Count(ctx, b)
		if err != nil {
			return fmt.Errorf("counting %d-%d of partition %d: %w", b.From, b.To, p.partition, err)
		}
		if got == want {
			return nil
		}
		if got > 0 {
			return fmt.Errorf("range %d-%d of partition %d has %d rows, want %d", b.From, b.To, p.partition, got, want)
		}
	}
	return fmt.Errorf("range %d-%d of partition %d: the store ignores its %d rows", b.From, b.To, p.partition, want)
}

// recover looks what an announced batch left in the target. The window in which the store remembers tokens
// may have passed, so it is the rows that are counted.
func (s *session) recover(ctx context.Context, p *partition, t Store, b Range, block Block, token string) (insert bool, newToken string, err error) {
	w := *p.pending
	rows := int64(len(block.Rows))
	got, err := t.Count(ctx, b)
	if err != nil {
		return false, "", fmt.Errorf("counting %d-%d of partition %d: %w", b.From, b.To, p.partition, err)
	}
	log := s.r.log.With(slog.Int("partition", int(p.partition)), slog.Int64("from", w.from), slog.Int64("to", w.to),
		slog.Int64("rows_found", got), slog.Int64("rows_announced", w.rows), slog.Int64("rows_formed", rows))
	if got == w.rows {
		log.Info("announced batch had been inserted")
		return false, token, nil
	}
	if got > 0 && rows < w.rows {
		log.Error("announced batch cannot be formed again, the log has lost its records; what is in the target stays")
		s.r.cfg.Metrics.damaged.WithLabelValues(s.projection).Inc()
		return false, token, nil
	}
	if got > 0 {
		log.Error("announced batch is half in the target; it is removed and inserted again")
		s.r.cfg.Metrics.damaged.WithLabelValues(s.projection).Inc()
		if err := t.Delete(ctx, b); err != nil {
			return false, "", fmt.Errorf("deleting %d-%d of partition %d: %w", b.From, b.To, p.partition, err)
		}
		// The store still remembers the token of the rows that were deleted.
		token = fmt.Sprintf("%s/epoch-%d", token, p.epoch)
	}
	if block.SHA != w.sha {
		log.Warn("announced batch is formed differently now")
	}
	if err := p.announce(ctx, s.r.cfg.Pool, pending{from: w.from, to: w.to, rows: rows, sha: block.SHA}); err != nil {
		return false, "", err
	}
	return rows > 0, token, nil
}

func (b Batch) rng() Range {
	return Range{Generation: b.Generation, TopicID: b.TopicID, Partition: b.Partition, From: b.From, To: b.To}
}
