package lua

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// clockStep is the difference from which on a sample is a step of Redis' clock.
	clockStep = time.Minute
	// clockSteady is how long a stepped clock must run on evenly before it is believed, and clockSame how evenly.
	clockSteady = time.Minute
	clockSame   = time.Second
	// clockFresh is the age of the last sample from which on a decision asks for the time first: two clocks that
	// drift apart by 0.02 % lose 2 ms in it.
	clockFresh = 10 * time.Second
	// clockDrift is how fast two clocks may part, as one in that many: NTP turns a clock by at most 1 in 2,000.
	clockDrift = 2000
)

var errClockStep = errors.New("redis' clock stepped")

// baseline is a lower bound of Redis' clock: it showed at least redisUS at our monotonic time at.
type baseline struct {
	redisUS int64
	at      time.Time
}

// at returns the bound at a later time, in µs of Redis' clock.
func (b baseline) estimate(now time.Time) int64 {
	age := now.Sub(b.at).Microseconds()
	return b.redisUS + age - age/clockDrift
}

// clock estimates a server's clock from replies, by our own monotonic clock. Redis read its time between our sending and
// our receiving, so time since the receiving gives a lower bound, and the best bound is kept.
type clock struct {
	// mu guards all below.
	mu     sync.Mutex
	server string    // who was measured; another server has another clock
	base   baseline  // zero: not known yet
	seen   time.Time // when the last good sample came
	// next is the clock that showed up instead, stepped when it was first seen. Zero: the clock is good.
	next    baseline
	stepped time.Time
}

// sample is one reading of Redis' clock.
type sample struct {
	redisUS        int64
	sent, received time.Time
}

// identify says that connections now lead to that server. What was measured of another is forgotten.
func (c *clock) identify(server string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if server == c.server {
		return
	}
	if c.server != "" {
		c.base, c.next, c.seen, c.stepped = baseline{}, baseline{}, time.Time{}, time.Time{}
	}
	c.server = server
}

// estimate returns a lower bound of Redis' clock in µs; 0 when there is none that is fresh.
func (c *clock) estimate(now time.Time) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base.at.IsZero() || now.Sub(c.seen) > clockFresh {
		return 0
	}
	return c.base.estimate(now)
}

// observe takes a sample. It returns an error while the clock cannot be trusted, and whether a new clock was just accepted.
func (c *clock) observe(s sample) (accepted bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base.at.IsZero() {
		c.take(s)
		return false, nil
	}
	const step = int64(clockStep / time.Microsecond)
	drift := 2 * s.received.Sub(c.base.at).Microseconds() / clockDrift
	// Redis showed s.redisUS somewhere between the two.
	low, high := s.redisUS-c.base.estimate(s.received), s.redisUS-c.base.estimate(s.sent)
	if low <= step+drift && high >= -step {
		c.next, c.stepped, c.seen = baseline{}, time.Time{}, s.received
		// A better bound; or a small step back, after which the old one is none.
		if low >= 0 || high < 0 {
			c.take(s)
		}
		return false, nil
	}
	const same = int64(clockSame / time.Microsecond)
	if d := s.redisUS - c.next.estimate(s.received); c.stepped.IsZero() || d > same || d < -same {
		c.stepped = s.received
	} else if s.received.Sub(c.stepped) >= clockSteady {
		c.take(s)
		return true, nil
	}
	c.next = baseline{s.redisUS, s.received}
	return false, fmt.Errorf("%w by %s", errClockStep, time.Duration(low)*time.Microsecond)
}

// take makes the sample the baseline. c.mu is held.
func (c *clock) take(s sample) {
	c.base, c.seen = baseline{s.redisUS, s.received}, s.received
	c.next, c.stepped = baseline{}, time.Time{}
}
