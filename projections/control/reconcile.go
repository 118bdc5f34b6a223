package control

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/topics"
)

// readPatience bounds one reading of the topics to their ends.
const readPatience = time.Minute

// document is the last record of one key in a compacted topic: what remains once it has been compacted.
type document struct {
	version uint64
	sum     [sha256.Size]byte
	// tombstone: the record has no value.
	tombstone bool
}

// view follows the policies and keys topics. Whatever the version, the last record of a key counts: that is the one
// which a new consumer will find after compaction, even if a late relay wrote it.
type view struct {
	client *kgo.Client
	docs   map[string]map[string]document // by topic, then by key
	next   map[string]map[int32]int64
}

func (r *relay) newView() (*view, error) {
	opts, err := r.server.cfg.Kafka.Options()
	if err != nil {
		return nil, err
	}
	client, err := kgo.NewClient(append(opts,
		kgo.ClientID("rateguard-control-reconciler"),
		kgo.ConsumeTopics(topics.Policies.Name, topics.Keys.Name),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("opening the reconciler's consumer: %w", err)
	}
	v := &view{client: client, docs: map[string]map[string]document{}, next: map[string]map[int32]int64{}}
	for _, t := range []topics.Topic{topics.Policies, topics.Keys} {
		v.docs[t.Name], v.next[t.Name] = map[string]document{}, map[int32]int64{}
	}
	return v, nil
}

// catchUp reads to the ends of the topics as they are now.
func (v *view) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	ends, err := kadm.NewClient(v.client).ListEndOffsets(ctx, topics.Policies.Name, topics.Keys.Name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("asking for the ends of the configuration topics: %w", err)
	}
	starts, err := kadm.NewClient(v.client).ListStartOffsets(ctx, topics.Policies.Name, topics.Keys.Name)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("asking for the starts of the configuration topics: %w", err)
	}
	for !v.reached(starts, ends) {
		fetches := v.client.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return fmt.Errorf("reading the configuration topics: %w", err)
		}
		fetches.EachRecord(v.note)
	}
	return nil
}

func (v *view) reached(starts, ends kadm.ListedOffsets) bool {
	all := true
	ends.Each(func(end kadm.ListedOffset) {
		start, _ := starts.Lookup(end.Topic, end.Partition)
		if end.Offset > start.Offset && v.next[end.Topic][end.Partition] < end.Offset {
			all = false
		}
	})
	return all
}

func (v *view) note(record *kgo.Record) {
	v.next[record.Topic][record.Partition] = record.Offset + 1
	docs := v.docs[record.Topic]
	if len(record.Value) == 0 {
		docs[string(record.Key)] = document{tombstone: true}
		return
	}
	event, err := envelope.Decode(record.Value)
	if err != nil {
		docs[string(record.Key)] = document{} // differs from everything: it is published again
		return
	}
	d := document{}
	switch {
	case event.GetWorkspacePolicy() != nil:
		d.version = event.GetWorkspacePolicy().GetVersion()
		b, err := digest(event.GetWorkspacePolicy())
		if err == nil {
			d.sum = sha256.Sum256(b)
		}
	case event.GetKeyRecord() != nil:
		d.version = event.GetKeyRecord().GetVersion()
		b, err := digest(event.GetKeyRecord())
		if err == nil {
			d.sum = sha256.Sum256(b)
		}
	}
	docs[string(record.Key)] = d
}

// reconcile compares the topics with Postgres, at once and then each interval, and publishes what differs.
func (r *relay) reconcile(ctx context.Context) error {
	v, err := r.newView()
	if err != nil {
		return err
	}
	defer v.client.Close()
	t := time.NewTicker(r.server.cfg.ReconcileInterval)
	defer t.Stop()
	for {
		if err := r.reconcileOnce(ctx, v); err != nil && ctx.Err() == nil {
			r.server.log.Warn("configuration was not compared", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// reconcileOnce reads the topics first and Postgres after: then Postgres is never behind for a good reason.
func (r *relay) reconcileOnce(ctx context.Context, v *view) error {
	if err := v.catchUp(ctx); err != nil {
		return err
	}
	pending, err := r.pendingKeys(ctx)
	if err != nil {
		return err
	}
	unknown := 0
	for _, kind := range []struct {
		topic  topics.Topic
		query  string
		repair func(ctx context.Context, id string, seen document) (bool, error)
	}{
		{topics.Policies, "SELECT id FROM control.workspaces", r.repairPolicy},
		{topics.Keys, "SELECT id FROM control.keys", r.repairKey},
	} {
		known, err := r.ids(ctx, kind.query)
		if err != nil {
			return err
		}
		docs := v.docs[kind.topic.Name]
		for _, id := range known {
			if pending[kind.topic.Name+"\x00"+id] {
				continue // on its way
			}
			repaired, err := kind.repair(ctx, id, docs[id])
			if err != nil {
				return err
			}
			if repaired {
				r.server.metrics.republished.WithLabelValues(kind.topic.Name).Inc()
				r.server.log.Warn("topic and PostgreSQL differed", slog.String("topic", kind.topic.Name), slog.String("id", id))
			}
		}
		unknown += countUnknown(docs, known)
	}
	// They are left alone: a database that was restored or mistaken must not be able to revoke every key.
	r.server.metrics.unknownKeys.Set(float64(unknown))
	if unknown > 0 {
		r.server.log.Error("the topics hold documents that PostgreSQL does not know", slog.Int("documents", unknown))
	}
	return r.forget(ctx)
}

func countUnknown(docs map[string]document, known []string) int {
	set := make(map[string]bool, len(known))
	for _, id := range known {
		set[id] = true
	}
	n := 0
	for id, d := range docs {
		if !d.tombstone && !set[id] {
			n++
		}
	}
	return n
}

func (r *relay) ids(ctx context.Context, query string) ([]string, error) {
	rows, err := r.server.pool.Query(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("listing configuration: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("listing configuration: %w", err)
	}
	return ids, nil
}

// pendingKeys returns "topic NUL key" of everything in the outbox.
func (r *relay) pendingKeys(ctx context.Context) (map[string]bool, error) {
	rows, err := r.server.pool.Query(ctx, "SELECT topic, key FROM control.outbox")
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	pending := map[string]bool{}
	n := 0
	var topic, key string
	_, err = pgx.ForEachRow(rows, []any{&topic, &key}, func() error {
		n++
		pending[topic+"\x00"+key] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the outbox: %w", err)
	}
	r.server.metrics.depth.Set(float64(n))
	return pending, nil
}

// differs reports whether what the topic shows is not the document; ahead, whether consumers would refuse the
// document because they know a version that is not older.
func differs(seen document, version uint64, encoded []byte) (differs, ahead bool) {
	sum := sha256.Sum256(encoded)
	if !seen.tombstone && seen.version == version && bytes.Equal(seen.sum[:], sum[:]) {
		return false, false
	}
	return true, seen.version >= version
}

// repairPolicy publishes a policy again if it is not what the topic shows. If the topic is ahead, as after a restore of
// the database, the version is raised above the topic's.
func (r *relay) repairPolicy(ctx context.Context, id string, seen document) (bool, error) {
	repaired := false
	err := r.server.transact(ctx, func(tx pgx.Tx) error {
		w, err := readWorkspace(ctx, tx, id, "FOR UPDATE")
		if err != nil {
			return err
		}
		policy, err := readPolicy(ctx, tx, w)
		if err != nil {
			return err
		}
		encoded, err := digest(policy)
		if err != nil {
			return err
		}
		differ, ahead := differs(seen, policy.GetVersion(), encoded)
		if !differ {
			return nil
		}
		c := &change{tx: tx, server: r.server, ws: w, now: r.server.now()}
		if ahead {
			c.ws.PolicyVersion = int64(seen.version) //nolint:gosec // versions count from 1
			if _, err := c.nextPolicy(ctx); err != nil {
				return err
			}
		}
		repaired = true
		return c.publishPolicy(ctx)
	})
	return repaired, err
}

// repairKey does the same for a key.
func (r *relay) repairKey(ctx context.Context, id string, seen document) (bool, error) {
	repaired := false
	err := r.server.transact(ctx, func(tx pgx.Tx) error {
		var ws string
		if err := tx.QueryRow(ctx, "SELECT workspace_id FROM control.keys WHERE id = $1", id).Scan(&ws); err != nil {
			return fmt.Errorf("reading a key's workspace: %w", err)
		}
		w, err := readWorkspace(ctx, tx, ws, "FOR UPDATE")
		if err != nil {
			return err
		}
		k, err := readKey(ctx, tx, ws, id, "")
		if err != nil {
			return err
		}
		encoded, err := digest(k.record())
		if err != nil {
			return err
		}
		differ, ahead := differs(seen, uint64(k.Version), encoded) //nolint:gosec // versions count from 1
		if !differ {
			return nil
		}
		c := &change{tx: tx, server: r.server, ws: w, now: r.server.now()}
		repaired = true
		if ahead {
			k.Version = int64(seen.version) //nolint:gosec // versions count from 1
			return c.updateKey(ctx, &k)
		}
		return c.publishKey(ctx, k)
	})
	if p, ok := errors.AsType[*problem.Problem](err); ok && p.Status == 404 {
		return false, nil
	}
	return repaired, err
}

// forgetAfter is how long the rows of a deleted workspace stay. The history topics keep their records as long: until
// then a late record could bring back what a tombstone has removed.
const forgetAfter = 400 * 24 * time.Hour

// forget deletes the rows of workspaces that were deleted long ago and writes the tombstones.
func (r *relay) forget(ctx context.Context) error {
	return r.server.transact(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT id FROM control.workspaces WHERE deleted_at < $1 ORDER BY id LIMIT 10 FOR UPDATE", r.server.now().Add(-forgetAfter))
		if err != nil {
			return fmt.Errorf("looking for deleted workspaces: %w", err)
		}
		gone, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("looking for deleted workspaces: %w", err)
		}
		for _, ws := range gone {
			if err := forgetWorkspace(ctx, tx, ws); err != nil {
				return err
			}
		}
		return nil
	})
}

func forgetWorkspace(ctx context.Context, tx pgx.Tx, ws string) error {
	rows, err := tx.Query(ctx, "DELETE FROM control.keys WHERE workspace_id = $1 RETURNING id", ws)
	if err != nil {
		return fmt.Errorf("deleting keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("deleting keys: %w", err)
	}
	for _, id := range keys {
		if err := enqueue(ctx, tx, outboxRow{topic: topics.Keys.Name, key: id}); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, "DELETE FROM control.routes WHERE workspace_id = $1", ws); err != nil {
		return fmt.Errorf("deleting routes: %w", err)
	}
	if _, err := tx.Exec(ctx, "DELETE FROM control.workspaces WHERE id = $1", ws); err != nil {
		return fmt.Errorf("deleting a workspace: %w", err)
	}
	return enqueue(ctx, tx, outboxRow{topic: topics.Policies.Name, key: ws})
}
