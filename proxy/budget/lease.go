package budget

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/internal/demand"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
)

const (
	// leaseTTL is how long requests may take from a lease. What is left of it then is given back in the log.
	leaseTTL = time.Second
	// leaseRequests is how many requests like the one at hand a lease has to serve, or it does not pay.
	leaseRequests = 4
	// leaseLow is the part of the horizon's demand below which the next lease is asked for, while the last of the old one is used.
	leaseLow = 0.4
	// leasePause is how long nothing is asked for after an ask that got nothing.
	leasePause = 100 * time.Millisecond
	// askFor is how long an ask is taken to be under way at most: whoever made it may have ended in a panic.
	askFor = 2 * time.Second
	// leaseIdle is how long a lease may lie unused.
	leaseIdle = 200 * time.Millisecond
	// clockMargin is by how much two clocks may part within the life of a lease.
	clockMargin = 5 * time.Millisecond
)

// lease is a reservation of this process for requests to come. Each of them opens a reservation of its own, to which its part passes; what
// none has taken is given back at the end. So nothing that was taken can be lost with the lease, and nothing is ever given back twice.
type lease struct {
	id, workspace string
	epoch         uint64
	rules         *rules
	// nano is what it holds of each budget.
	nano int64
	// held is what each budget showed right after it was granted, at nowUS by Redis' clock and received by ours.
	held     []lua.Held
	nowUS    int64
	received time.Time
	holds    []*rateguardv1.Hold
	subject  *rateguardv1.Subject
	// until is when nothing may be taken any more.
	until time.Time
	// generation is where it stands in the log.
	generation uint64

	// left is what nobody has taken, taking how many have taken and not opened yet. The pool's mutex guards both.
	left   int64
	taking int

	// mu guards ended: held for reading while an opening that takes from it is appended, for writing while its end is.
	mu    sync.RWMutex
	ended bool
	// opened is what stands as taken in the log.
	opened atomic.Int64
	// warned says that its end could not be appended, and that this was said.
	warned bool
}

// claim is what a request brings to a lease: the policy that it is decided by, the least epoch that may be used, and when.
type claim struct {
	rules *rules
	epoch uint64
	now   time.Time
}

// usable reports whether a request may take from it.
func (l *lease) usable(t claim) bool {
	return l.rules == t.rules && l.epoch >= t.epoch && t.now.Before(l.until)
}

// share is what one call takes from a lease. It is put back or opened, once.
type share struct {
	pool  *pool
	lease *lease
	nano  int64
}

// ID is that of the lease.
func (s *share) ID() string { return s.lease.id }

// Open calls do, which appends the opening of the reservation, unless the lease has ended meanwhile: then it returns epoch.ErrOld.
func (s *share) Open(do func() error) error {
	s.lease.mu.RLock()
	defer s.lease.mu.RUnlock()
	if s.lease.ended {
		return epoch.ErrOld
	}
	if err := do(); err != nil {
		return err
	}
	s.lease.opened.Add(s.nano)
	return nil
}

// Opened says that the share was opened, or is put back because it was not.
func (s *share) Opened(opened bool) {
	if s.lease == nil {
		return
	}
	s.pool.mu.Lock()
	s.lease.taking--
	if !opened {
		s.lease.left += s.nano
	}
	s.pool.mu.Unlock()
	s.lease = nil
}

// pool is the leases of one set of balances, and the demand for them.
type pool struct {
	// mu guards all below, and what the leases say of it.
	mu sync.Mutex
	// gone says that the table has forgotten it.
	gone   bool
	leases []*lease
	// asking is until when a call is taken to be under way; another one begins not before again.
	asking time.Time
	again  time.Time

	// demand is in nano-USD.
	demand demand.Meter
}

// take takes from the oldest lease that has enough; nil: none has. The caller holds mu.
func (p *pool) take(t claim, nano int64) *lease {
	for _, l := range p.leases {
		if l.left >= nano && l.usable(t) {
			l.left -= nano
			l.taking++
			return l
		}
	}
	return nil
}

// ask begins an ask for what the demand will need; its ID is empty where none pays now. The caller holds mu, and calls answered after it.
func (p *pool) ask(t claim, nano int64, horizon time.Duration, percent int32) lua.LeaseAsk {
	var left int64
	for _, l := range p.leases {
		if l.usable(t) {
			left += l.left
		}
	}
	need := p.demand.Within(horizon)
	want := min(int64(need)-left, int64(money.MaxCall)) // consumers take no larger amount for one that is meant
	if t.now.Before(p.asking) || t.now.Before(p.again) || float64(left) > leaseLow*need || want < leaseRequests*nano {
		return lua.LeaseAsk{}
	}
	p.asking = t.now.Add(askFor)
	return lua.LeaseAsk{ID: leaseID(t.now), Want: want, Least: leaseRequests * nano, Percent: percent}
}
