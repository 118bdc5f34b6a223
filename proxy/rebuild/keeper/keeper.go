// Package keeper keeps the budgets in Redis at what the log shows. One elected process reads the costs topic; it brings what ended into Redis, and where
// Redis has lost its state it starts a round, waits for the seals of all producers and installs the state anew. Any number of keepers is safe: the log orders
// rounds, an epoch is installed once, and a step is applied once.
package keeper

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild"
	"github.com/rateguard/rateguard/proxy/rebuild/roster"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/hash"
)

// Redis is what the keeper does there.
type Redis struct {
	Balances *lua.Balances
	Wants    *lua.Wants
	Offices  *lua.Producers
}

// Config are the settings of a Keeper. Zero durations mean the defaults named beside the fields.
type Config struct {
	Kafka    broker.Config
	Spool    *spool.Spool
	Roster   *roster.Roster
	Redis    Redis
	Policies rebuild.Policies
	// Lease is how long the office is held without a renewal, 3 s; WantedEvery how often is looked who waits for budgets, 25 ms; TornFor how long a
	// workspace that the log does not show whole is left alone, a minute: each round for it would disturb all others of the partition.
	Lease       time.Duration
	WantedEvery time.Duration
	TornFor     time.Duration
	Log         *slog.Logger
	Metrics     prometheus.Registerer
}

// Keeper is made with New and run once.
type Keeper struct {
	cfg Config
	log *slog.Logger
	met metrics

	// mu guards begun: the workspaces whose budgets this process has begun. It does so once, or it could install an epoch twice.
	mu    sync.Mutex
	begun map[string]bool
}

// New returns a keeper; nothing runs before Run.
func New(cfg Config) *Keeper {
	if cfg.Lease == 0 {
		cfg.Lease = 3 * time.Second
	}
	if cfg.WantedEvery == 0 {
		cfg.WantedEvery = 25 * time.Millisecond
	}
	if cfg.TornFor == 0 {
		cfg.TornFor = time.Minute
	}
	return &Keeper{cfg: cfg, log: cfg.Log, met: newMetrics(cfg.Metrics), begun: make(map[string]bool)}
}

// Run keeps budgets while it holds the office, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	select {
	case <-k.cfg.Spool.Announced():
	case <-ctx.Done():
		return nil
	}
	tick := time.NewTicker(k.cfg.Lease / 3)
	defer tick.Stop()
	var term *term
	renewed := time.Now()
	for {
		holds, err := k.cfg.Redis.Offices.Elect(ctx, lua.Keeper, k.cfg.Spool.ProducerID(), k.cfg.Lease)
		switch {
		case err == nil && holds:
			renewed = time.Now()
			if term == nil {
				term = k.begin(ctx)
			}
		case term != nil && (err == nil || time.Since(renewed) > k.cfg.Lease):
			term.end()
			term = nil
		}
		select {
		case <-ctx.Done():
			if term != nil {
				term.end()
			}
			return nil
		case <-tick.C:
		}
	}
}

// firstTime reports whether this process has not begun the budgets of the workspace before, and notes that it does now.
func (k *Keeper) firstTime(workspace string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := !k.begun[workspace]
	k.begun[workspace] = true
	return first
}

// term is one time in office.
type term struct {
	keeper *Keeper
	cancel context.CancelFunc
	group  sync.WaitGroup
	// partitions by number; written by the one goroutine that looks for wants.
	partitions map[int32]*partition
}

func (k *Keeper) begin(ctx context.Context) *term {
	ctx, cancel := context.WithCancel(ctx)
	t := &term{keeper: k, cancel: cancel, partitions: make(map[int32]*partition)}
	t.group.Go(func() { t.run(ctx) })
	return t
}

func (t *term) end() {
	t.cancel()
	t.group.Wait()
}

// run starts the reading of every partition that has budgets and hands on who waits for them.
func (t *term) run(ctx context.Context) {
	wanted := time.NewTicker(t.keeper.cfg.WantedEvery)
	defer wanted.Stop()
	budgets := time.NewTicker(time.Second)
	defer budgets.Stop()
	t.start(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-budgets.C:
			t.start(ctx)
		case <-wanted.C:
			workspaces, err := t.keeper.cfg.Redis.Wants.Wanted(ctx)
			if err != nil {
				continue // nothing can be installed there now; who waits asks again
			}
			for _, ws := range workspaces {
				t.of(ctx, ws).want(ws)
			}
		}
	}
}

// start begins with the partitions of all workspaces that have budgets.
func (t *term) start(ctx context.Context) {
	t.keeper.cfg.Policies.Budgets(func(workspace string, _ uint64) { t.of(ctx, workspace) })
}

// of returns the partition of a workspace, which is read from now on.
func (t *term) of(ctx context.Context, workspace string) *partition {
	partitions := int32(t.keeper.cfg.Spool.CostsPartitions()) //nolint:gosec // a number of partitions
	n := hash.Partition([]byte(workspace), partitions)
	p := t.partitions[n]
	if p == nil {
		p = newPartition(t.keeper, n, partitions)
		t.partitions[n] = p
		t.group.Go(func() { p.run(ctx) })
	}
	return p
}

// errSuperseded means that somebody else has started a later round.
var errSuperseded = errors.New("another round was started")
