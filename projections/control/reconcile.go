package control

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

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
	// largest is the largest version that any record of the key had: consumers that run hold that one.
	largest uint64
	// tombstone: the record has no value.
	tombstone bool
}

func newDocument(version uint64, m proto.Message) (document, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return document{}, fmt.Errorf("encoding a document: %w", err)
	}
	return document{version: version, sum: sha256.Sum256(b), largest: version}, nil
}

// reconciled returns the topics that are compared with Postgres.
func reconciled() []string {
	return []string{topics.Policies.Name, topics.Keys.Name, topics.Prices.Name}
}

// view follows the compacted topics. Whatever the version, the last record of a key counts: that is the one
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
		kgo.ConsumeTopics(reconciled()...),
		kgo.ConsumeStartOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)...)
	if err != nil {
		return nil, fmt.Errorf("opening the reconciler's consumer: %w", err)
	}
	v := &view{client: client, docs: map[string]map[string]document{}, next: map[string]map[int32]int64{}}
	for _, name := range reconciled() {
		v.docs[name], v.next[name] = map[string]document{}, map[int32]int64{}
	}
	return v, nil
}

// catchUp reads to the ends of the topics as they are now.
func (v *view) catchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	ends, err := kadm.NewClient(v.client).ListEndOffsets(ctx, reconciled()...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("asking for the ends of the configuration topics: %w", err)
	}
	starts, err := kadm.NewClient(v.client).ListStartOffsets(ctx, reconciled()...)
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
	docs, key := v.docs[record.Topic], string(record.Key)
	d := documentOf(record.Value)
	d.largest = max(d.largest, docs[key].largest)
	docs[key] = d
}

// documentOf reads a record. What cannot be read differs from everything, so that it is published again.
func documentOf(value []byte) document {
	if len(value) == 0 {
		return document{tombstone: true}
	}
	event, err := envelope.Decode(value)
	if err != nil {
		return document{}
	}
	var d document
	switch {
	case event.GetWorkspacePolicy() != nil:
		d, err = newDocument(event.GetWorkspacePolicy().GetVersion(), event.GetWorkspacePolicy())
	case event.GetKeyRecord() != nil:
		d, err = newDocument(event.GetKeyRecord().GetVersion(), event.GetKeyRecord())
	case event.GetPriceHistory() != nil:
		d, err = newDocument(event.GetPriceHistory().GetVersion(), event.GetPriceHistory())
	}
	if err != nil {
		return document{}
	}
	return d
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

// reconcileOnce reads Postgres, then the outbox, then the topics. In this order a document that Postgres showed and the outbox
// did not is in the topics by the time they are read, so that what differs then differs for no good reason; only a
// change that came meanwhile can mislead, and the repair looks again under the workspace's lock.
func (r *relay) reconcileOnce(ctx context.Context, v *view) error {
	policies, err := r.currentPolicies(ctx)
	if err != nil {
		return err
	}
	keys, err := r.currentKeys(ctx)
	if err != nil {
		return err
	}
	prices, err := r.currentPrices(ctx)
	if err != nil {
		return err
	}
	pending, err := r.pendingKeys(ctx)
	if err != nil {
		return err
	}
	if err := v.catchUp(ctx); err != nil {
		return err
	}
	unknown := 0
	for _, kind := range []struct {
		topic  topics.Topic
		known  map[string]document
		repair func(ctx context.Context, id string, want, seen document) (bool, error)
	}{
		{topics.Policies, policies, r.repairPolicy},
		{topics.Keys, keys, r.repairKey},
		{topics.Prices, prices, r.repairPrices},
	} {
		docs := v.docs[kind.topic.Name]
		for id, want := range kind.known {
			if docs[id] == want || pending[kind.topic.Name+"\x00"+id] {
				continue
			}
			repaired, err := kind.repair(ctx, id, want, docs[id])
			if err != nil {
				return err
			}
			if repaired {
				r.server.metrics.republished.WithLabelValues(kind.topic.Name).Inc()
				r.server.log.Warn("topic and PostgreSQL differed", slog.String("topic", kind.topic.Name), slog.String("id", id))
			}
		}
		unknown += countUnknown(docs, kind.known)
	}
	// They are left alone: a database that was restored or mistaken must not be able to revoke every key.
	r.server.metrics.unknownKeys.Set(float64(unknown))
	if unknown > 0 {
		r.server.log.Error("the topics hold documents that PostgreSQL does not know", slog.Int("documents", unknown))
	}
	return r.forget(ctx)
}

func countUnknown(docs, known map[string]document) int {
	n := 0
	for id, d := range docs {
		if _, ok := known[id]; !ok && !d.tombstone {
			n++
		}
	}
	return n
}

// currentPolicies returns what the topic should show of every workspace.
func (r *relay) currentPolicies(ctx context.Context) (map[string]document, error) {
	policies, err := r.server.readAllPolicies(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]document, len(policies))
	for _, p := range policies {
		if all[p.GetWorkspaceId()], err = newDocument(p.GetVersion(), p); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// currentKeys does the same for keys.
func (r *relay) currentKeys(ctx context.Context) (map[string]document, error) {
	rows, err := r.server.pool.Query(ctx, "SELECT "+keyColumns+" FROM control.keys")
	if err != nil {
		return nil, fmt.Errorf("reading all keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return nil, fmt.Errorf("reading all keys: %w", err)
	}
	all := make(map[string]document, len(keys))
	for _, k := range keys {
		if all[k.ID], err = newDocument(k.record().GetVersion(), k.record()); err != nil {
			return nil, err
		}
	}
	return all, nil
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

// verdict compares what the topic shows with a document as it is under its workspace's lock, where want is what Postgres showed
// before the topic was read. ahead: consumers would refuse the document, because they know a version that is not older.
func verdict(now, want, seen document) (publish, ahead bool) {
	if now == seen {
		return false, false
	}
	ahead = seen.largest > now.version || !seen.tombstone && seen.version == now.version
	if now != want && !ahead {
		return false, false // changed meanwhile: the topic was read too early to tell
	}
	return true, ahead
}

// repairPolicy publishes a policy again if it is not what the topic shows. If the topic is ahead, as after a restore of
// the database, the version is raised above the topic's.
func (r *relay) repairPolicy(ctx context.Context, id string, want, seen document) (bool, error) {
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
		now, err := newDocument(policy.GetVersion(), policy)
		if err != nil {
			return err
		}
		publish, ahead := verdict(now, want, seen)
		if !publish {
			return nil
		}
		c := &change{tx: tx, server: r.server, ws: w, now: r.server.now()}
		if ahead {
			c.ws.PolicyVersion = int64(seen.largest) //nolint:gosec // versions count from 1
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
func (r *relay) repairKey(ctx context.Context, id string, want, seen document) (bool, error) {
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
		now, err := newDocument(k.record().GetVersion(), k.record())
		if err != nil {
			return err
		}
		publish, ahead := verdict(now, want, seen)
		if !publish {
			return nil
		}
		c := &change{tx: tx, server: r.server, ws: w, now: r.server.now()}
		repaired = true
		if ahead {
			k.Version = int64(seen.largest) //nolint:gosec // versions count from 1
			return c.updateKey(ctx, &k)
		}
		return c.publishKey(ctx, k)
	})
	if p, ok := errors.AsType[*problem.Problem](err); ok && p.Status == 404 {
		return false, nil
	}
	return repaired, err
}
