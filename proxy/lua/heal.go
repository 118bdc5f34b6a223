package lua

import (
	"context"
	_ "embed"
	"errors"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"
)

const (
	// probeEvery is the least time between two probes of an open shard; up to twice as long, so that proxies do not meet.
	probeEvery = 100 * time.Millisecond
	// probeTTL is how long a probe's key lives.
	probeTTL = time.Minute
	probeKey = "rg:probe"
)

//go:embed probe.lua
var probeSource string

var probeScript = NewScript(probeSource)

// report takes the result of a call to a shard. Not every failure is the shard's, and a round trip's result counts once.
func (s *Store) report(ctx context.Context, sh *shard, life uint64, c *command, err error) {
	var cause Reason
	var u *UnavailableError
	if errors.As(err, &u) {
		switch cause = u.Reason; cause {
		case ReasonCancelled, ReasonMoved, ReasonClosed, "tryagain":
			return
		}
	}
	if c.trip != nil && !c.trip.tell(cause != "") {
		return
	}
	var opened bool
	if cause == ReasonClock {
		opened = sh.breaker.force(life, cause)
	} else {
		opened = sh.breaker.report(life, time.Now(), cause)
	}
	if opened {
		s.opened(context.WithoutCancel(ctx), sh, c.keys[0], cause)
	}
}

// opened tells of an open breaker and starts its healer, the only one that asks the shard from now on.
func (s *Store) opened(ctx context.Context, sh *shard, key string, cause Reason) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.changed(sh.name, true, cause)
	s.healers.Go(func() {
		if s.heal(ctx, sh, key) {
			sh.breaker.heal()
			s.changed(sh.name, false, cause)
		}
	})
}

// changed tells everybody who wants to know.
func (s *Store) changed(shard string, open bool, cause Reason) {
	s.met.set(shard, open)
	if open {
		s.cfg.Log.Error("store is unavailable", slog.String("shard", shard), slog.String("cause", string(cause)))
	} else {
		s.cfg.Log.Info("store is back", slog.String("shard", shard), slog.String("cause", string(cause)))
	}
	if s.cfg.OnChange != nil {
		s.cfg.OnChange(shard, open, string(cause))
	}
}

// heal probes the shard until it works or its slots went elsewhere; false when the store was closed.
func (s *Store) heal(ctx context.Context, sh *shard, key string) bool {
	for {
		wait := time.NewTimer(probeEvery + rand.N(probeEvery)) //nolint:gosec // spreads proxies, no secret
		select {
		case <-s.stop:
			wait.Stop()
			return false
		case <-wait.C:
		}
		if s.probe(ctx, sh, key) {
			return true
		}
	}
}

// probe asks the shard once, for a decision that changes nothing.
func (s *Store) probe(ctx context.Context, sh *shard, key string) bool {
	own, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	target := probeKey
	if s.cluster != nil {
		owner, err := s.cluster.owner(own, key)
		if err != nil {
			return false
		}
		if owner != sh {
			return true // also for the map of slots, which has just answered
		}
		target += ":{" + slotTag(key) + "}"
	}
	c := &command{script: probeScript, keys: []string{target}, args: []any{probeTTL.Milliseconds()}, end: s.ends.next(s.cfg.Timeout)}
	c.by = c.end.by
	_, err := s.call(own, sh, c)
	if err == nil {
		return true
	}
	var u *UnavailableError
	if errors.As(err, &u) && u.Reason == ReasonReadOnly {
		sh.conns.Add(1)
	}
	if s.cluster != nil {
		s.cluster.client.ReloadState(own)
	}
	return false
}

// slotTag is the part of a key that decides its slot in a cluster.
func slotTag(key string) string {
	if _, rest, ok := strings.Cut(key, "{"); ok {
		if tag, _, ok := strings.Cut(rest, "}"); ok && tag != "" {
			return tag
		}
	}
	return key
}
