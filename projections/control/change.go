package control

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// outboxChannel is the channel on which a commit wakes the relay.
const outboxChannel = "rateguard_outbox"

// change is one transaction that alters one workspace: rows, outbox rows and an audit record, all or none.
type change struct {
	tx     pgx.Tx
	server *Server
	ws     workspace
	// now is the time of the change, in whole microseconds as both Postgres and the events keep it.
	now time.Time
	// rows are what the change has put into the outbox.
	rows []outboxRow
}

// change runs do under the lock of a workspace. A workspace that is gone is a 404.
func (s *Server) change(ctx context.Context, ws string, do func(context.Context, *change) error) error {
	var c *change
	err := s.transact(ctx, func(tx pgx.Tx) error {
		w, err := readWorkspace(ctx, tx, ws, "FOR UPDATE")
		if err != nil {
			return err
		}
		if w.DeletedAt != nil {
			return problem.Missing("workspace", ws)
		}
		c = &change{tx: tx, server: s, ws: w, now: s.now()}
		return do(ctx, c)
	})
	if err == nil {
		s.toRedis(c.rows)
	}
	return err
}

// transact runs do in a transaction.
func (s *Server) transact(ctx context.Context, do func(pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, s.pool, do)
	if _, ok := errors.AsType[*problem.Problem](err); err == nil || ok {
		return err
	}
	return storeError("changing the configuration", err)
}

// publish writes an event into the outbox.
func (c *change) publish(ctx context.Context, topic topics.Topic, key string, event *rateguardv1.Event) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("making an event id: %w", err)
	}
	event.Id = id.String()
	event.ProducerId = c.server.producerID
	if topic.Key != topics.ByProviderModel {
		event.WorkspaceId = c.ws.ID
	}
	event.OccurredAtUnixUs = c.now.UnixMicro()
	value, err := envelope.Encode(event)
	if err != nil {
		return err
	}
	if len(value) > maxEvent {
		return problem.New(422, problem.InvalidRequest, "the configuration of a workspace must stay below %d bytes; this change makes it %d", maxEvent, len(value))
	}
	row := outboxRow{topic: topic.Name, key: key, value: value}
	c.rows = append(c.rows, row)
	return enqueue(ctx, c.tx, row)
}

// maxEvent is the largest event in bytes that control publishes; brokers take 1 MiB with the headers.
const maxEvent = 1000 * 1000

// outboxRow is one record on its way to the log.
type outboxRow struct {
	id    int64
	topic string
	key   string
	// value is nil for a tombstone.
	value []byte
}

func enqueue(ctx context.Context, tx pgx.Tx, row outboxRow) error {
	if _, err := tx.Exec(ctx, "INSERT INTO control.outbox (topic, key, value) VALUES ($1, $2, $3)", row.topic, row.key, row.value); err != nil {
		return fmt.Errorf("writing the outbox: %w", err)
	}
	// Postgres delivers equal notifications of one transaction once, at its commit.
	if _, err := tx.Exec(ctx, "SELECT pg_notify($1, '')", outboxChannel); err != nil {
		return fmt.Errorf("waking the relay: %w", err)
	}
	return nil
}

// nextPolicy takes the next version of the workspace's policy. The caller writes the rows, then calls publishPolicy.
func (c *change) nextPolicy(ctx context.Context) (int64, error) {
	c.ws.PolicyVersion++
	c.ws.PeriodsFrom = c.now
	_, err := c.tx.Exec(ctx, "UPDATE control.workspaces SET policy_version = $2, periods_from = $3 WHERE id = $1", c.ws.ID, c.ws.PolicyVersion, c.now)
	if err != nil {
		return 0, fmt.Errorf("raising the policy version: %w", err)
	}
	return c.ws.PolicyVersion, nil
}

// publishPolicy puts the policy as the transaction sees it into the outbox.
func (c *change) publishPolicy(ctx context.Context) error {
	policy, err := readPolicy(ctx, c.tx, c.ws)
	if err != nil {
		return err
	}
	for _, topic := range []topics.Topic{topics.Policies, topics.PolicyHistory} {
		event := &rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: policy}}
		if err := c.publish(ctx, topic, c.ws.ID, event); err != nil {
			return err
		}
	}
	return nil
}

// publishKey puts a key into the outbox.
func (c *change) publishKey(ctx context.Context, k key) error {
	event := &rateguardv1.Event{Body: &rateguardv1.Event_KeyRecord{KeyRecord: k.record()}}
	return c.publish(ctx, topics.Keys, k.ID, event)
}

// storeError is a 503 where Postgres does not answer, else a 500.
func storeError(doing string, err error) error {
	err = fmt.Errorf("%s: %w", doing, err)
	var network net.Error
	var connect *pgconn.ConnectError
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg):
		// Classes: connection exception, insufficient resources, operator intervention.
		if class := pg.Code[:min(2, len(pg.Code))]; class == "08" || class == "53" || class == "57" {
			return problem.Unavailable(err, "the configuration store does not answer")
		}
		return problem.Hidden(err)
	case errors.As(err, &connect), errors.As(err, &network), pgconn.Timeout(err), pgconn.SafeToRetry(err):
		return problem.Unavailable(err, "the configuration store does not answer")
	}
	return problem.Hidden(err)
}
