package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/internal/demand"
	"github.com/rateguard/rateguard/proxy/lua"
)

const (
	// sweepLeases is how often idle leases are looked for, and forgetLeases how often those that nobody has used for as long are forgotten.
	sweepLeases  = 100 * time.Millisecond
	forgetLeases = 10 * time.Second
	// maxLeases bounds the buckets that are leased; those above are decided strictly.
	maxLeases = 100_000
)

// Leases are what this proxy holds of the buckets of leased limits. It takes units from the store before they are needed, in one piece for the
// requests of about 100 ms, and lets requests through by them without a call. Nothing is let through that was not taken first: all proxies
// together admit at most burst + rate·t and what they held at the beginning, which is at most lease_percent of the burst.
type Leases struct {
	holder string
	store  Store
	log    *slog.Logger
	now    func() time.Time
	spawn  func(func())

	asks, granted, returned prometheus.Counter
	trip                    demand.Trip
	all                     sync.Map // bucket → *lease
	size                    atomic.Int64

	// mu guards holding: the leases that may hold something.
	mu      sync.Mutex
	holding map[*lease]string // → its workspace
}

// LeaseConfig is what leases need.
type LeaseConfig struct {
	// Holder is the id of this process, that no other has.
	Holder  string
	Store   Store
	Log     *slog.Logger
	Metrics prometheus.Registerer
	// Now and Spawn are time.Now and the go statement where they are nil.
	Now   func() time.Time
	Spawn func(func())
}

// NewLeases returns an empty table; Run returns what lies idle.
func NewLeases(cfg LeaseConfig) *Leases {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Spawn == nil {
		cfg.Spawn = func(f func()) { go f() }
	}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "rateguard_proxy_leases_" + name + "_total", Help: help})
		cfg.Metrics.MustRegister(c)
		return c
	}
	return &Leases{
		holder: cfg.Holder, store: cfg.Store, log: cfg.Log, now: cfg.Now, spawn: cfg.Spawn, holding: map[*lease]string{},
		asks:     counter("asks", "Calls to the store that asked for units of leased limits."),
		granted:  counter("units", "Units of leased limits that this proxy got to spend without the store."),
		returned: counter("units_returned", "Units of leased limits that this proxy gave back."),
	}
}

// lookup returns the lease of a bucket with its mutex held; nil: there are too many.
func (s *Leases) lookup(bucket string) *lease {
	for {
		v, ok := s.all.Load(bucket)
		if !ok {
			if s.size.Load() >= maxLeases {
				return nil
			}
			if v, ok = s.all.LoadOrStore(bucket, &lease{bucket: bucket}); !ok {
				s.size.Add(1)
			}
		}
		l := v.(*lease) //nolint:forcetypeassert,errcheck // the map holds nothing else
		l.mu.Lock()
		if !l.gone {
			return l
		}
		l.mu.Unlock()
	}
}

// spend decides the request by what is held. Done is false where the store has to be asked: then the takes that could be spent are marked as
// held, and those that are short may carry an ask. Else the decision stands in g: all were spent, or a denial of a moment ago still stands.
func (s *Leases) spend(c *call.Call, g *grant, r *rules) (d lua.Decision, done bool) {
	now := s.now()
	life := s.store.Life(c.Workspace.ID)
	d = lua.Decision{Admitted: true, Received: now, Seen: g.seen[:0], Life: life}
	all, denied, low := true, false, false
	for i := range g.rules {
		t, take := &g.rules[i], &g.request.Takes[i]
		d.Seen = append(d.Seen, lua.Seen{})
		if !t.rule.leased {
			all = false
			continue
		}
		l := s.lookup(take.Bucket)
		if l == nil {
			all = false
			continue
		}
		l.adopt(r, t.rule, life, now)
		l.demand.Add(take.Amount, now)
		t.lease, t.generation, t.sinceUS = l, l.generation, l.sinceUS
		if take.Held = l.spend(take.Amount, now); take.Held {
			d.Seen[i] = l.show(now)
			t.low = l.low(s.trip.Horizon())
			low = low || t.low
		} else if seen, stands := l.denied(take.Amount, now); stands {
			d.Seen[i], denied = seen, true
		} else {
			all = false
		}
		d.NowUS, t.offsetUS = l.nowUS+now.Sub(l.seenAt).Microseconds(), l.seenAt.UnixMicro()-l.nowUS
		l.mu.Unlock()
	}
	g.seen = d.Seen
	switch {
	case all && !denied:
		if low {
			s.refill(c, g)
		}
		return d, true
	case all:
		d.Admitted = false
		for i := range g.rules {
			if g.request.Takes[i].Held { // shown as if it was not asked for
				unspent(&d.Seen[i], g.request.Takes[i].Amount)
			}
		}
		s.putBack(g)
		return d, true
	}
	s.ask(g, now)
	return d, false
}

// unspent shows a bucket as if the amount was not taken from it.
func unspent(s *lua.Seen, amount int64) {
	s.Used = max(0, s.Used-amount)
	s.Remaining += amount
}

// ask adds asks to the takes that are short.
func (s *Leases) ask(g *grant, now time.Time) {
	for i := range g.rules {
		t, take := &g.rules[i], &g.request.Takes[i]
		if t.lease == nil || take.Held {
			continue
		}
		t.lease.mu.Lock()
		if t.generation == t.lease.generation {
			take.Ask = t.lease.ask(s.holder, take.Amount, s.trip.Horizon(), now)
		}
		t.lease.mu.Unlock()
	}
}

// putBack undoes what was spent for a request that is not let through.
func (s *Leases) putBack(g *grant) {
	now := s.now()
	for i := range g.rules {
		if t, take := &g.rules[i], &g.request.Takes[i]; take.Held && !t.back {
			t.back = true
			t.lease.mu.Lock()
			t.lease.put(take.Amount, t.generation, t.sinceUS, now)
			t.lease.mu.Unlock()
		}
	}
}

// giveBack gives back a part of what was spent, when the request's end is known.
func (s *Leases) giveBack(t *taken, workspace string, units int64) {
	t.lease.mu.Lock()
	if t.generation == t.lease.generation {
		t.lease.giveBack(units, t.sinceUS)
	}
	t.lease.mu.Unlock()
	s.note(t.lease, workspace)
}

// answered hands the answer of the store to the leases of the request.
func (s *Leases) answered(g *grant, d *lua.Decision, sent time.Time) {
	for i := range g.rules {
		t, take := &g.rules[i], &g.request.Takes[i]
		if t.lease == nil || take.Held {
			continue
		}
		t.lease.answer(take.Ask, take.Amount, t.generation, d, i, sent)
		s.measure(take.Ask, &d.Seen[i], d.Received.Sub(sent))
		if take.Ask != nil {
			s.note(t.lease, g.request.Workspace)
		}
		take.Ask = nil
	}
}

// failed ends the asks of a request that the store did not decide.
func (s *Leases) failed(g *grant, err error) {
	now, ran := s.now(), lua.MayHaveRun(err)
	for i := range g.rules {
		if t, take := &g.rules[i], &g.request.Takes[i]; t.lease != nil && take.Ask != nil {
			t.lease.failed(take.Ask, t.generation, ran, now)
			take.Ask = nil
		}
	}
}

// measure counts an ask and learns how far the store is.
func (s *Leases) measure(a *lua.Ask, seen *lua.Seen, trip time.Duration) {
	if a == nil {
		return
	}
	s.asks.Inc()
	s.granted.Add(float64(seen.Lent.Units))
	s.returned.Add(float64(a.Back))
	s.trip.Took(trip)
}

// note remembers that the lease may hold something.
func (s *Leases) note(l *lease, workspace string) {
	s.mu.Lock()
	s.holding[l] = workspace
	s.mu.Unlock()
}

// refill asks for more while the last units are spent, so that no request waits for it.
func (s *Leases) refill(c *call.Call, g *grant) {
	r := &lua.Request{Workspace: g.request.Workspace, Key: g.request.Key, PolicyVersion: g.request.PolicyVersion}
	now := s.now()
	var asked []taken
	for i := range g.rules {
		t, take := g.rules[i], &g.request.Takes[i]
		if !t.low {
			continue
		}
		t.lease.mu.Lock()
		if t.generation == t.lease.generation {
			if a := t.lease.ask(s.holder, take.Amount, s.trip.Horizon(), now); a != nil {
				r.Takes = append(r.Takes, lua.Take{Limit: take.Limit, Bucket: take.Bucket, Ask: a})
				asked = append(asked, t)
			}
		}
		t.lease.mu.Unlock()
	}
	if len(asked) == 0 {
		return
	}
	ctx := context.WithoutCancel(c.Request.Context())
	s.spawn(func() { s.call(ctx, r, asked) })
}

// call makes a call that takes nothing but what the asks get; it is no request's.
func (s *Leases) call(ctx context.Context, r *lua.Request, asked []taken) {
	sent := s.now()
	r.Reservation = call.NewID(sent)
	d, err := s.store.Admit(ctx, r)
	for i, t := range asked {
		a := r.Takes[i].Ask
		if err != nil {
			t.lease.failed(a, t.generation, lua.MayHaveRun(err), s.now())
			continue
		}
		t.lease.answer(a, 0, t.generation, &d, i, sent)
		s.measure(a, &d.Seen[i], d.Received.Sub(sent))
		s.note(t.lease, r.Workspace)
	}
	if err != nil && !errors.Is(err, lua.ErrUnavailable) {
		// A policy that is old, or a key that is revoked: the next request that asks hears it, and acts.
		s.log.Debug("leases are not refilled", slog.String("workspace", r.Workspace), slog.Any("error", err))
	}
}

// Run returns idle leases until ctx ends, then all.
func (s *Leases) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepLeases)
	defer tick.Stop()
	forgotten := s.now()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			s.sweep(last, 0)
			return nil
		case <-tick.C:
		}
		s.Sweep(ctx)
		if s.now().Sub(forgotten) > forgetLeases {
			forgotten = s.now()
			s.forget()
		}
	}
}

// Sweep returns what has lain idle; Run does so by itself.
func (s *Leases) Sweep(ctx context.Context) { s.sweep(ctx, leaseIdle) }

// sweep returns what lies idle that long.
func (s *Leases) sweep(ctx context.Context, idle time.Duration) {
	type item struct {
		l         *lease
		workspace string
	}
	s.mu.Lock()
	items := make([]item, 0, len(s.holding))
	for l, ws := range s.holding {
		items = append(items, item{l, ws})
	}
	s.mu.Unlock()
	now := s.now()
	for _, it := range items {
		l := it.l
		l.mu.Lock()
		if l.left == 0 && l.back == 0 {
			if !l.asking {
				s.mu.Lock()
				delete(s.holding, l)
				s.mu.Unlock()
			}
			l.mu.Unlock()
			continue
		}
		var a *lua.Ask
		if l.demand.Idle(now) >= idle || l.left == 0 {
			a = l.end(s.holder)
		}
		t := taken{rule: l.rule, lease: l, generation: l.generation}
		version := uint64(0)
		if l.rules != nil {
			version = l.rules.workspace.Version
		}
		l.mu.Unlock()
		if a != nil {
			s.call(ctx, &lua.Request{
				Workspace: it.workspace, PolicyVersion: version,
				Takes: []lua.Take{{Limit: &t.rule.script, Bucket: l.bucket, Ask: a}},
			}, []taken{t})
		}
	}
}

// forget drops leases that nobody uses.
func (s *Leases) forget() {
	now := s.now()
	s.all.Range(func(bucket, v any) bool {
		l := v.(*lease) //nolint:forcetypeassert,errcheck // the map holds nothing else
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.left == 0 && l.back == 0 && !l.asking && l.demand.Idle(now) > forgetLeases {
			l.gone = true
			s.all.Delete(bucket)
			s.size.Add(-1)
		}
		return true
	})
}
