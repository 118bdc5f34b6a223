package proxy_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/rateguard/rateguard/proxy"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

// logged is what was written to a log.
type logged struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// times returns how often a text was logged.
func (l *logged) times(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

const (
	isolationBegins = "neither Redis nor Kafka can be reached"
	isolationEnds   = "Redis or Kafka can be reached again"
)

// isolated is the gauge, −1 where there is none.
func isolated(t *testing.T, reg *prometheus.Registry) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "rateguard_proxy_isolated" {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

func TestAnIsolationIsSaidOnceWhenItBeginsAndWhenItEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var redisAway, kafkaAway atomic.Bool
		answer := func(away *atomic.Bool) func(context.Context) error {
			return func(ctx context.Context) error {
				if !away.Load() {
					return nil
				}
				<-ctx.Done() // a network that swallows everything
				return errors.New("no answer")
			}
		}
		out, reg := new(logged), prometheus.NewRegistry()
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			proxy.WatchIsolation(ctx, answer(&redisAway), answer(&kafkaAway), 10*time.Second, slog.New(slog.NewTextHandler(out, nil)), reg)
		})
		for i, step := range []struct {
			name         string
			redis, kafka bool // away
			lasts        time.Duration
			gauge        float64
			begun, ended int
		}{
			{"all is well", false, false, time.Minute, 0, 0, 0},
			{"only Redis is away", true, false, time.Minute, 0, 0, 0},
			{"only Kafka is away", false, true, time.Minute, 0, 0, 0},
			{"both, for a short time", true, true, 9 * time.Second, 0, 0, 0},
			{"Redis is back", false, true, time.Minute, 0, 0, 0},
			{"both", true, true, 15 * time.Second, 1, 1, 0},
			{"still", true, true, time.Hour, 1, 1, 0},
			{"Kafka is back", true, false, 5 * time.Second, 0, 1, 1},
			{"both again", true, true, time.Minute, 1, 2, 1},
			{"all is well again", false, false, 5 * time.Second, 0, 2, 2},
		} {
			redisAway.Store(step.redis)
			kafkaAway.Store(step.kafka)
			<-time.After(step.lasts) // time is the bubble's
			synctest.Wait()
			if g, b, e := isolated(t, reg), out.times(isolationBegins), out.times(isolationEnds); g != step.gauge || b != step.begun || e != step.ended {
				t.Errorf("step %d, %s: gauge %v, said %d and %d times, want %+v", i, step.name, g, b, e, step)
			}
		}
		stop()
		wg.Wait()
	})
}

// The role itself, with real connections.
func TestARoleThatIsCutOffSaysSo(t *testing.T) {
	t.Parallel()
	var seeds []kfake.Opt
	for _, topic := range topics.All() {
		seeds = append(seeds, kfake.SeedTopics(1, topic.Name))
	}
	cluster, err := kfake.NewCluster(append(seeds, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	cut := sync.OnceFunc(cluster.Close)
	defer cut()
	store := redistest.Start(t)
	out, reg := new(logged), prometheus.NewRegistry()
	s, err := proxy.New(t.Context(), proxy.Config{
		Addr: "127.0.0.1:0", DataDir: t.TempDir(), RedisURL: store.URL(), SecretKey: strings.Repeat("ab", 32), IsolatedAfter: time.Second,
		Kafka: broker.Config{Brokers: strings.Join(cluster.ListenAddrs(), ",")}, FlushTimeout: time.Second,
	}, slog.New(slog.NewTextHandler(out, nil)), reg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	eventually(t, func() bool { return s.Ready() == nil }, "readiness")
	store.Kill()
	eventually(t, func() bool { return out.times("revoked keys cannot be read") == 1 }, "a missing Redis")
	if isolated(t, reg) != 0 {
		t.Error("isolated with Kafka in reach")
	}
	cut()
	eventually(t, func() bool { return isolated(t, reg) == 1 && out.times(isolationBegins) == 1 }, "the isolation")
	store.Restart()
	eventually(t, func() bool { return isolated(t, reg) == 0 && out.times(isolationEnds) == 1 }, "its end")
	stop()
	if err := <-done; err != nil {
		t.Errorf("stopping: %v", err)
	}
	if out.times(isolationBegins) != 1 || out.times(isolationEnds) != 1 {
		t.Errorf("said %d and %d times", out.times(isolationBegins), out.times(isolationEnds))
	}
}
