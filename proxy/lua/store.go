package lua

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/singleflight"
)

// DefaultTimeout is how long one decision may take.
const DefaultTimeout = 50 * time.Millisecond

// maxRedirects is how often a call that did not run follows a slot: one that moves twice while the map of slots is read
// sends it on by MOVED and by ASK.
const maxRedirects = 3

// StoreConfig are the settings of a Store. Zero fields mean the defaults named beside them.
type StoreConfig struct {
	// URL is the Redis, see ParseStoreURL; required.
	URL string
	// Timeout bounds one decision, the wait for a connection and every second try included, 50 ms; a decision may get a sixteenth less. It has to
	// hold about five round trips, or a new connection is never made.
	Timeout time.Duration
	// OnChange hears that a shard's breaker opened, with the cause, and that it closed. It must not block. May be nil.
	OnChange func(shard string, open bool, cause string)
	// Log is required. Metrics may be nil.
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Store is Redis as the request path uses it: each call ends by its deadline, runs at most once, and a shard that fails
// is left alone until a probe finds it well.
type Store struct {
	cfg     StoreConfig
	client  redis.UniversalClient
	one     *shard   // nil for a cluster
	cluster *cluster // nil for a single server
	met     *metrics
	// evicting is set while the server would throw keys away.
	evicting atomic.Bool
	times    singleflight.Group
	ends     ends

	// mu guards closed and the start of healers.
	mu      sync.Mutex
	closed  bool
	stop    chan struct{}
	healers sync.WaitGroup
}

// Times are Redis' clock as the caller of a script needs it, in µs.
type Times struct {
	// EstimateUS is a lower bound of the shard's clock now.
	EstimateUS int64
	// DeadlineUS is when the call is over: never later than by the caller's own clock.
	DeadlineUS int64
}

// Reply is a script's answer: an array that begins with a status and Redis' time in µs.
type Reply struct {
	// Values is all of the array, status and time included.
	Values []any
	// RedisUS is when the script ran, in µs of the shard's clock.
	RedisUS int64
	// Received is when the answer came, by our clock.
	Received time.Time
	// Shard is the server that ran it.
	Shard string
}

// OpenStore returns a Store. It needs no network.
func OpenStore(cfg StoreConfig) (*Store, error) {
	if cfg.Log == nil {
		return nil, errors.New("opening store: log is required")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTimeout
	}
	o, err := parseStoreURL(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	o = o.governed(cfg.Timeout)
	s := &Store{cfg: cfg, stop: make(chan struct{})}
	if s.met, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	switch {
	case o.single != nil:
		s.one = newShard(o.single.Addr, redis.NewClient(o.single))
		s.client = s.one.client
	case o.sentinel != nil:
		s.one = newShard(o.sentinel.MasterName, redis.NewFailoverClient(o.sentinel))
		s.client = s.one.client
	default:
		s.cluster = newCluster(o.cluster)
		s.client = s.cluster.client
	}
	return s, nil
}

// Client returns the client for what may be repeated: heartbeats, fences. Its calls need deadlines of their own; without
// one each read and write waits a second.
func (s *Store) Client() redis.UniversalClient { return s.client }

// Close ends the probes and the connections.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.stop)
	s.mu.Unlock()
	s.healers.Wait()
	s.met.unregister()
	s.ends.close()
	err := s.client.Close()
	if s.cluster != nil {
		err = errors.Join(err, s.cluster.closeStrangers())
	}
	if err != nil {
		return fmt.Errorf("closing store: %w", err)
	}
	return nil
}

// Eval runs the script once on the shard of keys[0] and returns by the deadline. It is sent again only where
// Redis answered that it did not run it. The arguments are made when the shard's clock is known, and again for another shard.
// Errors match ErrUnavailable or are bugs; MayHaveRun tells whether the call has to be cancelled.
func (s *Store) Eval(ctx context.Context, script *Script, keys []string, args func(Times) []any) (Reply, error) {
	start := time.Now()
	reply, err := s.eval(ctx, script, keys, args)
	s.met.done(time.Since(start), err)
	return reply, err
}

func (s *Store) eval(ctx context.Context, script *Script, keys []string, args func(Times) []any) (Reply, error) {
	if s.evicting.Load() {
		return Reply{}, &UnavailableError{Reason: ReasonEvicting, Err: ErrEvicting}
	}
	timeout := max(s.cfg.Timeout, script.timeout)
	c := &command{script: script, keys: keys, end: s.ends.next(timeout)}
	c.by = c.end.by
	if by, ok := ctx.Deadline(); ok {
		c.short = time.Until(by) < s.cfg.Timeout
		if by.Before(c.by) {
			c.by = by
		}
	}
	sh, err := s.route(ctx, c)
	if err != nil {
		return Reply{}, err
	}
	for redirects := 0; ; redirects++ {
		life, cause, ok := sh.breaker.allow()
		if !ok && script.patient {
			own, cancel := c.bounded(ctx)
			life, cause, ok = sh.breaker.wait(own.Done())
			cancel()
		}
		if !ok {
			return Reply{}, &UnavailableError{Shard: sh.name, Reason: ReasonOpen, Err: fmt.Errorf("breaker is open after %s", cause)}
		}
		times, err := s.now(ctx, sh, c)
		var reply Reply
		if err == nil {
			c.args = args(times)
			reply, err = s.call(ctx, sh, c)
		}
		if err != nil && redirects < maxRedirects {
			if next, asking := s.redirect(ctx, sh, c, err); next != nil {
				sh, c.asking, c.trip = next, asking, nil
				continue
			}
		}
		s.report(ctx, sh, life, c, err)
		return reply, err
	}
}

// command is one script call.
type command struct {
	script *Script
	keys   []string
	args   []any
	// asking: to a server that is about to own the slot.
	asking bool
	// short: the caller gave less time than a decision may take, so that a timeout says nothing about the server.
	short bool
	// end is when it is over, by that or earlier: its caller's own deadline may come first.
	end *end
	by  time.Time
	// trip is the last round trip that took it, nil before.
	trip *trip
}

// bounded is the caller's context with the call's end.
func (c *command) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithDeadline(ctx, c.by)
}

// route finds the shard of the command's first key.
func (s *Store) route(ctx context.Context, c *command) (*shard, error) {
	if s.cluster == nil {
		return s.one, nil
	}
	slots := s.cluster.slots
	life, cause, ok := slots.breaker.allow()
	if !ok {
		return nil, &UnavailableError{Shard: slots.name, Reason: ReasonOpen, Err: fmt.Errorf("no node answered (%s)", cause)}
	}
	own, cancel := c.bounded(ctx)
	defer cancel()
	sh, err := s.cluster.owner(own, c.keys[0])
	if err != nil {
		err = c.unavailable(slots.name, err, false)
	}
	s.report(ctx, slots, life, c, err)
	return sh, err
}

// now returns the shard's clock, asking for it where it is not known.
func (s *Store) now(ctx context.Context, sh *shard, c *command) (Times, error) {
	now := time.Now()
	us := sh.clock.estimate(now)
	if us == 0 {
		flight := s.times.DoChan(sh.name, func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Timeout)
			defer cancel()
			sent := time.Now()
			t, err := sh.client.Time(ctx).Result()
			if err != nil {
				return nil, (&command{}).unavailable(sh.name, err, false)
			}
			return nil, s.observe(sh, sample{t.UnixMicro(), sent, time.Now()}, false)
		})
		select {
		case <-ctx.Done():
			return Times{}, c.unavailable(sh.name, ctx.Err(), false)
		case <-c.end.Done():
			return Times{}, c.unavailable(sh.name, c.end.Err(), false)
		case r := <-flight:
			if r.Err != nil {
				return Times{}, r.Err
			}
		}
		now = time.Now()
		if us = sh.clock.estimate(now); us == 0 {
			return Times{}, &UnavailableError{Shard: sh.name, Reason: ReasonClock, Err: errors.New("the server behind the address changed")}
		}
	}
	return Times{EstimateUS: us, DeadlineUS: us + c.by.Sub(now).Microseconds()}, nil
}

// call sends the script by its name, and by its source where Redis answers that it does not know the name.
func (s *Store) call(ctx context.Context, sh *shard, c *command) (Reply, error) {
	values, at, err := s.send(ctx, sh, c, "evalsha", c.script.sha)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		values, at, err = s.send(ctx, sh, c, "eval", c.script.source)
	}
	if err != nil {
		return Reply{}, err
	}
	if len(values) < 2 {
		return Reply{}, fmt.Errorf("running script on %s: %d values in the reply", sh.name, len(values))
	}
	us, ok := values[1].(int64)
	if text, isText := values[1].(string); isText {
		us, err = strconv.ParseInt(text, 10, 64)
		ok = err == nil
	}
	if !ok {
		return Reply{}, fmt.Errorf("running script on %s: no time in the reply", sh.name)
	}
	at.redisUS = us
	if err := s.observe(sh, at, true); err != nil {
		return Reply{}, err
	}
	return Reply{Values: values, RedisUS: us, Received: at.received, Shard: sh.name}, nil
}

// send makes one round trip, together with others' calls.
func (s *Store) send(ctx context.Context, sh *shard, c *command, name string, text []byte) ([]any, sample, error) {
	mark := &wire{text: text}
	line := make([]any, 0, 3+len(c.keys)+len(c.args))
	line = append(line, name, mark, len(c.keys))
	for _, k := range c.keys {
		line = append(line, k)
	}
	cmd := redis.NewCmd(ctx, append(line, c.args...)...)
	if c.asking {
		return s.ask(ctx, sh, c, cmd, mark)
	}
	if err := ctx.Err(); err != nil {
		return nil, sample{}, c.unavailable(sh.name, err, false)
	}
	var first bool
	if c.trip, first = sh.line.join(cmd, c.end); first {
		go sh.line.travel(c.trip) //nolint:contextcheck // the trip is not its first call's alone
	}
	if err := c.trip.wait(ctx); err != nil {
		return nil, sample{}, c.unavailable(sh.name, err, mark.abandon())
	}
	values, err := cmd.Slice()
	if err != nil {
		return nil, sample{}, c.unavailable(sh.name, err, mark.written())
	}
	return values, sample{sent: c.trip.sent, received: c.trip.received}, nil
}

// ask makes a round trip to a server that is about to own the slot.
func (s *Store) ask(ctx context.Context, sh *shard, c *command, cmd *redis.Cmd, mark *wire) ([]any, sample, error) {
	own, cancel := c.bounded(ctx)
	defer cancel()
	pipe := sh.client.Pipeline()
	_ = pipe.BatchProcess(own, redis.NewStatusCmd(own, "asking"), cmd)
	at := sample{sent: time.Now()}
	if _, err := pipe.Exec(own); err != nil && cmd.Err() == nil {
		cmd.SetErr(err)
	}
	at.received = time.Now()
	values, err := cmd.Slice()
	if err != nil {
		return nil, sample{}, c.unavailable(sh.name, err, mark.written())
	}
	return values, at, nil
}

// observe takes a sample of the shard's clock. Ran says that it came with a script's reply.
func (s *Store) observe(sh *shard, at sample, ran bool) error {
	accepted, err := sh.clock.observe(at)
	if accepted {
		s.cfg.Log.Warn("redis' clock stepped and is taken as it is", slog.String("shard", sh.name))
	}
	if err != nil {
		return &UnavailableError{Shard: sh.name, Reason: ReasonClock, MayHaveRun: ran, Err: err}
	}
	return nil
}

// redirect says where a call that Redis did not run goes next: nil for nowhere.
func (s *Store) redirect(ctx context.Context, sh *shard, c *command, err error) (next *shard, asking bool) {
	var u *UnavailableError
	if !errors.As(err, &u) {
		return nil, false
	}
	own, cancel := c.bounded(ctx)
	defer cancel()
	switch u.Reason {
	case ReasonReadOnly:
		// The primary became a replica. Where its name leads, or the cluster's map, is asked again.
		sh.conns.Add(1)
		if s.cluster == nil {
			return sh, false
		}
		return s.cluster.successor(own, c.keys[0], sh), false
	case ReasonMoved:
		if s.cluster == nil {
			return nil, false
		}
		if addr, ok := redis.IsAskError(err); ok {
			return s.cluster.at(addr, sh), true
		}
		s.cluster.client.ReloadState(own)
		if addr, ok := redis.IsMovedError(err); ok {
			next := s.cluster.at(addr, sh)
			if next == sh {
				sh.conns.Add(1) // its name leads to another server now
			}
			return next, false
		}
	}
	return nil, false
}
