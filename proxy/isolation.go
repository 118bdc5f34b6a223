package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// isolationEvery is how often Redis is asked whether it is there, and isolationTimeout how long it has to answer.
	isolationEvery   = time.Second
	isolationTimeout = time.Second
)

// isolation tells the operator that this proxy reaches neither Redis nor Kafka. One of them away has signs of its own, which the
// other carries: alerts leave by Kafka, and a proxy that is gone is seen in Redis. A proxy that is cut off from both serves by its own
// share of the limits and by the configuration it has, and nobody hears of it but by this.
type isolation struct {
	// redis and kafka return nil when a server answered.
	redis, kafka func(context.Context) error
	// after is how long both have to be away.
	after time.Duration
	log   *slog.Logger
	gauge prometheus.Gauge
}

func newIsolatedGauge(reg prometheus.Registerer) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rateguard_proxy_isolated", Help: "1 while this proxy reaches neither Redis nor Kafka.",
	})
	reg.MustRegister(g)
	return g
}

// run looks until ctx ends. It says once that the isolation began, and once that it ended.
func (i *isolation) run(ctx context.Context) {
	tick := time.NewTicker(isolationEvery)
	defer tick.Stop()
	var since time.Time // zero: not cut off
	said := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := time.Now()
		err := i.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			if said {
				i.gauge.Set(0)
				i.log.Info("Redis or Kafka can be reached again", slog.String("isolated_for", time.Since(since).Round(time.Second).String()))
			}
			since, said = time.Time{}, false
		case since.IsZero():
			since = began
		case !said && began.Sub(since) >= i.after: // not until now: an answer may have come while the other was asked
			said = true
			i.gauge.Set(1)
			i.log.Error("neither Redis nor Kafka can be reached: limits are kept by this proxy's share, configuration and revocations stand still",
				slog.String("isolated_for", time.Since(since).Round(time.Second).String()), slog.Any("error", err))
		}
	}
}

// look returns why neither answers. Kafka is asked only when Redis does not.
func (i *isolation) look(ctx context.Context) error {
	redisCtx, cancelRedis := context.WithTimeout(ctx, isolationTimeout)
	defer cancelRedis()
	redisErr := i.redis(redisCtx)
	if redisErr == nil {
		return nil
	}
	kafkaCtx, cancelKafka := context.WithTimeout(ctx, isolationTimeout)
	defer cancelKafka()
	kafkaErr := i.kafka(kafkaCtx)
	if kafkaErr == nil {
		return nil
	}
	return errors.Join(fmt.Errorf("asking Redis: %w", redisErr), fmt.Errorf("asking Kafka: %w", kafkaErr))
}

// watchIsolation looks for an isolation until ctx ends.
func (s *Server) watchIsolation(ctx context.Context) error {
	opts, err := s.cfg.Kafka.Options()
	if err != nil {
		return fmt.Errorf("watching for an isolation: %w", err)
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("watching for an isolation: %w", err)
	}
	defer client.Close()
	redis := func(ctx context.Context) error { return s.store.Client().Ping(ctx).Err() }
	i := isolation{redis: redis, kafka: client.Ping, after: s.cfg.IsolatedAfter, log: s.log, gauge: s.isolated}
	i.run(ctx)
	return nil
}
