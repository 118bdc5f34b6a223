// Package ratelimit decides by the limits and the budgets of its workspace whether a request may go on. One call to Redis takes from all of
// them or from none; what a request did not use is given back at its end. Each of them says what happens while Redis is away.
package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/budget"
	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Store decides requests; *lua.Admissions is the one.
type Store interface {
	Admit(ctx context.Context, r *lua.Request) (lua.Decision, error)
	Adjust(ctx context.Context, how lua.Adjustment, r *lua.Request, atUS int64) error
	// Settle ends what a reservation holds of budgets at its cost in nano-USD.
	Settle(ctx context.Context, workspace, reservation string, costNano int64) error
	// Life returns the state of the workspace that decided last.
	Life(workspace string) lua.Life
}

// Policies is the configuration that a request may find to be old.
type Policies interface {
	// Refresh returns the newest policy of the workspace that can be had now, nil when that is no newer than the version at hand.
	Refresh(ctx context.Context, workspace string, version uint64) (*call.Workspace, error)
	// Revoke makes the key revoked for every request from now on.
	Revoke(key string)
}

// RateLimit is the step; make it with New.
type RateLimit struct {
	next     call.Handler
	store    Store
	policies Policies
	budgets  *budget.Budgets
	log      *slog.Logger
	metrics  metrics
	amends   *Amends
	leases   *Leases
	local    *shares
	compiled sync.Map // workspace id → *rules
}

// Options are what the step needs.
type Options struct {
	Store    Store
	Policies Policies
	// Budgets are decided in the same call as the limits.
	Budgets *budget.Budgets
	// Amends are made later, when the store is back.
	Amends *Amends
	// Leases are what this proxy holds of leased limits.
	Leases *Leases
	// Proxies returns how many proxies were last known to share the limits, at least 1.
	Proxies func() int
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// New returns the step in front of next.
func New(o Options, next call.Handler) *RateLimit {
	return &RateLimit{
		next: next, store: o.Store, policies: o.Policies, budgets: o.Budgets, log: o.Log, metrics: newMetrics(o.Metrics),
		amends: o.Amends, leases: o.Leases, local: newShares(o.Proxies),
	}
}

// attempts is how often a request is decided: anew because its policy was old, its budgets were not installed, or it was made smaller.
const attempts = 4

// Serve takes from the limits and budgets of the call. It refuses with budget_exceeded, budget_contention, rate_limit_exceeded, invalid_request
// (what can never fit), price_unknown, cost_unbounded, api_key_revoked and store_unavailable.
func (s *RateLimit) Serve(c *call.Call) error {
	if doc := c.Workspace.Document; len(doc.GetLimits()) == 0 && len(doc.GetBudgets()) == 0 {
		return s.next.Serve(c)
	}
	g := grants.Get().(*grant) //nolint:forcetypeassert,errcheck // the pool holds nothing else
	defer func() {
		if c.Grant == nil || c.Ended { // else its end is still to come
			c.Grant = nil
			g.free()
		}
	}()
	held, err := s.decide(c, g)
	if err != nil {
		return err
	}
	c.WriteLimitHeaders(c.Writer.Header())
	if held > 0 {
		if err := wait(c, held); err != nil {
			return err
		}
	}
	return s.next.Serve(c)
}

// decide takes from the limits and budgets; held is how long a leaky bucket keeps the request.
func (s *RateLimit) decide(c *call.Call, g *grant) (held time.Duration, err error) {
	for range attempts {
		g.reset(s, c)
		if err := s.collect(c, g); err != nil {
			return 0, err
		}
		if len(g.rules) == 0 && !g.held.Any() {
			return 0, nil
		}
		decision, err := s.ask(c, g)
		switch {
		case err == nil && !decision.Admitted && g.held.Any() && s.budgets.Fit(c, &g.held, &decision):
			// It asks for less now.
		case err == nil:
			return s.decided(c, g, &decision)
		case errors.Is(err, lua.ErrRevoked):
			s.leases.putBack(g)
			s.policies.Revoke(c.Key.ID)
			return 0, call.Fail(call.APIKeyRevoked, err)
		case errors.Is(err, lua.ErrOldPolicy):
			w, refreshErr := s.policies.Refresh(c.Request.Context(), c.Workspace.ID, c.Workspace.Version)
			if refreshErr != nil || w == nil {
				return s.without(c, g, errors.Join(err, refreshErr))
			}
			s.leases.putBack(g)
			c.Workspace = w // emit and quote behind read it
		case errors.Is(err, lua.ErrNoEpoch):
			if awaitErr := s.budgets.Await(c.Request.Context(), c.Workspace.ID); awaitErr != nil {
				return s.without(c, g, errors.Join(err, awaitErr))
			}
			s.leases.putBack(g)
		default:
			return s.without(c, g, err)
		}
	}
	return s.without(c, g, lua.ErrOldPolicy)
}

// ask lets Redis decide. Where it cannot reserve and no budget of the call insists on it, the limits are decided alone.
func (s *RateLimit) ask(c *call.Call, g *grant) (lua.Decision, error) {
	if !g.held.Any() {
		return s.admit(c, g)
	}
	if s.budgets.Take(c, &g.held, &g.request) {
		d, err := s.admit(c, g)
		if err == nil {
			g.held.Show(&d)
		}
		return d, err
	}
	var d lua.Decision
	sent, err := time.Now(), s.budgets.Enter(&g.request)
	if err == nil {
		d, err = s.admit(c, g)
	}
	s.budgets.Answered(c, &g.held, &g.request, sent, &d, err)
	if err == nil || !lua.Unreserved(err) {
		return d, err
	}
	if _, closed := g.held.Closed(); closed {
		return lua.Decision{}, err
	}
	s.budgets.Ask(c.Workspace.ID)
	if len(g.rules) == 0 {
		now := time.Now()
		g.unreserved, g.request.Holds = true, g.request.Holds[:0]
		return lua.Decision{Admitted: true, NowUS: now.UnixMicro(), Received: now}, nil
	}
	s.leases.putBack(g)
	if err := s.collectLimits(c, g); err != nil {
		return lua.Decision{}, err
	}
	g.unreserved = true
	return s.admit(c, g)
}

// admit decides by what is held of the limits, else by the store.
func (s *RateLimit) admit(c *call.Call, g *grant) (lua.Decision, error) {
	if len(g.request.Takes) == 0 && g.held.Leased() {
		now := time.Now()
		return lua.Decision{Admitted: true, NowUS: g.held.NowUS(now), Received: now}, nil
	}
	if !g.leased {
		return s.store.Admit(c.Request.Context(), &g.request)
	}
	held, done := s.leases.spend(c, g, s.rules(c.Workspace))
	if g.byLease = done && len(g.request.Holds) == 0; g.byLease {
		return held, nil
	}
	sent := s.leases.now()
	d, err := s.store.Admit(c.Request.Context(), &g.request)
	if err != nil {
		s.leases.failed(g, err)
		return d, err
	}
	s.leases.answered(g, &d, sent)
	for i := range g.request.Takes {
		if g.request.Takes[i].Held {
			d.Seen[i] = held.Seen[i]
			if !d.Admitted {
				unspent(&d.Seen[i], g.request.Takes[i].Amount)
			}
		}
	}
	if !d.Admitted {
		s.leases.putBack(g)
	}
	return d, nil
}

// collect finds the limits and budgets that are for the call and what it takes from each.
func (s *RateLimit) collect(c *call.Call, g *grant) error {
	if err := s.collectLimits(c, g); err != nil {
		return err
	}
	return s.budgets.Collect(c, &g.held, &g.request)
}

func (s *RateLimit) collectLimits(c *call.Call, g *grant) error {
	r := s.rules(c.Workspace)
	g.rules, g.leased = g.rules[:0], false
	g.request = lua.Request{
		Workspace: c.Workspace.ID, Reservation: call.ReservationID(c), Key: c.Key.ID, PolicyVersion: c.Workspace.Version,
		Takes: g.request.Takes[:0], Holds: g.request.Holds[:0],
	}
	for i := range r.list {
		l := &r.list[i]
		subject, ok := l.where.Of(c)
		if !ok {
			continue
		}
		amount, declared := r.amount(l, c)
		if amount > l.most {
			return neverFits(l, amount, declared)
		}
		bucket := l.bucket
		if !l.one {
			bucket = l.buckets.Of(subject)
		}
		g.leased = g.leased || l.leased
		g.rules = append(g.rules, taken{rule: l, subject: subject})
		g.request.Takes = append(g.request.Takes, lua.Take{Limit: &l.script, Bucket: bucket, Amount: amount})
	}
	return nil
}

// rules returns the prepared limits of a policy.
func (s *RateLimit) rules(w *call.Workspace) *rules {
	if v, ok := s.compiled.Load(w.ID); ok {
		if r := v.(*rules); r.workspace == w { //nolint:forcetypeassert,errcheck // the map holds nothing else
			return r
		}
	}
	r, bad := newRules(w)
	for _, problem := range bad {
		s.log.Error("limit is ignored", slog.String("workspace", w.ID), slog.String("limit", problem))
	}
	s.compiled.Store(w.ID, r)
	return r
}

// decided notes what the limits and budgets said.
func (s *RateLimit) decided(c *call.Call, g *grant, d *lua.Decision) (time.Duration, error) {
	offset := d.Received.UnixMicro() - d.NowUS
	c.Checks = make([]*rateguardv1.Check, len(g.rules), len(g.rules)+len(c.Holds))
	checks := make([]rateguardv1.Check, len(g.rules))
	for i := range g.rules {
		fill(&checks[i], &g.rules[i], &g.request.Takes[i], d, i)
		checks[i].DecidedBy, checks[i].ClockOffsetUs = call.DecidedByRedis, offset
		if t := &g.rules[i]; t.lease != nil && (g.request.Takes[i].Held || g.byLease) {
			checks[i].DecidedBy, checks[i].ClockOffsetUs = call.DecidedByLease, t.offsetUS
		}
		c.Checks[i] = &checks[i]
	}
	setHeaders(c, g)
	switch {
	case g.unreserved:
		s.budgets.Locally(c, &g.held, d.NowUS)
	case g.held.Any():
		s.budgets.Decided(c, &g.held, d)
	}
	if !d.Admitted {
		s.metrics.denied.Inc()
		if err := s.budgets.Refusal(c, &g.held, d, d.Wait() > 0); err != nil {
			return 0, err
		}
		return 0, exceeded(c)
	}
	s.metrics.admitted.Inc()
	g.atUS = d.NowUS
	c.Grant = g
	return d.Wait(), nil
}

func fill(k *rateguardv1.Check, t *taken, take *lua.Take, d *lua.Decision, i int) {
	p, seen := t.rule.policy, &d.Seen[i]
	k.Id, k.Scope, k.Kind, k.Unit, k.Algorithm = p.GetId(), p.GetScope(), "limit", p.GetUnit(), p.GetAlgorithm()
	k.Limit, k.WindowUs, k.Burst, k.Subject = p.GetLimit(), p.GetWindowUs(), p.GetBurst(), t.subject
	k.Used, k.Remaining, k.ResetAfterUs, k.Cost = seen.Used, min(seen.Remaining, p.GetLimit()), seen.ResetUS, take.Amount
	k.DecidedAtUnixUs = d.NowUS
	switch {
	case d.Admitted:
		k.DelayUs = seen.WaitUS
	case seen.WaitUS > 0:
		k.Denied, k.RetryAfterUs = true, seen.WaitUS
	}
}

// exceeded is the refusal by the limit that stands in the way the longest.
func exceeded(c *call.Call) error {
	var worst *rateguardv1.Check
	for _, k := range c.Checks {
		if k.GetRetryAfterUs() > 0 && (worst == nil || k.GetRetryAfterUs() > worst.GetRetryAfterUs()) {
			worst = k
		}
	}
	if worst == nil {
		return errors.New("denied by no limit")
	}
	return &call.Error{
		Code: call.RateLimitExceeded, RetryAfter: time.Duration(worst.GetRetryAfterUs()) * time.Microsecond,
		Message: fmt.Sprintf("Rate limit %q (%s%s) is exceeded: %d of %d %s in %s are used, and this request takes %d.",
			worst.GetId(), worst.GetScope(), ofSubject(worst), worst.GetUsed(), worst.GetLimit(), worst.GetUnit(),
			time.Duration(worst.GetWindowUs())*time.Microsecond, worst.GetCost()),
	}
}

func ofSubject(k *rateguardv1.Check) string {
	if s := k.GetSubject(); s != "" && len(s) <= 100 {
		return " " + s
	}
	return ""
}

// neverFits refuses what no waiting would admit.
func neverFits(l *rule, amount int64, declared bool) error {
	e := &call.Error{Code: call.InvalidRequest, Message: fmt.Sprintf(
		"This request takes %d %s of rate limit %q, which never has more than %d.", amount, l.unit, l.id, l.most)}
	if l.tokens && declared {
		e.Message += " Lower the maximum of output tokens or shorten the input."
	}
	return e
}

// wait holds a request until a leaky bucket lets it out.
func wait(c *call.Call, held time.Duration) error {
	t := time.NewTimer(held)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.Request.Context().Done():
		return &call.Error{Code: call.UpstreamUnreachable, Status: call.StatusClientGone, Cause: c.Request.Context().Err()}
	}
}
