package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/projections/control/mirror"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// start runs a mirror of the server until the test ends.
func start(t *testing.T, s *server, reg prometheus.Registerer, load func(context.Context) (mirror.Contents, error)) *mirror.Mirror {
	t.Helper()
	m, err := mirror.New(mirror.Config{URL: s.url(), Load: load, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: reg})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running the mirror: %v", err)
		}
	})
	return m
}

func nothing(context.Context) (mirror.Contents, error) { return mirror.Contents{}, nil }

func revoked(keys ...string) mirror.Contents {
	var c mirror.Contents
	for _, k := range keys {
		c.Revoked = append(c.Revoked, mirror.Revoked{Workspace: "ws_1", Key: k})
	}
	return c
}

func policy(version uint64, document string) mirror.Contents {
	return mirror.Contents{Policies: []mirror.Policy{{Workspace: "ws_1", Version: version, Document: []byte(document)}}}
}

func (s *server) flagged(key string) bool {
	in, err := s.client.SIsMember(s.t.Context(), keyspace.Revoked("ws_1"), key).Result()
	score, zerr := s.client.ZScore(s.t.Context(), keyspace.RevokedKeys, key).Result()
	return err == nil && zerr == nil && in && score > 0
}

// policy returns "version document" of the workspace.
func (s *server) policy() string {
	v, err := s.client.HMGet(s.t.Context(), keyspace.Policy("ws_1"), "v", "d").Result()
	if err != nil {
		return err.Error()
	}
	return fmt.Sprint(v[0], " ", v[1])
}

func TestTheLargestVersionStays(t *testing.T) {
	s := newServer(t)
	s.start()
	m := start(t, s, nil, nothing)
	for _, step := range []struct {
		version  uint64
		document string
		want     string
	}{
		{9, "nine", "9 nine"}, {8, "eight", "9 nine"}, {9, "other", "9 nine"}, {10, "ten\x00\xff", "10 ten\x00\xff"},
	} {
		m.Add(policy(step.version, step.document))
		s.settle(m)
		if got := s.policy(); got != step.want {
			t.Errorf("after version %d: got %q, want %q", step.version, got, step.want)
		}
	}
}

// settle waits until what was added before it is written: the second flag is of a later pass than the first.
func (s *server) settle(m *mirror.Mirror) {
	s.t.Helper()
	for range 2 {
		s.flags++
		flag := fmt.Sprint("settled_", s.flags)
		m.Add(revoked(flag))
		await(s.t, "a pass", func() bool { return s.flagged(flag) })
	}
}

func TestEverythingHasATTL(t *testing.T) {
	s := newServer(t)
	s.start()
	m := start(t, s, nil, nothing)
	m.Add(policy(1, "one"))
	m.Add(revoked("key_1"))
	await(t, "the writing", func() bool { return s.flagged("key_1") && s.policy() == "1 one" })
	await(t, "the marker", func() bool { return s.client.Exists(t.Context(), keyspace.Mirrored).Val() == 1 })
	for _, key := range s.client.Keys(t.Context(), "*").Val() {
		if ttl := s.client.TTL(t.Context(), key).Val(); ttl < mirror.TTL-time.Hour || ttl > mirror.TTL {
			t.Errorf("%s: TTL %s, want %s", key, ttl, mirror.TTL)
		}
	}
}

func TestTheFirstScoreOfAFlagStays(t *testing.T) {
	s := newServer(t)
	s.start()
	m := start(t, s, nil, nothing)
	m.Add(revoked("key_1"))
	await(t, "the flag", func() bool { return s.flagged("key_1") })
	first := s.client.ZScore(t.Context(), keyspace.RevokedKeys, "key_1").Val()
	m.Add(revoked("key_1", "key_2"))
	await(t, "the second flag", func() bool { return s.flagged("key_2") })
	if again := s.client.ZScore(t.Context(), keyspace.RevokedKeys, "key_1").Val(); again != first {
		t.Errorf("score: got %f, want %f", again, first)
	}
}

func TestALostStateComesBack(t *testing.T) {
	s := newServer(t)
	s.start()
	var loads atomic.Int32
	start(t, s, nil, func(context.Context) (mirror.Contents, error) {
		if loads.Add(1) == 2 {
			return mirror.Contents{}, errors.New("the source fails on purpose")
		}
		c := revoked("key_1")
		c.Policies = policy(3, "three").Policies
		return c, nil
	})
	back := func() bool { return s.flagged("key_1") && s.policy() == "3 three" }
	await(t, "what was there at the start", back)
	if err := s.client.FlushAll(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	await(t, "it to come back, though the source fails at first", back)
}

// TestWhatCameWhileRedisWasDownIsWrittenLater: the source knows nothing of it, as one that is read too early.
func TestWhatCameWhileRedisWasDownIsWrittenLater(t *testing.T) {
	s := newServer(t)
	s.start()
	reg := prometheus.NewPedanticRegistry()
	m := start(t, s, reg, nothing)
	m.Add(revoked("key_0"))
	await(t, "the first flag", func() bool { return s.flagged("key_0") })
	s.kill()
	began := time.Now()
	m.Add(revoked("key_1"))
	m.Add(policy(2, "two"))
	if took := time.Since(began); took > time.Second/2 {
		t.Errorf("Add took %s while Redis was down", took)
	}
	await(t, "metrics that tell of it", func() bool {
		return gauge(t, reg, "rateguard_control_redis_pending") == 2 && gauge(t, reg, "rateguard_control_redis_lag_seconds") > 0 &&
			gauge(t, reg, "rateguard_control_redis_failures_total") > 1
	})
	s.start()
	await(t, "what waited", func() bool { return s.flagged("key_1") && s.policy() == "2 two" })
	await(t, "nothing to wait", func() bool { return gauge(t, reg, "rateguard_control_redis_pending") == 0 })
}

func gauge(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// TestWhatOverflowsIsReadFromTheSource: more waits than is kept in memory.
func TestWhatOverflowsIsReadFromTheSource(t *testing.T) {
	s := newServer(t)
	var source atomic.Pointer[mirror.Contents]
	source.Store(&mirror.Contents{})
	s.start()
	m := start(t, s, nil, func(context.Context) (mirror.Contents, error) { return *source.Load(), nil })
	await(t, "the first writing", func() bool { return s.client.Exists(t.Context(), keyspace.Mirrored).Val() == 1 })
	var many []string
	for i := range 10_001 {
		many = append(many, fmt.Sprint("key_", i))
	}
	all := revoked(many...)
	source.Store(&all)
	m.Add(all)
	await(t, "all flags", func() bool { return s.client.SCard(t.Context(), keyspace.Revoked("ws_1")).Val() == int64(len(many)) })
}
