package ratelimit

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// closedRetry is what a client is told to wait for a store that is away.
const closedRetry = time.Second

// without decides while the store does not: closed where one of the limits wants it so, else by this proxy's share of each.
func (s *RateLimit) without(c *call.Call, g *grant, cause error) (time.Duration, error) {
	defer func() {
		if g.local {
			return
		}
		if lua.MayHaveRun(cause) {
			// It may stand in Redis: cancelled where it is refused, found by its id where it is charged.
			s.amends.Add(lua.Cancel, &g.request, 0)
		}
		s.leases.putBack(g)
	}()
	if ctxErr := c.Request.Context().Err(); ctxErr != nil {
		return 0, &call.Error{Code: call.UpstreamUnreachable, Status: call.StatusClientGone, Cause: ctxErr}
	}
	if !errors.Is(cause, lua.ErrUnavailable) && !errors.Is(cause, lua.ErrOldPolicy) {
		s.log.Error("limits could not be decided", slog.String("workspace", c.Workspace.ID), slog.String("request_id", c.ID), slog.Any("error", cause))
	}
	if id, closed := g.held.Closed(); closed {
		s.metrics.refusedClosed.Inc()
		return 0, &call.Error{
			Code: call.StoreUnavailable, RetryAfter: closedRetry,
			Message: fmt.Sprintf("What is left of budget %q cannot be decided now.", id), Cause: cause,
		}
	}
	for i := range g.rules {
		if r := g.rules[i].rule; r.closed {
			s.metrics.refusedClosed.Inc()
			return 0, &call.Error{
				Code: call.StoreUnavailable, RetryAfter: closedRetry,
				Message: fmt.Sprintf("The store of rate limit %q is not available.", r.id), Cause: cause,
			}
		}
	}
	d := s.local.take(g, time.Now())
	c.Checks = make([]*rateguardv1.Check, len(g.rules))
	for i := range g.rules {
		k := new(rateguardv1.Check)
		fill(k, &g.rules[i], &g.request.Takes[i], &d, i)
		k.DecidedBy = call.DecidedLocally
		c.Checks[i] = k
	}
	setHeaders(c, g)
	if !d.Admitted {
		s.metrics.localDenied.Inc()
		return 0, exceeded(c)
	}
	s.metrics.local.Inc()
	g.local = true
	c.Grant = g // for what budgets make of its cost
	if g.held.Leased() {
		g.held.Show(&d)
		s.budgets.Decided(c, &g.held, &d)
	} else if g.held.Any() {
		s.budgets.Locally(c, &g.held, d.NowUS)
	}
	charge := g.request
	if lua.MayHaveRun(cause) && len(charge.Holds) > 0 {
		// What Redis may hold for it, and the lease that it may have asked for, are in no log. With them goes what it may have taken of limits, which is charged by
		// another name: that of the request stands for what was cancelled.
		s.amends.Add(lua.Cancel, &g.request, 0)
		charge.Reservation += "/local"
	}
	if len(g.rules) > 0 {
		s.amends.Add(lua.Charge, &charge, d.NowUS)
	}
	return 0, nil
}

// maxShares bounds the buckets that are counted here; what comes above shares one.
const maxShares = 100_000

// shares are this proxy's parts of the limits while the store is away: a token bucket for each, of an equal part of the rate and the burst.
// All proxies together let through at most the limit and one request each more.
type shares struct {
	proxies func() int
	// mu guards buckets.
	mu      sync.Mutex
	buckets map[string]*share
}

// share is a level in units of the limit.
type share struct {
	level float64
	at    time.Time
}

func newShares(proxies func() int) *shares {
	return &shares{proxies: proxies, buckets: map[string]*share{}}
}

// take takes from the shares of all limits or of none.
func (s *shares) take(g *grant, now time.Time) lua.Decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := float64(max(1, s.proxies()))
	d := lua.Decision{Admitted: true, NowUS: now.UnixMicro(), Received: now, Seen: make([]lua.Seen, len(g.rules))}
	levels := make([]*share, len(g.rules))
	for i := range g.rules {
		r, take := g.rules[i].rule, &g.request.Takes[i]
		b := s.bucket(take.Bucket, now)
		rate := float64(r.policy.GetLimit()) / float64(r.policy.GetWindowUs()) / n // units a µs
		b.level = max(0, b.level-rate*float64(now.Sub(b.at).Microseconds()))
		b.at = now
		levels[i] = b
		// What is larger than the share goes through an empty bucket, or it never could.
		if over := b.level + float64(take.Amount) - float64(room(r))/n; over > 0 && b.level > 0 {
			d.Admitted = false
			d.Seen[i].WaitUS = max(1, int64(min(over, b.level)/rate))
		}
	}
	for i := range g.rules {
		r, b, seen := g.rules[i].rule, levels[i], &d.Seen[i]
		if d.Admitted {
			b.level += float64(g.request.Takes[i].Amount)
		}
		seen.Used = int64(b.level + 0.5)
		seen.Remaining = max(0, int64(float64(room(r))/n-b.level))
		seen.ResetUS = int64(b.level * float64(r.policy.GetWindowUs()) * n / float64(r.policy.GetLimit()))
	}
	return d
}

// room is how much a limit admits at once.
func room(r *rule) int64 {
	if b := r.policy.GetBurst(); b > 0 {
		return b
	}
	return r.policy.GetLimit()
}

// bucket returns the share of a key, which is made when it is missing.
func (s *shares) bucket(key string, now time.Time) *share {
	if b := s.buckets[key]; b != nil {
		return b
	}
	if len(s.buckets) >= maxShares {
		for k, b := range s.buckets {
			if now.Sub(b.at) > time.Minute {
				delete(s.buckets, k)
			}
		}
		if len(s.buckets) >= maxShares {
			key = ""
			if b := s.buckets[key]; b != nil {
				return b
			}
		}
	}
	b := &share{at: now}
	s.buckets[key] = b
	return b
}
