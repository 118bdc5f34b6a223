package epoch

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rateguard/rateguard/proxy/lua"
)

// Wants are where proxies tell the keeper of budgets what they lack; *lua.Wants is one.
type Wants interface {
	// Want notes that the budgets of the workspaces are to be read from the log.
	Want(ctx context.Context, workspaces []string) error
}

// Places say where budgets stand; *lua.Balances is one.
type Places interface {
	Places(ctx context.Context, workspaces []string) ([]lua.Place, error)
}

const (
	// AwaitFor is how long a request is held for budgets that are being read from the log; then it is refused.
	AwaitFor = 2 * time.Second
	// pollEvery is how often Redis is asked whether they are there, wantEvery how often they are asked for again.
	pollEvery = 20 * time.Millisecond
	wantEvery = 500 * time.Millisecond
)

// ErrNotInstalled means that the budgets were not read from the log within AwaitFor.
var ErrNotInstalled = errors.New("the budgets are not read from the log yet")

// Installs waits for budgets that are not in Redis. Its Run has to run.
type Installs struct {
	gate   *Gate
	wants  Wants
	places Places
	log    *slog.Logger
	wake   chan struct{}

	// mu guards waits.
	mu    sync.Mutex
	waits map[string]*wait
}

// wait is one workspace that is waited for.
type wait struct {
	since, wanted time.Time
	// done is closed at the end; installed says how it ended.
	done      chan struct{}
	installed bool
}

// NewInstalls returns what waits for the epochs of the gate.
func NewInstalls(gate *Gate, wants Wants, places Places, log *slog.Logger) *Installs {
	return &Installs{gate: gate, wants: wants, places: places, log: log, wake: make(chan struct{}, 1), waits: map[string]*wait{}}
}

// Least is that of the gate.
func (i *Installs) Least(workspace string) (uint64, bool) { return i.gate.Least(workspace) }

// Ask asks for the budgets of a workspace.
func (i *Installs) Ask(workspace string) { i.ask(workspace) }

// Await asks for the budgets of a workspace and returns nil once they are there. Errors: ErrNotInstalled, the context's.
func (i *Installs) Await(ctx context.Context, workspace string) error {
	w := i.ask(workspace)
	select {
	case <-w.done:
		if !w.installed {
			return ErrNotInstalled
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (i *Installs) ask(workspace string) *wait {
	i.mu.Lock()
	defer i.mu.Unlock()
	w := i.waits[workspace]
	if w == nil {
		w = &wait{since: time.Now(), done: make(chan struct{})}
		i.waits[workspace] = w
		select {
		case i.wake <- struct{}{}:
		default: // it is awake
		}
	}
	return w
}

// Run looks for what is waited for until ctx ends.
func (i *Installs) Run(ctx context.Context) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	defer i.end(time.Time{}, nil)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-i.wake:
		case <-tick.C:
		}
		if all := i.waiting(); len(all) > 0 {
			i.look(ctx, all)
		}
	}
}

func (i *Installs) waiting() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Sorted(maps.Keys(i.waits))
}

// look asks Redis once for all that is waited for.
func (i *Installs) look(ctx context.Context, all []string) {
	now := time.Now()
	var want []string
	i.mu.Lock()
	for _, ws := range all {
		if w := i.waits[ws]; now.Sub(w.wanted) >= wantEvery {
			w.wanted = now
			want = append(want, ws)
		}
	}
	i.mu.Unlock()
	if len(want) > 0 {
		if err := i.wants.Want(ctx, want); err != nil {
			i.log.Debug("asking for budgets", slog.Any("error", err))
		}
	}
	places, err := i.places.Places(ctx, all)
	if err != nil {
		i.log.Debug("looking for budgets", slog.Any("error", err))
		i.end(now, nil)
		return
	}
	installed := map[string]bool{}
	for n, ws := range all {
		least, ok := i.gate.Least(ws)
		installed[ws] = ok && places[n].Epoch >= least
	}
	i.end(now, installed)
}

// end ends the waits for what is installed and those that have lasted too long; at the zero time all of them.
func (i *Installs) end(now time.Time, installed map[string]bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for ws, w := range i.waits {
		if w.installed = installed[ws]; w.installed || now.IsZero() || now.Sub(w.since) >= AwaitFor {
			delete(i.waits, ws)
			close(w.done)
		}
	}
}
