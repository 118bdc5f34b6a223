package lua

import (
	"sync"
	"time"
)

const (
	// breakerRun is how many failures in a row open a breaker.
	breakerRun = 5
	// breakerWindow is the time over which the rate of failures counts; it opens at a half of at least breakerCalls.
	breakerWindow = time.Second
	breakerCalls  = 20
)

// breaker decides whether a shard is asked at all. It opens on failures; only its healer closes it.
type breaker struct {
	// mu guards all below.
	mu    sync.Mutex
	open  bool
	cause Reason
	// healed is closed when an open breaker closes.
	healed chan struct{}
	// life counts openings. The result of a call that began in an earlier one says nothing any more.
	life          uint64
	run           int
	since         time.Time
	calls, failed int
}

// allow returns the life that the call belongs to, or why it must not be made.
func (b *breaker) allow() (life uint64, cause Reason, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.life, b.cause, !b.open
}

// wait is allow for a call that is worth waiting for: an open breaker may close until done is.
func (b *breaker) wait(done <-chan struct{}) (life uint64, cause Reason, ok bool) {
	for {
		b.mu.Lock()
		life, cause, ok = b.life, b.cause, !b.open
		healed := b.healed
		b.mu.Unlock()
		if ok {
			return life, cause, ok
		}
		select {
		case <-healed:
		case <-done:
			return life, cause, ok
		}
	}
}

// report takes the result of a call, cause empty for success, and returns whether it opened the breaker.
func (b *breaker) report(life uint64, now time.Time, cause Reason) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open || life != b.life {
		return false
	}
	if now.Sub(b.since) > breakerWindow {
		b.since, b.calls, b.failed = now, 0, 0
	}
	b.calls++
	if cause == "" {
		b.run = 0
		return false
	}
	b.run++
	b.failed++
	if b.run < breakerRun && (b.calls < breakerCalls || 2*b.failed < b.calls) {
		return false
	}
	b.trip(cause)
	return true
}

// force opens the breaker at once and returns whether it was closed.
func (b *breaker) force(life uint64, cause Reason) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open || life != b.life {
		return false
	}
	b.trip(cause)
	return true
}

// trip opens. b.mu is held.
func (b *breaker) trip(cause Reason) {
	b.open, b.cause, b.healed = true, cause, make(chan struct{})
	b.life++
	b.run, b.calls, b.failed = 0, 0, 0
}

// heal closes the breaker.
func (b *breaker) heal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.open {
		close(b.healed)
	}
	b.open, b.cause = false, ""
}
