package lua

import (
	"strconv"
	"time"
)

// Clock is a shard's clock by itself, for tests that have no minute to wait.
type Clock struct{ c clock }

// Observe takes a sample.
func (c *Clock) Observe(redisUS int64, sent, received time.Time) (accepted bool, err error) {
	return c.c.observe(sample{redisUS, sent, received})
}

// Estimate returns the lower bound, 0 when there is none.
func (c *Clock) Estimate(now time.Time) int64 { return c.c.estimate(now) }

// Identify says which server answers.
func (c *Clock) Identify(server string) { c.c.identify(server) }

// Breaker is a shard's breaker by itself.
type Breaker struct{ b breaker }

// Call makes one call that ends with that cause, empty for success, and returns whether the breaker let it through.
func (b *Breaker) Call(now time.Time, cause Reason) bool {
	life, _, ok := b.b.allow()
	if ok {
		b.b.report(life, now, cause)
	}
	return ok
}

// Begin begins a call, and returns its end.
func (b *Breaker) Begin() func(now time.Time, cause Reason) {
	life, _, _ := b.b.allow()
	return func(now time.Time, cause Reason) { b.b.report(life, now, cause) }
}

// Heal closes the breaker.
func (b *Breaker) Heal() { b.b.heal() }

// KeepLows sets how many lows a token bucket keeps.
func (l *Limit) KeepLows(n int) {
	if l.kind == "b" {
		l.params[3] = strconv.Itoa(n)
	}
}

// Told says of each call of one round trip whether the breaker hears of its end; true stands for a failure.
func Told(failed ...bool) []bool {
	var t trip
	heard := make([]bool, len(failed))
	for i, f := range failed {
		heard[i] = t.tell(f)
	}
	return heard
}
