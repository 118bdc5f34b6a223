package child

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// An engine that dies more often than maxDeaths in deathWindow is given up.
const (
	maxDeaths   = 6
	deathWindow = time.Minute
	// firstPause is before the second attempt in a row and doubles with each: what the dead one held
	// (PostgreSQL's shared memory) may be free only after a second.
	firstPause = 100 * time.Millisecond
)

// Keeper runs a child and starts it again, with the same port and data, when it dies.
type Keeper struct {
	spec   Spec
	log    *slog.Logger
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // guards what follows
	current *Process
	closing bool
	err     error
}

// Keep starts the program, waits until it is ready and watches over it until Close.
func Keep(ctx context.Context, spec Spec) (*Keeper, error) {
	log := spec.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	p, err := Exec(ctx, spec)
	if err != nil {
		return nil, err
	}
	watch, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k := &Keeper{spec: spec, log: log, cancel: cancel, done: make(chan struct{}), current: p}
	go k.watch(watch, p)
	return k, nil
}

func (k *Keeper) watch(ctx context.Context, p *Process) {
	defer close(k.done)
	var deaths []time.Time
	for {
		<-p.Done()
		if k.isClosing() {
			return
		}
		k.log.Error("engine ended by itself", slog.String("engine", k.spec.Name), slog.Any("error", p.Err()), slog.String("output", p.Tail()))
		for pause := time.Duration(0); ; pause = max(firstPause, 2*pause) {
			if !wait(ctx, pause) {
				return
			}
			now := time.Now()
			deaths = append(deaths, now)
			for now.Sub(deaths[0]) > deathWindow {
				deaths = deaths[1:]
			}
			if len(deaths) > maxDeaths {
				k.fail(fmt.Errorf("%s ended %d times within %s, last: %w%s", k.spec.Name, len(deaths), deathWindow, p.Err(), p.tail.quote()))
				return
			}
			next, err := Exec(ctx, k.spec)
			if err == nil {
				p = next
				break
			}
			if ctx.Err() != nil {
				return
			}
			k.log.Error("engine does not start again", slog.String("engine", k.spec.Name), slog.Any("error", err))
		}
		if !k.adopt(p) {
			return
		}
		k.log.Warn("engine started again", slog.String("engine", k.spec.Name), slog.Int("pid", p.PID()))
	}
}

// wait reports whether the time passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// adopt makes p the running child, or stops it when Close came first.
func (k *Keeper) adopt(p *Process) bool {
	k.mu.Lock()
	closing := k.closing
	if !closing {
		k.current = p
	}
	k.mu.Unlock()
	if closing {
		if err := p.Stop(); err != nil {
			k.log.Error("engine does not stop", slog.String("engine", k.spec.Name), slog.Any("error", err))
		}
	}
	return !closing
}

func (k *Keeper) isClosing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.closing
}

func (k *Keeper) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// Done is closed when the child is stopped, or dead for good: then Err says why.
func (k *Keeper) Done() <-chan struct{} { return k.done }

// Err returns why the child was given up, nil otherwise.
func (k *Keeper) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// PID returns the process id of the running child.
func (k *Keeper) PID() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current.PID()
}

// Close stops the child and waits until it is gone.
func (k *Keeper) Close() error {
	k.mu.Lock()
	k.closing = true
	p := k.current
	k.mu.Unlock()
	k.cancel()
	err := p.Stop()
	<-k.done
	return err
}
