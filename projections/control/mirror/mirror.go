// Package mirror keeps in Redis what proxies must know at once: the newest policies and which keys are revoked. It is
// a second way beside Kafka and no source of truth: everything in it can be written again from PostgreSQL, and is when
// Redis has lost it. It also reads the balances that proxies keep there. It is a package of its own so that no change of the API
// can wait for Redis; only who reads a balance does, and for half a second.
package mirror

import (
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// TTL of everything that is written, renewed at each writing.
const TTL = 400 * 24 * time.Hour

const (
	// interval is how often Redis is looked at, and how long after its return what waits is written at the latest.
	interval = time.Second
	// refreshInterval is the time between two writings of everything: it renews the TTLs, and brings back what a
	// failover to a replica lost without losing the marker.
	refreshInterval = 10 * time.Minute
	// patience bounds one exchange with Redis.
	patience = time.Second
	// loadPatience bounds one reading of the source.
	loadPatience = time.Minute
	// chunk bounds the policies or keys of one exchange.
	chunk = 100
)

//go:embed put_policy.lua
var putPolicySource string

// Policy is a published policy.
type Policy struct {
	Workspace string
	Version   uint64
	// Document is the value of the record in the topic of policies.
	Document []byte
}

// Revoked is a key that was revoked.
type Revoked struct{ Workspace, Key string }

// Contents are policies and revoked keys.
type Contents struct {
	Policies []Policy
	Revoked  []Revoked
}

// Config of a Mirror.
type Config struct {
	// URL of Redis, as CheckURL takes it.
	URL string
	// Load returns everything that has to be in Redis.
	Load func(context.Context) (Contents, error)
	Log  *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Mirror writes to Redis. Any number of processes may run one: writings bear repetition in any order.
type Mirror struct {
	cfg       Config
	redis     redis.UniversalClient
	putPolicy *redis.Script
	pending   pending
	// wake has room for one: a second one tells nothing new.
	wake     chan struct{}
	failures prometheus.Counter
	rewrites prometheus.Counter

	// Of Run alone.
	marker    string // the value of the marker when everything was last written
	refreshed time.Time
	down      bool
}

// New returns a Mirror; it connects when it runs.
func New(cfg Config) (*Mirror, error) {
	open, err := parse(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("redis-url: %w", err)
	}
	m := &Mirror{
		cfg: cfg, redis: open(), putPolicy: redis.NewScript(putPolicySource), wake: make(chan struct{}, 1),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_control_redis_failures_total", Help: "Attempts to bring policies and revocations to Redis that failed and are repeated.",
		}),
		rewrites: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_control_redis_rewrites_total", Help: "Writings of all policies and revocations to Redis: at the start, every 10 minutes, and when Redis had lost them.",
		}),
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(m.failures, m.rewrites,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "rateguard_control_redis_pending", Help: "Policies and revocations that Redis has not acknowledged.",
			}, m.pending.size),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "rateguard_control_redis_lag_seconds", Help: "Age of the oldest policy or revocation that Redis has not acknowledged.",
			}, m.pending.age))
	}
	return m, nil
}

// Add notes what has been committed. It never waits.
func (m *Mirror) Add(c Contents) {
	m.pending.add(c, time.Now())
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run writes until ctx ends and closes the connection. Without Redis it tries again each second.
func (m *Mirror) Run(ctx context.Context) error {
	t := time.NewTicker(interval)
	defer t.Stop()
	for {
		err := m.pass(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			m.failures.Inc()
		}
		if down := err != nil; down != m.down { // once, not each second
			m.down = down
			if down {
				m.cfg.Log.Warn("policies and revocations wait for Redis", slog.Any("error", err))
			} else {
				m.cfg.Log.Info("policies and revocations reach Redis again")
			}
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-m.wake:
		}
	}
	return m.Close()
}

// Close frees the connection; Run does it at its end.
func (m *Mirror) Close() error {
	if err := m.redis.Close(); err != nil && !errors.Is(err, redis.ErrClosed) {
		return fmt.Errorf("closing Redis: %w", err)
	}
	return nil
}

// pass writes what waits, and everything where Redis may not have it.
func (m *Mirror) pass(ctx context.Context) error {
	b, overflown := m.pending.take()
	if overflown {
		m.marker = ""
	}
	err := m.write(ctx, b.Contents)
	if err != nil {
		m.pending.add(b.Contents, b.since)
		return err // Redis is away: what follows would fail too
	}
	marker, err := m.readMarker(ctx)
	if err != nil {
		return err
	}
	if marker == m.marker && time.Since(m.refreshed) < refreshInterval {
		return nil
	}
	all, err := m.load(ctx)
	if err != nil {
		return err
	}
	if err := m.write(ctx, all); err != nil {
		return err
	}
	// The marker is older than the writing: if Redis loses its state meanwhile, the next pass sees that.
	m.marker, m.refreshed = marker, time.Now()
	m.rewrites.Inc()
	return nil
}

func (m *Mirror) load(ctx context.Context) (Contents, error) {
	ctx, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	all, err := m.cfg.Load(ctx)
	if err != nil {
		return Contents{}, fmt.Errorf("reading all policies and revocations: %w", err)
	}
	return all, nil
}

// readMarker returns the value that stands for the state of Redis, and sets one where there is none.
func (m *Mirror) readMarker(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	value, err := m.redis.Get(ctx, keyspace.Mirrored).Result()
	if errors.Is(err, redis.Nil) {
		value = rand.Text()
		var set bool
		if set, err = m.redis.SetNX(ctx, keyspace.Mirrored, value, TTL).Result(); err == nil && !set {
			value, err = m.redis.Get(ctx, keyspace.Mirrored).Result() // another process was faster
		}
	}
	if err != nil {
		return "", fmt.Errorf("reading the marker in Redis: %w", err)
	}
	return value, nil
}

// write sends contents to Redis, revocations first.
func (m *Mirror) write(ctx context.Context, c Contents) error {
	for part := range slices.Chunk(c.Revoked, chunk) {
		if err := m.exchange(ctx, func(ctx context.Context, p redis.Pipeliner) { writeRevoked(ctx, p, part) }); err != nil {
			return fmt.Errorf("writing revocations to Redis: %w", err)
		}
	}
	for _, d := range c.Policies {
		if err := m.writePolicy(ctx, d); err != nil {
			return fmt.Errorf("writing a policy to Redis: %w", err)
		}
	}
	return nil
}

func (m *Mirror) exchange(ctx context.Context, fill func(context.Context, redis.Pipeliner)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := m.redis.Pipelined(ctx, func(p redis.Pipeliner) error {
		fill(ctx, p)
		return nil
	})
	return err
}

// writeRevoked keeps the first score of a key: when a flag was first written, which is what a proxy that polls has to see.
func writeRevoked(ctx context.Context, p redis.Pipeliner, keys []Revoked) {
	now := float64(time.Now().UnixMicro())
	for _, k := range keys {
		p.SAdd(ctx, keyspace.Revoked(k.Workspace), k.Key)
		p.PExpire(ctx, keyspace.Revoked(k.Workspace), TTL)
		p.ZAddNX(ctx, keyspace.RevokedKeys, redis.Z{Score: now, Member: k.Key})
	}
	p.PExpire(ctx, keyspace.RevokedKeys, TTL)
}

func (m *Mirror) writePolicy(ctx context.Context, d Policy) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return m.putPolicy.Run(ctx, m.redis, []string{keyspace.Policy(d.Workspace)}, d.Version, d.Document, TTL.Milliseconds()).Err()
}
