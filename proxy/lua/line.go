package lua

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// maxTogether is how many calls one round trip takes. Redis runs them in one go, for which other proxies wait.
const maxTogether = 16

// line is where the calls to one server meet. Those that are ready at the same time make one round trip: a busy proxy makes a few system calls for many decisions.
// None waits for one that is not there yet, nor for a trip that is under way: with that, a decision took half a millisecond longer.
type line struct {
	client *redis.Client

	// mu guards next, the trip that others may join; nil: there is none.
	mu   sync.Mutex
	next *trip
}

// trip is one round trip: what is written to a connection at once, and the replies.
type trip struct {
	calls []*redis.Cmd
	end   *end
	// done is closed when each call has its reply or its error; sent and received may be read then.
	done           chan struct{}
	sent, received time.Time
	// told is what the breaker has heard of it: however many calls it took, it says one thing about the server, and a failure weighs more.
	told atomic.Int32
}

// What a breaker has heard of a trip.
const (
	toldNothing int32 = iota
	toldSuccess
	toldFailure
)

// tell reports whether the breaker is to hear of one call's end.
func (t *trip) tell(failed bool) bool {
	if failed {
		return t.told.Swap(toldFailure) != toldFailure
	}
	return t.told.CompareAndSwap(toldNothing, toldSuccess)
}

// join gives a call a place in a trip of those that have its end, which the caller has to send off if it is the first.
func (l *line) join(cmd *redis.Cmd, by *end) (t *trip, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t = l.next; t == nil || t.end != by {
		t = &trip{calls: []*redis.Cmd{cmd}, end: by, done: make(chan struct{})}
		if l.next == nil {
			l.next = t
		}
		return t, true
	}
	t.calls = append(t.calls, cmd)
	if len(t.calls) == maxTogether {
		l.next = nil
	}
	return t, false
}

// travel lets whoever can run now join, and makes the trip. It runs by itself: whoever asked for it may give up before.
func (l *line) travel(t *trip) {
	defer close(t.done)
	runtime.Gosched()
	l.depart(t)
	pipe := l.client.Pipeline()
	for _, c := range t.calls {
		_ = pipe.Process(t.end, c)
	}
	t.sent = time.Now()
	_, err := pipe.Exec(t.end)
	t.received = time.Now()
	for _, c := range t.calls {
		// The client leaves the calls as they are where Redis answers the making of a connection with an error.
		if c.Err() == nil && c.Val() == nil {
			c.SetErr(err)
		}
	}
}

// wait returns nil once the trip is over, or why its caller gives up before. A reply that is there is taken, whoever has given up.
func (t *trip) wait(ctx context.Context) error {
	var err error
	if !t.over() {
		select {
		case <-t.done:
		case <-ctx.Done():
			err = ctx.Err()
		case <-t.end.Done():
			err = t.end.Err()
		}
	}
	if t.over() {
		return nil
	}
	return err
}

func (t *trip) over() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// depart closes the trip to further calls.
func (l *line) depart(t *trip) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.next == t {
		l.next = nil
	}
}
