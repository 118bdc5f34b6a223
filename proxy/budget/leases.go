package budget

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/internal/demand"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

const (
	// sweepLeases is how often leases that are over are looked for, and forgetPools how often those pools that nobody has used for as long are forgotten.
	sweepLeases = 50 * time.Millisecond
	forgetPools = 10 * time.Second
	// maxPools bounds the sets of balances that are leased; those above are reserved one by one.
	maxPools = 10_000
)

// LeaseLog is where leases stand in the log; *emit.Emitter is one.
type LeaseLog interface {
	// OpenLease appends the opening of a lease. After an error nothing may be taken from it.
	OpenLease(workspace string, o *rateguardv1.ReservationOpened) (generation uint64, err error)
	// EndLease appends its end. After an error it has not ended.
	EndLease(workspace string, generation uint64, o *rateguardv1.Outcome) error
}

// Decider decides requests; *lua.Admissions is one.
type Decider interface {
	Admit(ctx context.Context, r *lua.Request) (lua.Decision, error)
}

// Leases are what this process has reserved of budgets in advance, so that most requests are decided without Redis. A lease is a reservation in Redis and in
// the log before its first use, so that it counts like any other: against the limit, in what is rebuilt, and when its holder is gone.
type Leases struct {
	store    Decider
	log      LeaseLog
	epochs   Epochs
	producer string
	// cancel takes back what may have been granted without anybody knowing it.
	cancel func(*lua.Request)
	slog   *slog.Logger
	met    leaseMetrics

	trip demand.Trip
	asks sync.WaitGroup

	// poolsMu guards pools, by their key. A sync.Map would make a string of each request's key.
	poolsMu sync.RWMutex
	pools   map[string]*pool

	// mu guards open and stopped: the leases that have not ended in the log, and whether no further one is asked for.
	mu      sync.Mutex
	open    map[*lease]*pool
	stopped bool
}

// LeaseOptions are what leases need.
type LeaseOptions struct {
	Store  Decider
	Log    LeaseLog
	Epochs Epochs
	// Producer is the id of this process.
	Producer string
	// Cancel takes back a request that may have been granted, until that is acknowledged.
	Cancel  func(*lua.Request)
	Slog    *slog.Logger
	Metrics prometheus.Registerer
}

// NewLeases returns an empty table. Its Run has to run.
func NewLeases(o LeaseOptions) *Leases {
	return &Leases{
		store: o.Store, log: o.Log, epochs: o.Epochs, producer: o.Producer, cancel: o.Cancel, slog: o.Slog, met: newLeaseMetrics(o.Metrics),
		open: make(map[*lease]*pool), pools: make(map[string]*pool),
	}
}

// leaseSuffix stands in the place of the attempt.
const leaseSuffix = "/lease"

func leaseID(now time.Time) string { return call.NewID(now) + leaseSuffix }

func (s *Leases) horizon() time.Duration {
	return min(leaseTTL/2, s.trip.Horizon())
}

// pool returns the pool of the request's balances with its mutex held; nil: there are too many.
func (s *Leases) pool(r *lua.Request) *pool {
	var buf [512]byte
	key := append(buf[:0], r.Workspace...)
	for i := range r.Holds {
		key = append(append(key, 0), r.Holds[i].Balance...)
	}
	for {
		s.poolsMu.RLock()
		p := s.pools[string(key)]
		s.poolsMu.RUnlock()
		if p == nil {
			if p = s.newPool(string(key)); p == nil {
				return nil
			}
		}
		p.mu.Lock()
		if !p.gone {
			return p
		}
		p.mu.Unlock()
	}
}

// newPool returns the pool of a key, which is made where there is none; nil: there are too many.
func (s *Leases) newPool(key string) *pool {
	s.poolsMu.Lock()
	defer s.poolsMu.Unlock()
	p := s.pools[key]
	if p == nil && len(s.pools) < maxPools {
		p = new(pool)
		s.pools[key] = p
	}
	return p
}

// take takes what the call holds from a lease, and reports whether it could. Where it could not, the request may carry an ask for one.
func (s *Leases) take(c *call.Call, h *Held, r *lua.Request) bool {
	nano, now := int64(c.Quote.Bound), time.Now()
	least, known := s.epochs.Least(r.Workspace)
	p := s.pool(r)
	if p == nil {
		return false
	}
	p.demand.Add(nano, now)
	of := claim{rules: h.compiled, epoch: least, now: now}
	l := p.take(of, nano)
	var ask lua.LeaseAsk
	if known {
		ask = p.ask(of, nano, s.horizon(), h.percent())
	}
	p.mu.Unlock()
	h.pool = p
	if l == nil {
		r.Lease = ask
		return false
	}
	h.share = share{pool: p, lease: l, nano: nano}
	s.met.requests.Inc()
	if ask.ID != "" {
		s.refill(c, p, h.compiled, r, ask)
	}
	return true
}

// refill asks for a lease while the last one is used up, so that no request waits for it.
func (s *Leases) refill(c *call.Call, p *pool, compiled *rules, of *lua.Request, ask lua.LeaseAsk) {
	now := time.Now()
	r := &lua.Request{
		Workspace: of.Workspace, Reservation: call.NewID(now), Key: of.Key, PolicyVersion: of.PolicyVersion, Producer: s.producer, Lease: ask,
		Holds: append([]lua.Hold(nil), of.Holds...),
	}
	for i := range r.Holds {
		r.Holds[i].Amount = 0
	}
	holds := make([]*rateguardv1.Hold, len(c.Holds))
	for i, h := range c.Holds { // the call goes on with its own
		holds[i] = proto.CloneOf(h)
	}
	ctx := context.WithoutCancel(c.Request.Context())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return // who asks with a request of its own gets nothing that lasts either, see offer
	}
	s.asks.Go(func() {
		var d lua.Decision
		err := lua.ErrNoEpoch
		least, known := s.epochs.Least(r.Workspace)
		if r.Epoch = least; known {
			d, err = s.store.Admit(ctx, r)
		}
		if err != nil && lua.MayHaveRun(err) {
			s.cancel(r)
		}
		s.answered(p, compiled, r, holds, now, &d, err)
	})
}

// answered takes what Redis said to a request that asked for a lease; holds are those of its call.
func (s *Leases) answered(p *pool, compiled *rules, r *lua.Request, holds []*rateguardv1.Hold, sent time.Time, d *lua.Decision, err error) {
	ask := r.Lease
	if ask.ID == "" {
		return
	}
	s.met.asks.Inc()
	var l *lease
	if err == nil {
		s.trip.Took(d.Received.Sub(sent))
		r.Lease = lua.LeaseAsk{} // from here on it is nothing of the request's
		if d.LeaseNano > 0 {
			l = s.begin(compiled, r, holds, sent, ask, d)
		}
	}
	if s.offer(p, l) {
		return
	}
	if err := s.end(l); err != nil {
		s.slog.Warn("a lease of budgets is not ended in the log; who closes this process does it", slog.String("workspace", l.workspace), slog.Any("error", err))
	}
}

// offer lets requests take from a lease; nil: there is none. It returns false where this process stops, and the lease has to end.
func (s *Leases) offer(p *pool, l *lease) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking = time.Time{}
	if l == nil {
		p.again = time.Now().Add(leasePause)
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	// Both at once: who sweeps would end what lies idle, before anybody could take from it.
	p.leases = append(p.leases, l)
	s.open[l] = p
	return true
}

// begin writes a lease into the log; nil: it could not, and is cancelled.
func (s *Leases) begin(compiled *rules, r *lua.Request, holds []*rateguardv1.Hold, sent time.Time, ask lua.LeaseAsk, d *lua.Decision) *lease {
	l := &lease{
		id: ask.ID, workspace: r.Workspace, epoch: d.Epoch, rules: compiled, nano: d.LeaseNano, left: d.LeaseNano,
		held: make([]lua.Held, len(d.Held)), nowUS: d.NowUS, received: d.Received, until: sent.Add(leaseTTL),
		subject: &rateguardv1.Subject{RequestId: strings.TrimSuffix(ask.ID, leaseSuffix), OpenedAtUnixUs: sent.UnixMicro(), PolicyVersion: r.PolicyVersion},
	}
	for i := range d.Held {
		l.held[i] = lua.Held{StartUS: d.Held[i].StartUS, PostedNano: d.Held[i].PostedNano, ReservedNano: d.Held[i].ReservedNano + d.LeaseNano}
		h := proto.CloneOf(holds[i])
		h.AmountNanoUsd, h.PeriodStartUnixUs = l.nano, l.held[i].StartUS
		h.PostedNanoUsd, h.ReservedNanoUsd = l.held[i].PostedNano, l.held[i].ReservedNano
		l.holds = append(l.holds, h)
		if b := compiled.budget(h.GetBudgetId()); b != nil {
			if end, ends := b.end(h.GetPeriodStartUnixUs()); ends {
				// Redis looked at its clock before the answer came, and no earlier than the call was sent.
				left := time.Duration(end.UnixMicro()-d.NowUS) * time.Microsecond
				l.until = earlier(l.until, sent.Add(left-clockMargin))
			}
		}
	}
	var err error
	l.generation, err = s.log.OpenLease(l.workspace, &rateguardv1.ReservationOpened{
		ReservationId: l.id, Subject: l.subject, Holds: l.holds, Epoch: l.epoch, Op: d.LeaseOp, Lease: true,
	})
	if err != nil {
		s.slog.Warn("a lease of budgets could not be opened in the log", slog.String("workspace", l.workspace), slog.Any("error", err))
		s.cancel(&lua.Request{Workspace: l.workspace, Reservation: l.id, Key: r.Key, PolicyVersion: r.PolicyVersion, Producer: s.producer, Holds: r.Holds})
		return nil
	}
	s.met.granted.Add(float64(l.nano))
	return l
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Run ends leases that are over until ctx ends, then all: nobody may take from one any more.
func (s *Leases) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepLeases)
	defer tick.Stop()
	forgotten := time.Now()
	for {
		select {
		case <-ctx.Done():
			s.mu.Lock()
			s.stopped = true
			s.mu.Unlock()
			s.asks.Wait()
			for l := range s.all() {
				if err := s.end(l); err != nil {
					s.slog.Warn("a lease of budgets is not ended in the log; who closes this process does it", slog.String("workspace", l.workspace), slog.Any("error", err))
				}
			}
			return nil
		case <-tick.C:
		}
		s.sweep(time.Now())
		if time.Since(forgotten) > forgetPools {
			forgotten = time.Now()
			s.forget(forgotten)
		}
	}
}

// sweep ends the leases from which nothing can be taken any more, and those that lie idle.
func (s *Leases) sweep(now time.Time) {
	for l, p := range s.all() {
		least, _ := s.epochs.Least(l.workspace)
		p.mu.Lock()
		over := !now.Before(l.until) || l.epoch < least || l.left == 0 || p.demand.Idle(now) >= leaseIdle
		if over {
			p.drop(l)
		}
		over = over && l.taking == 0
		p.mu.Unlock()
		if !over {
			continue
		}
		if err := s.end(l); err != nil && !l.warned {
			l.warned = true
			s.slog.Warn("ending a lease of budgets, trying on", slog.String("workspace", l.workspace), slog.Any("error", err))
		}
	}
}

// all returns the leases that have not ended.
func (s *Leases) all() map[*lease]*pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[*lease]*pool, len(s.open))
	for l, p := range s.open {
		out[l] = p
	}
	return out
}

// drop makes that nothing is taken from a lease any more. The caller holds mu.
func (p *pool) drop(l *lease) {
	for i, other := range p.leases {
		if other == l {
			p.leases = append(p.leases[:i], p.leases[i+1:]...)
			return
		}
	}
}

// end gives back in the log what nobody has taken. A request that has taken and is not opened yet is refused when it comes to that.
func (s *Leases) end(l *lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return nil
	}
	unused := l.nano - l.opened.Load()
	o := &rateguardv1.Outcome{
		ReservationId: l.id, Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, CostNanoUsd: new(int64), Subject: l.subject, Lease: true,
	}
	for _, h := range l.holds {
		h = proto.CloneOf(h)
		h.AmountNanoUsd = unused
		o.Holds = append(o.Holds, h)
	}
	if err := s.log.EndLease(l.workspace, l.generation, o); err != nil {
		return err
	}
	l.ended = true
	s.met.returned.Add(float64(unused))
	s.mu.Lock()
	delete(s.open, l)
	s.mu.Unlock()
	return nil
}

// forget drops pools that nobody uses.
func (s *Leases) forget(now time.Time) {
	s.poolsMu.Lock()
	defer s.poolsMu.Unlock()
	for key, p := range s.pools {
		p.mu.Lock()
		if len(p.leases) == 0 && now.After(p.asking) && p.demand.Idle(now) > forgetPools {
			p.gone = true
			delete(s.pools, key)
		}
		p.mu.Unlock()
	}
}
