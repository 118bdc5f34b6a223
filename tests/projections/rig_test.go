package projections_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections"
	"github.com/rateguard/rateguard/projections/clickhouse"
	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const partitions = 3

// patience bounds every wait of these tests.
const patience = 60 * time.Second

// rig is one empty system: databases and a broker of its own.
type rig struct {
	t       *testing.T
	pg      *pgxpool.Pool
	ch      driver.Conn
	kafka   *kgo.Client
	cluster *kfake.Cluster
	cfg     projections.Config
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if err := shared.start(context.WithoutCancel(t.Context())); err != nil {
		t.Fatalf("starting the engines: %v", err)
	}
	name := "t" + strings.ReplaceAll(uuid.NewString(), "-", "")
	r := &rig{t: t, cfg: projections.DefaultConfig()}
	r.cfg.Instance = name
	r.cfg.Linger = 5 * time.Millisecond

	admin := r.openPostgres(shared.postgres.URL())
	r.exec(admin, "CREATE DATABASE "+name)
	r.cfg.PostgresURL = withDatabase(t, shared.postgres.URL(), name)
	r.pg = r.openPostgres(r.cfg.PostgresURL)

	chAdmin := r.openClickHouse(shared.clickhouse.URL())
	if err := chAdmin.Exec(t.Context(), "CREATE DATABASE "+name); err != nil {
		t.Fatalf("creating a database in ClickHouse: %v", err)
	}
	r.cfg.ClickHouseURL = withDatabase(t, shared.clickhouse.URL(), name)
	r.ch = r.openClickHouse(r.cfg.ClickHouseURL)

	var err error
	r.cluster, err = kfake.NewCluster(kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second),
		kfake.SeedTopics(partitions, topics.Requests.Name, topics.Costs.Name, topics.PolicyHistory.Name, topics.DeadLetters.Name),
		kfake.BrokerConfigs(map[string]string{"message.max.bytes": fmt.Sprint(topics.DeadLetters.MaxMessageBytes)}))
	if err != nil {
		t.Fatalf("starting a broker: %v", err)
	}
	t.Cleanup(r.cluster.Close)
	r.cfg.Kafka = broker.Config{Brokers: strings.Join(r.cluster.ListenAddrs(), ",")}
	r.kafka, err = kgo.NewClient(kgo.SeedBrokers(r.cluster.ListenAddrs()...), kgo.ProducerBatchMaxBytes(topics.Costs.MaxMessageBytes))
	if err != nil {
		t.Fatalf("opening a producer: %v", err)
	}
	t.Cleanup(r.kafka.Close)
	return r
}

func withDatabase(t *testing.T, raw, name string) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatalf("reading a URL: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

func (r *rig) openPostgres(url string) *pgxpool.Pool {
	r.t.Helper()
	pool, err := postgres.Open(r.t.Context(), url)
	if err != nil {
		r.t.Fatalf("opening PostgreSQL: %v", err)
	}
	r.t.Cleanup(pool.Close)
	return pool
}

func (r *rig) openClickHouse(url string) driver.Conn {
	r.t.Helper()
	conn, err := clickhouse.Open(url)
	if err != nil {
		r.t.Fatalf("opening ClickHouse: %v", err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *rig) exec(pool *pgxpool.Pool, sql string) {
	r.t.Helper()
	if _, err := pool.Exec(r.t.Context(), sql); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

// start runs the role until the test or stop ends it.
func (r *rig) start(change ...func(*projections.Config)) (stop func()) {
	r.t.Helper()
	cfg := r.cfg
	for _, f := range change {
		f(&cfg)
	}
	log := slog.New(slog.NewTextHandler(r.t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	server, err := projections.New(r.t.Context(), cfg, log, prometheus.NewRegistry())
	if err != nil {
		r.t.Fatalf("making the role: %v", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.t.Context()))
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("running the role: %v", err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// send appends records to the log, in order, and waits for the broker.
func (r *rig) send(records ...*kgo.Record) {
	r.t.Helper()
	if err := r.kafka.ProduceSync(r.t.Context(), records...).FirstErr(); err != nil {
		r.t.Fatalf("producing: %v", err)
	}
}

// eventually waits until f returns nil.
func (r *rig) eventually(what string, f func(context.Context) error) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			r.t.Fatalf("waiting until %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// caughtUp waits until every projection has applied the whole log.
func (r *rig) caughtUp() {
	r.t.Helper()
	admin := kadm.NewClient(r.kafka)
	for _, p := range projections.All(r.ch) {
		ends, err := admin.ListEndOffsets(r.t.Context(), p.Topic.Name)
		if err != nil {
			r.t.Fatalf("reading the log's end: %v", err)
		}
		r.eventually(p.Name+" has caught up", func(ctx context.Context) error {
			var errs []error
			ends.Each(func(e kadm.ListedOffset) {
				var next int64
				var pending *int64
				err := r.pg.QueryRow(ctx, `SELECT next_offset, pend_from FROM projection_checkpoints
 JOIN projection_generations USING (projection, generation) WHERE projection = $1 AND partition = $2 AND topic_id = $3`,
					p.Name, e.Partition, r.topicID(p.Topic)).Scan(&next, &pending)
				switch {
				case err != nil:
					errs = append(errs, err)
				case next < e.Offset || pending != nil:
					errs = append(errs, fmt.Errorf("partition %d: next %d of %d, pending %v", e.Partition, next, e.Offset, pending != nil))
				}
			})
			return errors.Join(errs...)
		})
	}
}

func (r *rig) topicID(t topics.Topic) uuid.UUID {
	r.t.Helper()
	details, err := kadm.NewClient(r.kafka).ListTopics(r.t.Context(), t.Name)
	if err != nil {
		r.t.Fatalf("reading topic %s: %v", t.Name, err)
	}
	return uuid.UUID(details[t.Name].ID)
}

// generation returns the live generation of a projection.
func (r *rig) generation(projection string) string {
	r.t.Helper()
	var g string
	if err := r.pg.QueryRow(r.t.Context(), "SELECT generation FROM projection_generations WHERE projection = $1", projection).Scan(&g); err != nil {
		r.t.Fatalf("reading the generation of %s: %v", projection, err)
	}
	return g
}

// crash fails the nth time that the projection passes the step.
func crash(projection string, step runner.Step, nth int) func(*projections.Config) {
	var mu sync.Mutex
	seen := 0
	return func(c *projections.Config) {
		c.Fail = func(p string, s runner.Step) error {
			mu.Lock()
			defer mu.Unlock()
			if p != projection || s != step {
				return nil
			}
			if seen++; seen == nth {
				return fmt.Errorf("crash at step %s", step)
			}
			return nil
		}
	}
}
