package standalone

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// group runs the parts of the process in stages. They are stopped stage by stage, the last
// added first, so that what feeds others ends before them.
type group struct {
	ctx context.Context //nolint:containedctx // the base of every part's context; ends only by stop
	log *slog.Logger

	failed   chan struct{} // closed at the first part that ends by itself
	failOnce sync.Once
	cause    error // written before failed is closed

	parts []*part
}

// part is one running piece.
type part struct {
	name   string
	stage  int
	cancel context.CancelFunc
	done   chan struct{}
	err    error // written before done is closed
}

func newGroup(ctx context.Context, log *slog.Logger) *group {
	return &group{ctx: context.WithoutCancel(ctx), log: log, failed: make(chan struct{})}
}

// run starts a part. Parts of a higher stage are stopped first.
func (g *group) run(stage int, name string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(g.ctx)
	p := &part{name: name, stage: stage, cancel: cancel, done: make(chan struct{})}
	g.parts = append(g.parts, p)
	go func() {
		defer close(p.done)
		err := f(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("it ended by itself")
			}
			g.fail(fmt.Errorf("%s: %w", name, err))
			return
		}
		if err != nil && !errors.Is(err, context.Canceled) {
			p.err = fmt.Errorf("stopping %s: %w", name, err)
		}
	}()
}

// fail records the first reason to stop.
func (g *group) fail(err error) {
	g.failOnce.Do(func() {
		g.cause = err
		close(g.failed)
	})
}

// stop ends every part, stage by stage, and waits for each.
func (g *group) stop() error {
	var errs []error
	for stage := lastStage; stage >= 0; stage-- {
		begin := time.Now()
		var ending []*part
		for _, p := range g.parts {
			if p.stage == stage {
				p.cancel()
				ending = append(ending, p)
			}
		}
		for _, p := range ending {
			<-p.done
			errs = append(errs, p.err)
			g.log.Info("stopped", slog.String("part", p.name), slog.Duration("took", time.Since(begin)))
		}
	}
	return errors.Join(errs...)
}
