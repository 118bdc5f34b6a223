package lua

import (
	"context"
	"sync"
	"time"
)

// sharing is which part of their time calls may begin apart and still share an end.
const sharing = 16

// end is when calls are over: a context of theirs, not of who asked for them.
type end struct {
	context.Context
	cancel   func()
	made, by time.Time
}

// ends hands out the ends of calls. Those that begin within a sixteenth of their time end together, the later ones by so much earlier: a timer for each of
// thousands of calls a second would cost more than what it guards.
type ends struct {
	mu sync.Mutex // guards of
	of map[time.Duration]*end
}

func (e *ends) next(timeout time.Duration) *end {
	now := time.Now()
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.of[timeout]
	if at == nil || now.Sub(at.made) > timeout/sharing {
		at = &end{made: now, by: now.Add(timeout)}
		at.Context, at.cancel = context.WithDeadline(context.Background(), at.by)
		if e.of == nil {
			e.of = map[time.Duration]*end{}
		}
		e.of[timeout] = at
	}
	return at
}

// close ends what has been handed out last.
func (e *ends) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, at := range e.of {
		at.cancel()
	}
}
