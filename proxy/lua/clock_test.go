package lua_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
)

// epoch is Redis' clock, in µs, when ours shows start.
const epoch = int64(1_700_000_000_000_000)

// shardClock is a fake server's clock beside ours.
type shardClock struct {
	tb    testing.TB
	c     lua.Clock
	start time.Time
	// off is what the server's clock was stepped by.
	off time.Duration
}

func newShardClock(tb testing.TB) *shardClock { return &shardClock{tb: tb, start: time.Now()} }

// true is the server's clock at that time of ours, counted from the start.
func (s *shardClock) true(at time.Duration) int64 { return epoch + (at + s.off).Microseconds() }

// call makes a call at that time: so long to the server, and so long back.
func (s *shardClock) call(at, there, back time.Duration) (bool, error) {
	return s.c.Observe(s.true(at+there), s.start.Add(at), s.start.Add(at+there+back))
}

func (s *shardClock) fine(at, there, back time.Duration) {
	s.tb.Helper()
	if _, err := s.call(at, there, back); err != nil {
		s.tb.Fatalf("at %s: %v", at, err)
	}
}

func (s *shardClock) stepped(at time.Duration) {
	s.tb.Helper()
	if accepted, err := s.call(at, time.Millisecond, time.Millisecond); err == nil || accepted {
		s.tb.Fatalf("at %s the step was not seen", at)
	}
}

// lag is how far the estimate is behind the server's clock.
func (s *shardClock) lag(at time.Duration) time.Duration {
	return time.Duration(s.true(at)-s.c.Estimate(s.start.Add(at))) * time.Microsecond
}

// Whatever the delays, the estimate is never ahead of the server's clock, and one slow reply does not throw it back.
func TestTheEstimateIsACloseLowerBound(t *testing.T) {
	s := newShardClock(t)
	if s.c.Estimate(s.start) != 0 {
		t.Error("an estimate without a sample")
	}
	s.fine(0, time.Millisecond, time.Millisecond)
	r := rand.New(rand.NewPCG(1, 2))
	at := time.Second
	for range 10_000 {
		s.fine(at, time.Duration(r.IntN(40_000))*time.Microsecond, time.Duration(1000+r.IntN(40_000))*time.Microsecond)
		at += 100 * time.Millisecond
		if lag := s.lag(at); lag < 0 || lag > 10*time.Millisecond {
			t.Fatalf("at %s the estimate is %s behind", at, lag)
		}
	}
}

func TestAnOldEstimateIsNone(t *testing.T) {
	s := newShardClock(t)
	s.fine(0, 0, 0)
	if s.lag(9*time.Second) > 10*time.Millisecond || s.c.Estimate(s.start.Add(11*time.Second)) != 0 {
		t.Error("want an estimate for ten seconds")
	}
	// Months without a call, and a drift of 20 in a million, are no step.
	s.off = -30 * time.Minute / 20
	s.fine(90*24*time.Hour, time.Millisecond, time.Millisecond)
}

// A step back by less than a minute is followed at once, or deadlines would be too late until time caught up.
func TestASmallStepIsFollowed(t *testing.T) {
	for _, off := range []time.Duration{-30 * time.Second, -time.Second, time.Second, 59 * time.Second} {
		s := newShardClock(t)
		s.fine(0, time.Millisecond, time.Millisecond)
		s.off = off
		s.fine(time.Second, time.Millisecond, time.Millisecond)
		if lag := s.lag(time.Second); lag < 0 || lag > 5*time.Millisecond {
			t.Errorf("after a step by %s the estimate is %s behind", off, lag)
		}
	}
}

func TestALargeStepIsAFailureUntilItIsUndoneOrSteady(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour, 62 * time.Second, -62 * time.Second} {
		s := newShardClock(t)
		s.fine(0, 0, time.Millisecond)
		s.off = off
		s.stepped(time.Second)
		s.stepped(30 * time.Second)
		s.off = 0
		s.fine(31*time.Second, 0, time.Millisecond) // undone
		s.off = off
		s.stepped(32 * time.Second)
		s.stepped(91 * time.Second)
		s.off += 10 * time.Minute // not steady: it counts anew
		s.stepped(91500 * time.Millisecond)
		s.stepped(150 * time.Second)
		accepted, err := s.call(152*time.Second, 0, time.Millisecond)
		if err != nil || !accepted {
			t.Errorf("a steady clock is not taken: %v", err)
		}
		s.fine(153*time.Second, 0, time.Millisecond)
		if lag := s.lag(153 * time.Second); lag < 0 || lag > 5*time.Millisecond {
			t.Errorf("after a step by %s the estimate is %s behind", off, lag)
		}
	}
}

func TestAnotherServerHasAnotherClock(t *testing.T) {
	s := newShardClock(t)
	s.c.Identify("a")
	s.fine(0, 0, 0)
	s.off = time.Hour
	s.c.Identify("a")
	s.stepped(time.Second)
	s.c.Identify("b")
	if s.c.Estimate(s.start.Add(time.Second)) != 0 {
		t.Error("the estimate of another server")
	}
	s.fine(2*time.Second, 0, 0)
}

// The call whose reply shows the step may have run; nothing after it does, until the clock is back.
func TestAClockStepClosesTheStore(t *testing.T) {
	r := redistest.Start(t)
	seen := &changes{}
	s := openStore(t, lua.StoreConfig{URL: r.URL(), Timeout: patient, OnChange: seen.note})
	mustConsume(t, s, "k")
	wrong := lua.NewScript(`local t = redis.call('TIME') return {'OK', t[1] * 1000000 + t[2] + 3600000000}`)
	_, err := s.Eval(t.Context(), wrong, []string{"k"}, deadline)
	if got := reason(t, err); got != lua.ReasonClock || !lua.MayHaveRun(err) {
		t.Errorf("got %s: %v", got, err)
	}
	_, err = consume(t.Context(), s, "k")
	if got := reason(t, err); got != lua.ReasonOpen || lua.MayHaveRun(err) {
		t.Errorf("got %s: %v", got, err)
	}
	works(t, s, "k")
	if got := seen.all(); len(got) != 2 || got[0] != "open clock" {
		t.Errorf("changes %q", got)
	}
}
