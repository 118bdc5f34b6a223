// Package demand measures what leases are sized by: how much is asked for, and how far the store is. Limits and budgets are leased by the same measure.
package demand

import (
	"sync/atomic"
	"time"
)

const (
	// horizon is the demand that a lease is to last for; where the store is far it is trips round trips.
	horizon = 100 * time.Millisecond
	trips   = 4
	// window is how long demand is measured at least.
	window = 50 * time.Millisecond
)

// Meter measures a demand. It rises at once and falls slowly. It is not safe for use by several goroutines.
type Meter struct {
	// perUS is measured by the amounts since from.
	perUS  float64
	amount int64
	from   time.Time
	used   time.Time
}

// Add counts an amount that is asked for.
func (m *Meter) Add(amount int64, now time.Time) {
	m.used = now
	m.amount += amount
	if m.from.IsZero() {
		m.from = now
		return
	}
	d := now.Sub(m.from)
	if d < window {
		return
	}
	perUS := float64(m.amount) / float64(d.Microseconds())
	if perUS < m.perUS && d < 4*window {
		perUS = (perUS + m.perUS) / 2
	}
	m.perUS, m.amount, m.from = perUS, 0, now
}

// Within returns how much is asked for in that time.
func (m *Meter) Within(d time.Duration) float64 { return m.perUS * float64(d.Microseconds()) }

// Idle returns for how long nothing was asked for.
func (m *Meter) Idle(now time.Time) time.Duration { return now.Sub(m.used) }

// Trip is the round trip to the store: the longest of late. It is safe for use by several goroutines.
type Trip struct{ ns atomic.Int64 }

// Took counts one. The slow ones count at once: it is they that a lease has to outlast.
func (t *Trip) Took(d time.Duration) {
	t.ns.Store(max(int64(d), (7*t.ns.Load()+int64(d))/8))
}

// Horizon is the demand that a lease is to last for.
func (t *Trip) Horizon() time.Duration { return max(horizon, trips*time.Duration(t.ns.Load())) }
