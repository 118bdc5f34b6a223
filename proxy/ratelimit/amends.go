package ratelimit

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
)

const (
	// maxAmends bounds what waits for the store by reservation; above it amounts are added up by bucket.
	maxAmends = 20_000
	// amendEvery is how long the worker waits after a failure.
	amendEvery = 200 * time.Millisecond
	// cancelFor is how long a cancellation of limits is repeated. Then nothing that was sent can run any more, and what it had taken has mostly
	// leaked out. What is held of budgets does not leak: that is cancelled until it is acknowledged.
	cancelFor = time.Minute
)

// Amends are the changes of limits that wait for the store: what was let through while it was away is charged once it is back, and
// what may have been admitted without anybody waiting for it is cancelled. Each has one effect, by its reservation's id.
type Amends struct {
	store   Store
	ask     func(workspace string)
	log     *slog.Logger
	waiting prometheus.Gauge
	lost    prometheus.Counter
	wake    chan struct{}

	// mu guards queue and sums.
	mu    sync.Mutex
	queue []amend
	// sums holds by workspace what came above the bound, as one reservation each.
	sums map[string]*amend
}

type amend struct {
	how     lua.Adjustment
	request lua.Request
	atUS    int64
	since   time.Time
}

// NewAmends returns an empty queue; Run works on it. Ask asks for the budgets of a workspace to be read from the log.
func NewAmends(store Store, ask func(workspace string), log *slog.Logger, reg prometheus.Registerer) *Amends {
	a := &Amends{
		store: store, ask: ask, log: log, wake: make(chan struct{}, 1), sums: map[string]*amend{},
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rateguard_proxy_limits_amends_waiting", Help: "Changes of limits that wait for the store.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_proxy_limits_amends_lost_total", Help: "Changes of limits that were given up.",
		}),
	}
	reg.MustRegister(a.waiting, a.lost)
	return a
}

// Add queues a change; it copies what it keeps.
func (a *Amends) Add(how lua.Adjustment, r *lua.Request, atUS int64) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) >= maxAmends && (how != lua.Cancel || len(r.Holds) == 0) {
		if how == lua.Charge {
			a.sum(r, atUS, now)
		} else {
			a.lost.Inc()
		}
		return
	}
	kept := *r
	kept.Holds = slices.Clone(r.Holds)
	kept.Takes = slices.DeleteFunc(slices.Clone(r.Takes), func(t lua.Take) bool { return t.Held }) // never taken from the store
	a.queue = append(a.queue, amend{how, kept, atUS, now})
	a.count()
	select {
	case a.wake <- struct{}{}:
	default: // it is awake
	}
}

// sum adds a charge to the one of its workspace. The caller holds mu.
func (a *Amends) sum(r *lua.Request, atUS int64, now time.Time) {
	s := a.sums[r.Workspace]
	if s == nil {
		s = &amend{how: lua.Charge, atUS: atUS, since: now, request: lua.Request{Workspace: r.Workspace, Reservation: call.NewID(now)}}
		a.sums[r.Workspace] = s
	}
	for _, t := range r.Takes {
		if t.Held {
			continue
		}
		i := slices.IndexFunc(s.request.Takes, func(o lua.Take) bool { return o.Bucket == t.Bucket })
		if i < 0 {
			s.request.Takes = append(s.request.Takes, t)
			continue
		}
		s.request.Takes[i].Amount += t.Amount
	}
}

func (a *Amends) count() { a.waiting.Set(float64(len(a.queue) + len(a.sums))) }

// Run makes the changes until ctx ends; then it tries once more what is left.
func (a *Amends) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if !a.work(last) {
				a.log.Warn("changes of rate limits are lost with this process", slog.Int("count", a.Waiting()))
			}
			return nil
		case <-a.wake:
		case <-retry.C:
		}
		if !a.work(ctx) {
			retry.Reset(amendEvery)
		}
	}
}

// Waiting returns how many changes wait.
func (a *Amends) Waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.queue) + len(a.sums)
}

// work makes the changes in order; false: one failed, and is tried again later. What has to wait until the budgets of its workspace can be used holds up
// no others.
func (a *Amends) work(ctx context.Context) bool {
	closed, later := map[string]bool{}, []amend(nil)
	defer func() { a.putBack(later) }()
	for {
		next, ok := a.first()
		if !ok {
			return len(later) == 0
		}
		if len(next.request.Holds) > 0 && closed[next.request.Workspace] {
			later = append(later, next)
			a.drop()
			continue
		}
		if err := a.store.Adjust(ctx, next.how, &next.request, next.atUS); err != nil {
			if errors.Is(err, lua.ErrNoEpoch) {
				closed[next.request.Workspace] = true
				a.ask(next.request.Workspace)
				later = append(later, next)
				a.drop()
				continue
			}
			if next.how == lua.Charge || len(next.request.Holds) > 0 || time.Since(next.since) < cancelFor {
				return false
			}
			a.lost.Inc()
		}
		a.drop()
	}
}

// putBack queues what was taken out and not done.
func (a *Amends) putBack(later []amend) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = append(a.queue, later...)
	a.count()
}

// first returns what is to be done next; the sums come last.
func (a *Amends) first() (amend, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		for ws, s := range a.sums {
			a.queue = append(a.queue, *s)
			delete(a.sums, ws)
		}
	}
	if len(a.queue) == 0 {
		return amend{}, false
	}
	return a.queue[0], true
}

func (a *Amends) drop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue[0] = amend{}
	if a.queue = a.queue[1:]; len(a.queue) == 0 {
		a.queue = nil
	}
	a.count()
}
