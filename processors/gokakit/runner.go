// Package gokakit runs processor groups. It is the only package that configures goka and
// sarama: on their own they lose and double state in more than a dozen ways, which are closed here once.
// DESIGN.md lists them, each with the test that shows it.
package gokakit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/processors/group"
)

// ErrNotReady means that the group's table is not read to its end here, or is being read again.
var ErrNotReady = errors.New("group is not ready")

// Runner runs one group and starts it again whenever it ends on an error.
type Runner struct {
	graph    group.Graph
	settings Settings
	log      *slog.Logger
	metrics  *metrics

	mu      sync.Mutex // guards current and lastErr
	current *attempt
	lastErr error
}

// New returns a runner; nothing is connected before Run.
func New(g group.Graph, s Settings, log *slog.Logger, reg prometheus.Registerer) (*Runner, error) {
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if s.Session < sessionMinimum {
		return nil, fmt.Errorf("processors-session: %s is less than %s", s.Session, sessionMinimum)
	}
	if _, err := s.sarama(); err != nil {
		return nil, err
	}
	m, err := newMetrics(reg, g.Name)
	if err != nil {
		return nil, err
	}
	return &Runner{graph: g, settings: s, log: log.With(slog.String("group", g.Name)), metrics: m}, nil
}

// Backoff of the supervisor, and how long a run has to last to count as a good one.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 15 * time.Second
	goodRun    = time.Minute
)

// Run runs the group and the reader of its outbox until ctx ends, then returns nil. Errors never end it: a broker that
// vanishes, a topic that is not there yet or a failed write ends one attempt, and the next is built anew. The two are supervised apart: a topic that
// takes no alerts must not hold up the sums.
func (r *Runner) Run(ctx context.Context) error {
	var both sync.WaitGroup
	if len(r.graph.Outputs) > 0 {
		both.Go(func() {
			r.supervise(ctx, r.publishOutbox, func(err error, pause time.Duration) {
				r.metrics.outboxRestarts.Inc()
				r.log.Error("outbox reader ended, starting it again", slog.Any("error", err), slog.Duration("pause", pause))
			})
		})
	}
	r.supervise(ctx, r.attempt, func(err error, pause time.Duration) {
		r.metrics.restarts.Inc()
		r.log.Error("group ended, starting it again", slog.Any("error", err), slog.Duration("pause", pause))
		r.setAttempt(nil, err)
	})
	both.Wait()
	return nil
}

// supervise runs something again and again until ctx ends, with a pause after each end, which it reports.
func (r *Runner) supervise(ctx context.Context, attempt func(context.Context) error, ended func(err error, pause time.Duration)) {
	pause := backoff.NewExponentialBackOff(backoff.WithInitialInterval(firstPause), backoff.WithMaxInterval(longPause), backoff.WithMaxElapsedTime(0))
	for {
		started := time.Now()
		err := attempt(ctx)
		if ctx.Err() != nil {
			return // stopping; what goka calls that is of no interest
		}
		if time.Since(started) > goodRun {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		ended(err, wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// attempt builds everything anew and runs it until it fails or ctx ends.
func (r *Runner) attempt(ctx context.Context) error {
	a, err := newAttempt(ctx, r)
	if err != nil {
		return err
	}
	defer a.publisher.close()
	r.setAttempt(a, nil)
	defer r.setAttempt(nil, nil)
	return a.run(ctx)
}

func (r *Runner) setAttempt(a *attempt, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.current, r.lastErr = a, err
}

// Ready returns nil when this process has joined the group and has read the whole table.
func (r *Runner) Ready() error {
	r.mu.Lock()
	a, err := r.current, r.lastErr
	r.mu.Unlock()
	switch {
	case a == nil && err != nil:
		return fmt.Errorf("%w: %s: %w", ErrNotReady, r.graph.Name, err)
	case a == nil || !a.processor.Recovered() || !a.viewRecovered():
		return fmt.Errorf("%w: %s is starting", ErrNotReady, r.graph.Name)
	}
	return nil
}

// State returns the group's state of a key, of any partition, as of the records that this
// process has read; nil when the key has none. ErrNotReady says that the table is not read yet.
func (r *Runner) State(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	a := r.current
	r.mu.Unlock()
	if a == nil || !a.viewRecovered() {
		return nil, fmt.Errorf("reading %q of %s: %w", key, r.graph.Name, ErrNotReady)
	}
	return a.get(key)
}
