package ratelimit

import (
	"sync"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/demand"
	"github.com/rateguard/rateguard/proxy/lua"
)

const (
	// leaseTTL is how long a lease may be spent, and leaseHorizons the least of it; what is left then is given back.
	leaseTTL      = time.Second
	leaseHorizons = 4
	leaseMaxTTL   = 10 * time.Second
	// leaseRequests is how many requests like the one at hand a lease has to serve, or it does not pay. All proxies together must be allowed
	// to hold at least leaseRoom of them.
	leaseRequests = 4
	leaseRoom     = 10
	// leaseLow is the part of a lease below which the next units are asked for, while the last ones are spent.
	leaseLow = 0.3
	// leasePause is how long nothing is asked for after an ask that got nothing.
	leasePause = 100 * time.Millisecond
	// leaseIdle is how long a lease may lie unused.
	leaseIdle = 200 * time.Millisecond
	// A denial stands for those behind it until its wait is over, in whole milliseconds as the client is told, but not for longer than
	// maxDenied: somebody may have given units back.
	maxDenied = 100 * time.Millisecond
)

// lease is what this proxy holds of one bucket: units that were taken from it and are not spent. It holds that left ≤ top, and top is never more than
// the store has written down for this holder, so that all holders together hold at most what the limit allows.
type lease struct {
	bucket string

	// mu guards all below.
	mu sync.Mutex
	// gone says that the table has forgotten it.
	gone bool
	// A lease is of one version of the limits and one life of the store. Answers of another generation do not count.
	rules      *rules
	rule       *rule
	life       lua.Life
	generation uint64

	left, top int64
	// until is when it ends by our clock, before it does by the store's. sinceUS is when what is left was taken, or earlier, by the store's clock.
	until   time.Time
	sinceUS int64
	// asking says that a call is under way; another one begins not before again.
	asking bool
	again  time.Time
	// back is what goes back with the next call, and was taken at backUS or later.
	back, backUS int64

	// seen is the bucket as the store showed it, what is held included, at nowUS by its clock and seenAt by ours.
	seen   lua.Seen
	nowUS  int64
	seenAt time.Time
	// A request of at least deniedAmount is denied until then; it fits again at fits.
	deniedAmount      int64
	deniedUntil, fits time.Time

	// demand is in units.
	demand demand.Meter
}

// adopt makes the lease one of these rules and this life, and ends what is over. The caller holds mu.
func (l *lease) adopt(r *rules, rule *rule, life lua.Life, now time.Time) {
	switch {
	case l.life != life:
		// Nobody has taken what is held from the state that counts now.
		l.left, l.top, l.back = 0, 0, 0
	case l.rules != r, !now.Before(l.until):
		l.surrender()
	}
	if l.rules != r || l.life != life {
		l.rules, l.rule, l.life = r, rule, life
		l.generation++
		l.asking, l.again, l.deniedUntil, l.seenAt = false, time.Time{}, time.Time{}, time.Time{}
	}
}

// surrender makes what is left go back. The caller holds mu.
func (l *lease) surrender() {
	l.giveBack(l.left, l.sinceUS)
	l.left, l.top = 0, 0
}

// giveBack notes units that go back, taken at the instant or later. The caller holds mu.
func (l *lease) giveBack(units, atUS int64) {
	if units <= 0 {
		return
	}
	if l.back == 0 || atUS < l.backUS {
		l.backUS = atUS
	}
	l.back += units
}

// spend takes the amount from what is left. The caller holds mu.
func (l *lease) spend(amount int64, now time.Time) bool {
	if l.left < amount || !now.Before(l.until) || l.seenAt.IsZero() {
		return false
	}
	l.left -= amount
	return true
}

// put undoes a spending of a request that was not let through. The caller holds mu.
func (l *lease) put(amount int64, generation uint64, sinceUS int64, now time.Time) {
	switch {
	case generation == l.generation && l.left+amount <= l.top && now.Before(l.until):
		l.left += amount
	case generation == l.generation:
		l.giveBack(amount, sinceUS)
	}
}

// show is what the bucket shows now, by the store's last answer and what time has made of it. The caller holds mu.
func (l *lease) show(now time.Time) lua.Seen {
	p := l.rule.policy
	perUS := float64(p.GetLimit()) / float64(p.GetWindowUs())
	used := max(0, float64(l.seen.Used-l.left)-perUS*float64(now.Sub(l.seenAt).Microseconds()))
	s := lua.Seen{Used: int64(used + 0.5), ResetUS: int64(used / perUS)}
	s.Remaining = max(0, p.GetBurst()-s.Used)
	return s
}

// denied reports whether the store's last denial stands for this amount too, and what it shows then. The caller holds mu.
func (l *lease) denied(amount int64, now time.Time) (lua.Seen, bool) {
	if amount < l.deniedAmount || !now.Before(l.deniedUntil) || l.seenAt.IsZero() {
		return lua.Seen{}, false
	}
	s := l.show(now)
	s.WaitUS = max(1, l.fits.Sub(now).Microseconds())
	return s, true
}

// room is how much all holders together may hold.
func (l *lease) room() int64 {
	p := l.rule.policy
	return int64(float64(p.GetBurst()) / 100 * float64(p.GetLeasePercent()))
}

// low reports whether it is time to ask for more: little is left of what the demand needs, or of all that the last ask could get. The caller holds mu.
func (l *lease) low(horizon time.Duration) bool {
	return !l.asking && float64(l.left) < leaseLow*min(float64(l.top), l.demand.Within(horizon))
}

// ask begins an ask for what the demand will need; nil: none pays now. The caller holds mu, and calls answer or failed after it.
func (l *lease) ask(holder string, amount int64, horizon time.Duration, now time.Time) *lua.Ask {
	room, least := l.room(), leaseRequests*max(1, amount)
	want := int64(l.demand.Within(horizon)) - l.left
	if l.asking || now.Before(l.again) || room < leaseRoom*max(1, amount) || want < least {
		return nil
	}
	return l.begin(&lua.Ask{Holder: holder, Held: l.left, Want: want, Least: least, Most: room, TTL: ttl(horizon).Milliseconds()})
}

// end begins the return of everything; nil: there is nothing. The caller holds mu, as with ask.
func (l *lease) end(holder string) *lua.Ask {
	if l.asking || l.left == 0 && l.back == 0 {
		return nil
	}
	l.surrender()
	return l.begin(&lua.Ask{Holder: holder, Least: 1, Most: l.room(), TTL: leaseTTL.Milliseconds()})
}

func (l *lease) begin(a *lua.Ask) *lua.Ask {
	a.Back, a.BackAtUS = l.back, l.backUS
	l.back, l.top, l.asking = 0, l.left, true
	return a
}

// ttl is how long a lease may be spent.
func ttl(horizon time.Duration) time.Duration {
	return min(leaseMaxTTL, max(leaseTTL, leaseHorizons*horizon))
}

// answer takes what the store said about a take of this bucket; a is nil where nothing was asked for. Sent is when the call began.
func (l *lease) answer(a *lua.Ask, amount int64, generation uint64, d *lua.Decision, i int, sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if generation != l.generation {
		return
	}
	seen := &d.Seen[i]
	if d.Received.After(l.seenAt) {
		l.seen, l.nowUS, l.seenAt = *seen, d.NowUS, d.Received
	}
	same := l.life == d.Life
	l.life = d.Life
	if !d.Admitted && seen.WaitUS > 0 {
		wait := (time.Duration(seen.WaitUS)*time.Microsecond + time.Millisecond - 1).Truncate(time.Millisecond)
		l.deniedAmount, l.deniedUntil, l.fits = amount, d.Received.Add(min(wait, maxDenied)), d.Received.Add(wait)
	}
	if a == nil {
		return
	}
	l.asking = false
	if !d.Admitted {
		return
	}
	held := a.Held
	if !seen.Lent.Counted {
		// Its time was over when the store looked, or the store has lost it all: only what was taken from this state goes back there.
		if same {
			l.surrender()
		}
		held, l.left = 0, 0
	}
	if l.left == 0 {
		l.sinceUS = d.NowUS
	}
	l.left, l.top = l.left+seen.Lent.Units, held+seen.Lent.Units
	life := time.Duration(a.TTL) * time.Millisecond
	l.until = sent.Add(life - life/500) // two clocks part by less
	if seen.Lent.Units == 0 {
		l.again = d.Received.Add(leasePause)
	}
}

// failed ends an ask that has no answer. Ran says that it may have run all the same: what went back is lost then, and leaks out by itself. So is what a
// mere return brought: it gets one try, or each lease that lies idle would call again and again while the store is away.
func (l *lease) failed(a *lua.Ask, generation uint64, ran bool, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a == nil || generation != l.generation {
		return
	}
	l.asking, l.again = false, now.Add(leasePause)
	if !ran && a.Want > 0 {
		l.giveBack(a.Back, a.BackAtUS)
	}
}
