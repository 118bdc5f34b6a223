package lua

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"sync"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

//go:embed settle.lua
var settleSource string

// maxSettlements is how many ends one call takes; above it each goes by itself.
const maxSettlements = 2048

// settlements are the ends of a workspace that wait for Redis. Those that come while a call is under way go together with the next one: each waits for at most
// two round trips, and a busy workspace makes a few calls instead of one for each request.
type settlements struct {
	// mu guards running and next.
	mu      sync.Mutex
	running bool
	next    *settlement
}

// settlement is one call.
type settlement struct {
	args []any
	// lead makes one of those who wait for it make the call.
	lead chan struct{}
	// done is closed when it was made; err says how.
	done chan struct{}
	err  error
}

// Settle ends what a request holds of budgets at its cost in nano-USD. It tries once; without it the log does the same later.
func (a *Admissions) Settle(ctx context.Context, workspace, reservation string, costNano int64) error {
	v, ok := a.settling.Load(workspace)
	if !ok {
		v, _ = a.settling.LoadOrStore(workspace, new(settlements))
	}
	q := v.(*settlements) //nolint:forcetypeassert,errcheck // the map holds nothing else
	b, lead := q.join(reservation, costNano)
	if b == nil {
		return a.settleAll(ctx, workspace, []any{reservation, costNano})
	}
	if !lead {
		select {
		case <-b.done:
			return b.err
		case <-b.lead:
		}
	}
	q.begin(b)
	b.err = errUnsettled // for those who wait, where this ends in a panic
	defer func() {
		close(b.done)
		q.end()
	}()
	b.err = a.settleAll(ctx, workspace, b.args)
	return b.err
}

var errUnsettled = errors.New("settling: the call came to no end")

func (a *Admissions) settleAll(ctx context.Context, workspace string, ends []any) error {
	_, err := a.store.Eval(ctx, a.settle, []string{keyspace.State(workspace)}, func(Times) []any { return ends })
	if err != nil {
		return fmt.Errorf("settling: %w", err)
	}
	return nil
}

// join adds an end to the next call, and reports whether the caller has to make it at once; nil: that call is full.
func (q *settlements) join(reservation string, costNano int64) (b *settlement, lead bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next == nil {
		q.next = &settlement{lead: make(chan struct{}, 1), done: make(chan struct{})}
	}
	b = q.next
	if len(b.args) >= 2*maxSettlements {
		return nil, false
	}
	b.args = append(b.args, reservation, costNano)
	lead = !q.running
	q.running = true
	return b, lead
}

// begin closes the call to further ends.
func (q *settlements) begin(b *settlement) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.next == b {
		q.next = nil
	}
}

// end hands on to the next call.
func (q *settlements) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running = q.next != nil; q.running {
		q.next.lead <- struct{}{}
	}
}
