package policy_test

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const partitions = 2

// cluster is a broker with the topics of the configuration.
type cluster struct {
	tb     testing.TB
	fake   *kfake.Cluster
	client *kgo.Client
	admin  *kadm.Client
}

func startCluster(tb testing.TB) *cluster {
	tb.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topics.Keys.Name, topics.Policies.Name, topics.Prices.Name))
	if err != nil {
		tb.Fatalf("starting kfake: %v", err)
	}
	tb.Cleanup(fake.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(fake.ListenAddrs()...))
	if err != nil {
		tb.Fatalf("connecting: %v", err)
	}
	tb.Cleanup(client.Close)
	return &cluster{tb: tb, fake: fake, client: client, admin: kadm.NewClient(client)}
}

// write appends a record to the topic of keys; nil is a tombstone.
func (c *cluster) write(key string, value []byte) {
	c.tb.Helper()
	if err := c.client.ProduceSync(c.tb.Context(), &kgo.Record{Topic: topics.Keys.Name, Key: []byte(key), Value: value}).FirstErr(); err != nil {
		c.tb.Fatalf("writing: %v", err)
	}
}

// compact removes all that is in the topic of keys, as compaction does with a key and, a day later, with its tombstone.
func (c *cluster) compact() {
	c.tb.Helper()
	ends, err := c.admin.ListEndOffsets(c.tb.Context(), topics.Keys.Name)
	if err == nil {
		_, err = c.admin.DeleteRecords(c.tb.Context(), ends.Offsets())
	}
	if err != nil {
		c.tb.Fatalf("compacting: %v", err)
	}
}

// again makes the topic of keys anew, empty.
func (c *cluster) again() {
	c.tb.Helper()
	if _, err := c.admin.DeleteTopic(c.tb.Context(), topics.Keys.Name); err != nil {
		c.tb.Fatalf("deleting: %v", err)
	}
	if _, err := c.admin.CreateTopic(c.tb.Context(), partitions, 1, nil, topics.Keys.Name); err != nil {
		c.tb.Fatalf("creating: %v", err)
	}
	c.client.PurgeTopicsFromClient(topics.Keys.Name) // it would go on writing to the old one
}

// follower is a proxy's copy of the configuration over one run.
type follower struct {
	*policy.Follower
	view *policy.View
}

func newFollower(seeds, path string) *follower {
	v := newView()
	return &follower{policy.NewFollower(v, broker.Config{Brokers: seeds}, path, slog.New(slog.DiscardHandler), prometheus.NewRegistry()), v}
}

// during runs the follower until do returns; then it saves.
func (f *follower) during(tb testing.TB, do func()) {
	tb.Helper()
	ctx, stop := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	do()
	stop()
	if err := <-done; err != nil {
		tb.Errorf("following: %v", err)
	}
}

// knows reports whether the key with that secret is in force.
func (f *follower) knows(secret string) bool { return f.view.Key(sha256.Sum256([]byte(secret))) != nil }

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(60 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-timeout:
			tb.Fatalf("never happened: %s", what)
		}
	}
}

// What a tombstone deleted while no proxy listened is never read again: the snapshot has it and the topic says nothing. A
// young snapshot is resumed (tombstones stay a day), any other is held against a complete read.
func TestWhatWasDeletedWhileNobodyListened(t *testing.T) {
	for name, test := range map[string]struct {
		meanwhile func(t *testing.T, c *cluster, path string)
		forgotten bool
	}{
		"tombstone still there": {func(_ *testing.T, c *cluster, _ string) { c.write("key_1", nil) }, true},
		"nothing happened":      {func(*testing.T, *cluster, string) {}, false},
		// Why the age matters: this never happens within a day, and a resumed snapshot could not notice it.
		"compacted, young snapshot": {func(_ *testing.T, c *cluster, _ string) { c.compact() }, false},
		"compacted, old snapshot": {func(t *testing.T, c *cluster, path string) {
			c.compact()
			if err := policy.AgeSnapshot(newView(), path, policy.MaxSnapshotAge+time.Minute); err != nil {
				t.Fatalf("aging: %v", err)
			}
		}, true},
		"topic made anew": {func(_ *testing.T, c *cluster, _ string) { c.again() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, path := startCluster(t), filepath.Join(t.TempDir(), "snapshot")
			seeds := c.fake.ListenAddrs()[0]
			c.write("key_1", keyRecord(t, 1, "first"))
			f := newFollower(seeds, path)
			if f.Ready() == nil {
				t.Error("ready before anything was read")
			}
			f.during(t, func() {
				eventually(t, "readiness", func() bool { return f.Ready() == nil })
				if !f.knows("first") {
					t.Error("ready without the key")
				}
			})

			test.meanwhile(t, c, path)
			c.write("key_2", keyRecord(t, 1, "second"))
			f = newFollower(seeds, path)
			if !f.knows("first") {
				t.Error("the snapshot is not loaded")
			}
			f.during(t, func() {
				eventually(t, "readiness", func() bool { return f.Ready() == nil })
				if !f.knows("second") {
					t.Error("ready without what is newer than the snapshot")
				}
				if test.forgotten {
					eventually(t, "the deleted key's end", func() bool { return !f.knows("first") })
				}
			})
			if !test.forgotten && !f.knows("first") {
				t.Error("the key is gone")
			}
		})
	}
}

// While Kafka is away the snapshot is served as it is, after a moment. Without one nothing is.
func TestASnapshotIsServedWithoutKafka(t *testing.T) {
	t.Parallel()
	c, path := startCluster(t), filepath.Join(t.TempDir(), "snapshot")
	c.write("key_1", keyRecord(t, 1, "first"))
	f := newFollower(c.fake.ListenAddrs()[0], path)
	f.during(t, func() { eventually(t, "readiness", func() bool { return f.Ready() == nil }) })
	const nobody = "127.0.0.1:1"
	f = newFollower(nobody, path)
	f.during(t, func() {
		f.Await(t.Context())
		if f.Ready() != nil || !f.knows("first") {
			t.Error("the snapshot is not served")
		}
	})
	f = newFollower(nobody, filepath.Join(t.TempDir(), "none"))
	f.during(t, func() {
		f.Await(t.Context())
		if f.Ready() == nil {
			t.Error("ready without any configuration")
		}
	})
}

// A damaged snapshot is not served, wherever it is damaged; Kafka gives the configuration then.
func TestADamagedSnapshotIsNotServed(t *testing.T) {
	c, path := startCluster(t), filepath.Join(t.TempDir(), "snapshot")
	c.write("key_1", keyRecord(t, 1, "first"))
	seeds := c.fake.ListenAddrs()[0]
	f := newFollower(seeds, path)
	f.during(t, func() { eventually(t, "readiness", func() bool { return f.Ready() == nil }) })
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("reading: %v", err)
	}
	damage := func(b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatalf("damaging: %v", err)
		}
		if f := newFollower(seeds, path); f.Ready() == nil || f.knows("first") {
			t.Error("a damaged snapshot is served")
		}
	}
	for at := range whole {
		b := append([]byte(nil), whole...)
		b[at] ^= 1
		damage(b)
		damage(whole[:at])
	}
	f = newFollower(seeds, path)
	f.during(t, func() { eventually(t, "readiness", func() bool { return f.Ready() == nil }) })
	if !f.knows("first") {
		t.Error("the configuration is not read from Kafka")
	}
}
