package gokakit

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// consumerGroup stands between goka and sarama and repairs three things: it marks only
// contiguous prefixes, it stays inside Consume over a clean rebalance (goka would sleep 5 s after
// each), and it reads the errors always (goka stops reading after the first of some kinds,
// and sarama then blocks).
type consumerGroup struct {
	sarama.ConsumerGroup
	errs   chan error
	reader sync.WaitGroup
}

func newConsumerGroup(inner sarama.ConsumerGroup, log *slog.Logger) *consumerGroup {
	g := &consumerGroup{ConsumerGroup: inner, errs: make(chan error)}
	g.reader.Add(1)
	go func() {
		defer g.reader.Done()
		defer close(g.errs)
		for err := range inner.Errors() {
			log.Warn("consumer group error", slog.Any("error", err))
		}
	}()
	return g
}

// Errors returns a channel that closes with the group; the errors are logged here.
func (g *consumerGroup) Errors() <-chan error { return g.errs }

// Close leaves the group.
func (g *consumerGroup) Close() error {
	err := g.ConsumerGroup.Close()
	g.reader.Wait()
	return err
}

// pauseOfShortSession keeps a group that rebalances at once, again and again, from spinning.
const pauseOfShortSession = 100 * time.Millisecond

// Consume runs sessions until ctx ends or one fails.
func (g *consumerGroup) Consume(ctx context.Context, names []string, handler sarama.ConsumerGroupHandler) error {
	for {
		started := time.Now()
		err := g.ConsumerGroup.Consume(ctx, names, &contiguousHandler{inner: handler})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the caller ended it; what sarama calls that differs
		}
		if err != nil {
			return err
		}
		if time.Since(started) < pauseOfShortSession {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(pauseOfShortSession):
			}
		}
	}
}

// contiguousHandler gives goka sessions and claims that mark only contiguous prefixes.
type contiguousHandler struct {
	inner   sarama.ConsumerGroupHandler
	session *contiguousSession
}

// Setup implements sarama.ConsumerGroupHandler.
func (h *contiguousHandler) Setup(s sarama.ConsumerGroupSession) error {
	h.session = &contiguousSession{ConsumerGroupSession: s, claims: map[claimID]*prefix{}}
	return h.inner.Setup(h.session)
}

// Cleanup implements sarama.ConsumerGroupHandler.
func (h *contiguousHandler) Cleanup(sarama.ConsumerGroupSession) error {
	return h.inner.Cleanup(h.session)
}

// ConsumeClaim implements sarama.ConsumerGroupHandler. It notes every offset before goka sees it.
func (h *contiguousHandler) ConsumeClaim(s sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	p := h.session.prefixOf(claimID{claim.Topic(), claim.Partition()})
	// Unbuffered: a message that goka did not take is not delivered, and the next session reads it again.
	out := make(chan *sarama.ConsumerMessage)
	done := make(chan struct{})
	var forwarder sync.WaitGroup
	forwarder.Add(1)
	go func() {
		defer forwarder.Done()
		defer close(out)
		forward(s.Context(), claim.Messages(), out, done, p)
	}()
	err := h.inner.ConsumeClaim(h.session, &contiguousClaim{ConsumerGroupClaim: claim, messages: out})
	// goka may return while the session lives, on an error of its own; sarama ends the session only after this call.
	close(done)
	forwarder.Wait()
	return err
}

// forward passes messages on and notes each before it does, until there are no more, the session ends or done closes.
func forward(ctx context.Context, in <-chan *sarama.ConsumerMessage, out chan<- *sarama.ConsumerMessage, done <-chan struct{}, p *prefix) {
	for {
		var m *sarama.ConsumerMessage
		var ok bool
		select {
		case m, ok = <-in:
		case <-done:
			return
		case <-ctx.Done():
			return
		}
		if !ok {
			return
		}
		p.delivered(m.Offset)
		select {
		case out <- m:
		case <-done:
			return
		case <-ctx.Done():
			return
		}
	}
}

type contiguousClaim struct {
	sarama.ConsumerGroupClaim
	messages <-chan *sarama.ConsumerMessage
}

// Messages returns the claim's messages, noted.
func (c *contiguousClaim) Messages() <-chan *sarama.ConsumerMessage { return c.messages }

type claimID struct {
	topic     string
	partition int32
}

type contiguousSession struct {
	sarama.ConsumerGroupSession

	mu     sync.Mutex // guards claims
	claims map[claimID]*prefix
}

func (s *contiguousSession) prefixOf(id claimID) *prefix {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.claims[id]
	if p == nil {
		p = new(prefix)
		s.claims[id] = p
	}
	return p
}

// MarkOffset marks offset-1 as processed and commits the end of the contiguous prefix.
func (s *contiguousSession) MarkOffset(topic string, partition int32, offset int64, metadata string) {
	s.prefixOf(claimID{topic, partition}).processed(offset-1, func(next int64) {
		s.ConsumerGroupSession.MarkOffset(topic, partition, next, metadata)
	})
}

// MarkMessage marks one message as processed.
func (s *contiguousSession) MarkMessage(m *sarama.ConsumerMessage, metadata string) {
	s.MarkOffset(m.Topic, m.Partition, m.Offset+1, metadata)
}

// prefix is the run of delivered messages of one claim and which of them are processed. It
// follows deliveries and not offsets: a log has gaps where compaction or a marker was.
type prefix struct {
	mu sync.Mutex // guards pending; held while marking, so that marks never go back
	// pending are the delivered messages from the first that is not processed, in order.
	pending []delivery
}

type delivery struct {
	offset    int64
	processed bool
}

func (p *prefix) delivered(offset int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending = append(p.pending, delivery{offset: offset})
}

// processed notes one offset and calls mark with the offset after the prefix when the prefix grew.
func (p *prefix) processed(offset int64, mark func(next int64)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.pending {
		if p.pending[i].offset == offset {
			p.pending[i].processed = true
			break
		}
	}
	n := 0
	for n < len(p.pending) && p.pending[n].processed {
		n++
	}
	if n == 0 {
		return
	}
	next := p.pending[n-1].offset + 1
	p.pending = append(p.pending[:0], p.pending[n:]...)
	mark(next)
}
