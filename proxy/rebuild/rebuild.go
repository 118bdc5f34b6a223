// Package rebuild ends what a gone producer left: it fences the id in Redis, reads in the log what
// the id opened and never ended, and appends one ProducerClosed a workspace and topic. The next
// process on the same folder and an elected reaper follow the same steps.
package rebuild

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/roster"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/topics/broker"
)

// Config are the settings of a Rebuilder. Zero durations mean the defaults named beside the fields.
type Config struct {
	// Spool is this process' own; its Run has to be running too.
	Spool *spool.Spool
	// Kafka says where the log is.
	Kafka broker.Config
	// Redis holds heartbeats and fences. Nil: this process sends none and closes only predecessors in its own folder.
	// All proxies of one Kafka need the same Redis, or the others take those without one for gone.
	Redis redis.UniversalClient
	// Budgets are fenced against a producer that is closed. Nil: there are none.
	Budgets *Budgets
	// Gate is told of rounds. Nil: this process answers none.
	Gate Gate
	// Heartbeat is the interval of the own heartbeat, 5 s; GoneAfter the time without one after which a
	// producer is closed, 60 s; ReapEvery how often the reaper looks, 5 s.
	Heartbeat time.Duration
	GoneAfter time.Duration
	ReapEvery time.Duration
	// Log is required. Metrics may be nil.
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

func (c Config) withDefaults() Config {
	def := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.Heartbeat, 5*time.Second)
	def(&c.GoneAfter, time.Minute)
	def(&c.ReapEvery, 5*time.Second)
	return c
}

// Rebuilder keeps this process' producer alive in Redis and closes those that are gone.
type Rebuilder struct {
	cfg    Config
	log    *slog.Logger
	redis  *lua.Producers // nil without Redis
	roster *roster.Roster
	met    *metrics
	fenced chan struct{}
	once   sync.Once
	living atomic.Int32

	// predMu guards whole: the predecessors in whose name rounds are sealed. drained says that there is another one.
	predMu  sync.Mutex
	whole   []string
	drained chan struct{}
}

// New returns a Rebuilder; nothing runs before Run.
func New(cfg Config) (*Rebuilder, error) {
	cfg = cfg.withDefaults()
	if cfg.Spool == nil || cfg.Log == nil {
		return nil, errors.New("making rebuilder: spool and log are required")
	}
	if cfg.GoneAfter < 2*cfg.Heartbeat {
		return nil, fmt.Errorf("making rebuilder: gone after %s is less than two heartbeats of %s", cfg.GoneAfter, cfg.Heartbeat)
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	r := &Rebuilder{
		cfg: cfg, log: cfg.Log, met: m, fenced: make(chan struct{}), roster: roster.New(cfg.Kafka, cfg.Log), drained: make(chan struct{}, 1),
	}
	if cfg.Redis != nil {
		r.redis = lua.NewProducers(cfg.Redis)
	}
	return r, nil
}

// Fenced is closed when somebody closed this producer: the spool admits nothing more, and the process
// should drain and end; its next start is a new producer.
func (r *Rebuilder) Fenced() <-chan struct{} { return r.fenced }

// Living returns how many proxies sent heartbeats when Redis was last asked, at least 1.
func (r *Rebuilder) Living() int { return max(1, int(r.living.Load())) }

// Roster returns the view of all producers that Run keeps.
func (r *Rebuilder) Roster() *roster.Roster { return r.roster }

// Run sends heartbeats, seals epochs, closes the predecessors of the own folder and reaps other producers, until the context ends.
func (r *Rebuilder) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { r.roster.Run(ctx) })
	wg.Go(func() { r.watchSelf(ctx) })
	wg.Go(func() { r.closePredecessors(ctx) })
	if r.cfg.Gate != nil {
		wg.Go(func() { r.seal(ctx) })
	}
	if r.redis != nil {
		wg.Go(func() { r.beat(ctx) })
		wg.Go(func() { r.reap(ctx) })
	}
	wg.Wait()
	r.met.unregister()
	return nil
}

// beat sends the heartbeat until the producer is fenced.
func (r *Rebuilder) beat(ctx context.Context) {
	failing := false
	for {
		bctx, cancel := context.WithTimeout(ctx, r.cfg.Heartbeat)
		fenced, living, err := r.redis.Heartbeat(bctx, r.cfg.Spool.ProducerID(), 3*r.cfg.Heartbeat)
		cancel()
		if err == nil && !fenced {
			r.living.Store(int32(min(living, math.MaxInt32))) //nolint:gosec // bounded
		}
		if fenced {
			r.retire("redis")
			return
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			r.log.Warn("producer heartbeat", slog.Any("error", err))
		}
		failing = err != nil
		if !sleep(ctx, r.cfg.Heartbeat) {
			return
		}
	}
}

// retire stops admission under this id for good.
func (r *Rebuilder) retire(seenIn string) {
	r.once.Do(func() {
		r.log.Error("this producer was closed by another process", slog.String("producer_id", r.cfg.Spool.ProducerID()),
			slog.String("seen_in", seenIn))
		r.cfg.Spool.Fence()
		close(r.fenced)
	})
}

// closePredecessors closes what earlier processes left in the folder, oldest first, once all of it is in the log:
// a later one may have ended what an earlier one left. The folder's lock is ours, so they are dead; Redis is
// told where it answers and not waited for.
func (r *Rebuilder) closePredecessors(ctx context.Context) {
	ids := r.cfg.Spool.Predecessors()
	dead := make(map[string]spool.Predecessor, len(ids))
	for _, id := range ids {
		p, err := r.cfg.Spool.WaitPredecessor(ctx, id)
		if err != nil {
			return // only the context ends the wait
		}
		dead[id] = p
		if !p.Rebooted {
			r.ship(id)
		}
	}
	for _, id := range ids {
		r.retry(ctx, id, func() error {
			if r.redis != nil {
				fctx, cancel := context.WithTimeout(ctx, r.cfg.Heartbeat)
				if err := r.redis.Fence(fctx, id, r.cfg.Spool.ProducerID()); err != nil {
					r.log.Warn("fencing predecessor", slog.String("producer_id", id), slog.Any("error", err))
				}
				cancel()
			}
			if err := r.close(ctx, gone{status: dead[id].Status, dead: true, complete: !dead[id].Rebooted, patience: usableFor}); err != nil {
				return err
			}
			return r.cfg.Spool.Forget(id)
		})
	}
}

// retry repeats until it works or the context ends.
func (r *Rebuilder) retry(ctx context.Context, id string, f func() error) {
	for delay := 100 * time.Millisecond; ; delay = min(2*delay, 10*time.Second) {
		err := f()
		if err == nil || ctx.Err() != nil {
			return
		}
		r.met.failures.Inc()
		r.log.Error("closing producer", slog.String("producer_id", id), slog.Any("error", err))
		if !sleep(ctx, delay) {
			return
		}
	}
}

// sleep waits and reports false when the context ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
