package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/schemas/envelope"
)

// relayLock is the advisory lock of the one process that relays; "rgrelay" in ASCII.
const relayLock int64 = 0x72_67_72_65_6c_61_79

const (
	// relayBatch bounds the records that are in flight together.
	relayBatch = 500
	// relayPoll is how long a lost notification can delay a change.
	relayPoll = time.Second
	// electionPoll is how often a standing-by relay looks for the lock.
	electionPoll = 500 * time.Millisecond
	// relayRetry is the pause after a failure.
	relayRetry = 500 * time.Millisecond
	// deliveryTimeout bounds how long one record may take: franz-go repeats an idempotent record for ever otherwise.
	deliveryTimeout = 10 * time.Second
	closeTimeout    = 5 * time.Second
)

// relay moves outbox rows into the log, in their order for each key. Any number of processes may run one; a Postgres
// advisory lock elects who works. A relay that lost the lock without knowing can still send what it has in memory, once
// more or late: consumers keep the largest version of a document, and the reconciler repairs the topic.
type relay struct {
	server *Server
}

// run relays until ctx ends.
func (r *relay) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := r.lead(ctx); err != nil && ctx.Err() == nil {
			r.server.log.Warn("relay stopped and starts again", slog.Any("error", err))
			pause(ctx, relayRetry)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// lead waits for the lock and relays while it holds it. The session of the lock is also the one that deletes rows:
// when it is gone, so is the right to delete.
func (r *relay) lead(ctx context.Context) error {
	conn, err := postgres.Connect(ctx, r.server.cfg.PostgresURL)
	if err != nil {
		return fmt.Errorf("connecting the relay: %w", err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = conn.Close(closing) // the lock goes with the session either way
	}()
	if err := awaitLock(ctx, conn); err != nil {
		return err
	}
	// One that hangs would relay nothing and let nobody else: it asks each second, if the brokers answer.
	if _, err := conn.Exec(ctx, "SET idle_session_timeout = '30s'"); err != nil {
		return fmt.Errorf("bounding the relay's session: %w", err)
	}
	if _, err := conn.Exec(ctx, "LISTEN "+outboxChannel); err != nil {
		return fmt.Errorf("listening for outbox rows: %w", err)
	}
	client, err := r.client()
	if err != nil {
		return err
	}
	defer client.Close()
	r.server.metrics.leader.Set(1)
	defer r.server.metrics.leader.Set(0)
	r.server.log.Info("relaying configuration", slog.String("producer_id", r.server.producerID))

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.drain(gctx, conn, client) })
	g.Go(func() error { return r.tick(gctx, client) })
	g.Go(func() error { return r.reconcile(gctx) })
	g.Go(func() error { return r.extendPeriods(gctx) })
	g.Go(func() error { return (&repricer{server: r.server, client: client}).run(gctx) })
	g.Go(func() error { return r.server.newAuditor().Run(gctx) })
	return g.Wait()
}

func awaitLock(ctx context.Context, conn *pgx.Conn) error {
	for {
		var held bool
		if err := conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", relayLock).Scan(&held); err != nil {
			return fmt.Errorf("asking for the relay's lock: %w", err)
		}
		if held {
			return nil
		}
		pause(ctx, electionPoll)
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// client returns the one producer of control's records.
func (r *relay) client() (*kgo.Client, error) {
	opts, err := r.server.cfg.Kafka.Options()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.ClientID("rateguard-control"),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerLinger(0),
		kgo.RecordDeliveryTimeout(deliveryTimeout),
		kgo.ProducerBatchCompression(kgo.SnappyCompression(), kgo.NoCompression()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("opening the relay's producer: %w", err)
	}
	return client, nil
}

// drain publishes what is in the outbox, now and whenever a commit says so.
func (r *relay) drain(ctx context.Context, conn *pgx.Conn, client *kgo.Client) error {
	for {
		more, err := r.publishBatch(ctx, conn, client)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is no failure
		}
		if err != nil {
			return err
		}
		if more {
			continue
		}
		wait, cancel := context.WithTimeout(ctx, relayPoll)
		_, err = conn.WaitForNotification(wait)
		cancel()
		if err != nil && (ctx.Err() != nil || conn.IsClosed()) {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the end of ctx is no failure
			}
			return fmt.Errorf("waiting for outbox rows: %w", err)
		}
	}
}

// publishBatch sends the oldest rows and deletes those that the brokers acknowledged; more says that there may be others.
// A row stays when it failed, and so do later rows of its key even if they were acknowledged: they are sent again after it.
func (r *relay) publishBatch(ctx context.Context, conn *pgx.Conn, client *kgo.Client) (more bool, err error) {
	rows, err := readOutbox(ctx, conn)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	r.server.toRedis(rows) // another process may have committed them and died
	errs, err := produce(ctx, client, rows)
	if err != nil {
		return false, err
	}
	type stream struct{ topic, key string }
	failed := map[stream]bool{}
	var done []int64
	for i, row := range rows {
		at := stream{row.topic, row.key}
		if errs[i] != nil {
			failed[at] = true
		}
		if !failed[at] {
			done = append(done, row.id)
			r.server.metrics.published.WithLabelValues(row.topic).Inc()
		}
	}
	if len(done) > 0 {
		if _, err := conn.Exec(ctx, "DELETE FROM control.outbox WHERE id = ANY($1)", done); err != nil {
			return false, fmt.Errorf("deleting outbox rows: %w", err)
		}
	}
	if len(failed) > 0 {
		r.server.metrics.failures.Inc()
		r.server.log.Warn("changes wait for the brokers", slog.Int("records", len(rows)-len(done)), slog.Any("error", errors.Join(errs...)))
		pause(ctx, relayRetry)
	}
	return len(rows) == relayBatch || len(failed) > 0, nil
}

func readOutbox(ctx context.Context, conn *pgx.Conn) ([]outboxRow, error) {
	rows, err := conn.Query(ctx, "SELECT id, topic, key, value FROM control.outbox ORDER BY id LIMIT $1", relayBatch)
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (outboxRow, error) {
		var o outboxRow
		err := row.Scan(&o.id, &o.topic, &o.key, &o.value)
		return o, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	return found, nil
}

// produce sends the rows in order and returns the outcome of each. Its own error is that of ctx: then the caller closes
// the client, which ends whatever is still in flight.
func produce(ctx context.Context, client *kgo.Client, rows []outboxRow) ([]error, error) {
	errs := make([]error, len(rows))
	var wg sync.WaitGroup
	for i, row := range rows {
		wg.Add(1)
		client.Produce(ctx, newRecord(row), func(_ *kgo.Record, err error) {
			errs[i] = err
			wg.Done()
		})
	}
	done := make(chan struct{})
	go func() { // ends when the client is closed at the latest
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return errs, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newRecord(row outboxRow) *kgo.Record {
	record := &kgo.Record{Topic: row.topic, Key: []byte(row.key), Value: row.value}
	if row.value == nil {
		return record
	}
	event, err := envelope.Decode(row.value)
	if err != nil {
		return record // a consumer's dead letter; without it nothing after it would ever be sent
	}
	for _, h := range envelope.Headers(event, "") {
		record.Headers = append(record.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
	}
	return record
}
