package control_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// TestAChangeIsInTheLogWithinASecond measures several, of which one has to be fast: a busy machine delays some, a relay that
// waits for its turn delays each.
func TestAChangeIsInTheLogWithinASecond(t *testing.T) {
	kafka := brokers(newCluster(t))
	s, _ := running(t, settings(t, newDatabase(t), kafka))
	l := follow(t, kafka, topics.Policies.Name)
	ws := s.workspace("a")
	l.until("the first policy", func(all []record) bool { return lastPolicy(all, id(ws)) != nil })
	fastest := patience
	for n := 1; n <= 10 && fastest > time.Second; n++ {
		start := time.Now()
		s.root().do("PUT", fmt.Sprintf("%s/routes/r%d", ws, n), anyRoute).want(t, 201)
		s.root().do("PUT", fmt.Sprintf("%s/limits/l%d", ws, n), anyLimit).want(t, 201)
		l.until("the route and the limit", func(all []record) bool {
			p := lastPolicy(all, id(ws))
			return len(p.GetRoutes()) == n && len(p.GetLimits()) == n
		})
		fastest = min(fastest, time.Since(start))
	}
	if fastest > time.Second {
		t.Errorf("the fastest of 10 changes took %s", fastest)
	}
}

// TestACommitWithoutAPublicationIsPublishedLater is a process killed between the two: nothing of it but Postgres is left.
func TestACommitWithoutAPublicationIsPublishedLater(t *testing.T) {
	kafka, database := brokers(newCluster(t)), newDatabase(t)
	s := idle(t, settings(t, database, kafka))
	ws := s.workspace("a")
	keyID, _ := s.key(ws, map[string]any{})

	running(t, settings(t, database, kafka))
	l := follow(t, kafka, topics.Policies.Name, topics.Keys.Name)
	l.until("policy and key", func(all []record) bool { return lastPolicy(all, id(ws)) != nil && lastKey(all, keyID) != nil })
}

// TestAPublicationWithoutADeletionIsRepeated is a process killed after the brokers' acknowledgement: consumers see the version twice.
func TestAPublicationWithoutADeletionIsRepeated(t *testing.T) {
	cluster, database := newCluster(t), newDatabase(t)
	kafka := brokers(cluster)
	s := idle(t, settings(t, database, kafka))
	ws := s.workspace("a")
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT * FROM control.outbox"); err != nil {
		t.Fatal(err)
	}
	l := follow(t, kafka, topics.Policies.Name, topics.Audit.Name)
	_, stop := running(t, settings(t, database, kafka))
	l.until("the first sending", func(all []record) bool { return countTopic(all, topics.Audit.Name) == 1 })
	stop()
	if _, err := conn.Exec(t.Context(), "DELETE FROM control.outbox; INSERT INTO control.outbox (topic, key, value) SELECT topic, key, value FROM kept ORDER BY id"); err != nil {
		t.Fatal(err)
	}
	running(t, settings(t, database, kafka))
	all := l.until("the second sending", func(all []record) bool { return countTopic(all, topics.Audit.Name) == 2 })
	if all[0].event.GetId() == "" || lastPolicy(all, id(ws)).GetVersion() != 1 {
		t.Errorf("policy: %v", lastPolicy(all, id(ws)))
	}
	var ids []string
	for _, r := range all {
		if r.topic == topics.Audit.Name {
			ids = append(ids, r.event.GetId())
		}
	}
	if ids[0] != ids[1] {
		t.Errorf("the repeat has another id (%v), so no consumer can tell", ids)
	}
}

// TestRowsAfterAFailedOneOfTheirKeyStay has a row that no broker takes before another one of its key: that one is
// acknowledged, and has to be sent again after the first all the same.
func TestRowsAfterAFailedOneOfTheirKeyStay(t *testing.T) {
	kafka, database := brokers(newCluster(t)), newDatabase(t)
	idle(t, settings(t, database, kafka)) // makes the tables
	conn, err := pgx.Connect(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	insert := func(tx pgx.Tx, key string, value []byte) (id int64) {
		err := tx.QueryRow(t.Context(), "INSERT INTO control.outbox (topic, key, value) VALUES ($1, $2, $3) RETURNING id", topics.PolicyHistory.Name, key, value).Scan(&id)
		if err != nil {
			t.Fatalf("filling the outbox: %v", err)
		}
		return id
	}
	var first, second, other int64
	err = pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error { // in one, so that one batch holds them
		first = insert(tx, "ws_a", make([]byte, 4<<20))
		second = insert(tx, "ws_a", policy(t, "ws_a", 2))
		other = insert(tx, "ws_b", policy(t, "ws_b", 1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	left := func() []int64 {
		rows, err := conn.Query(t.Context(), "SELECT id FROM control.outbox ORDER BY id")
		if err != nil {
			t.Fatal(err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	running(t, settings(t, database, kafka))
	l := follow(t, kafka, topics.PolicyHistory.Name)
	await(t, "the row of the other key to go", func() bool { return !slices.Contains(left(), other) })
	if got, want := left(), []int64{first, second}; !slices.Equal(got, want) {
		t.Fatalf("rows: got %v, want %v", got, want)
	}
	l.until("the second row", func(all []record) bool { return len(versions(all, "ws_a")) > 0 })

	if _, err := conn.Exec(t.Context(), "UPDATE control.outbox SET value = $2 WHERE id = $1", first, policy(t, "ws_a", 1)); err != nil {
		t.Fatal(err)
	}
	await(t, "the outbox to be empty", func() bool { return len(left()) == 0 })
	all := l.until("both rows in order", func(all []record) bool {
		v := versions(all, "ws_a")
		return slices.Contains(v, 1) && v[len(v)-1] == 2
	})
	if v := versions(all, "ws_b"); !slices.Equal(v, []uint64{1}) {
		t.Errorf("records of the other key: got %v, want one", v)
	}
}

// policy returns an encoded policy of a workspace.
func policy(t *testing.T, ws string, version uint64) []byte {
	t.Helper()
	value, err := envelope.Encode(&rateguardv1.Event{Id: fmt.Sprint(ws, version), WorkspaceId: ws, Body: &rateguardv1.Event_WorkspacePolicy{
		WorkspacePolicy: &rateguardv1.WorkspacePolicy{WorkspaceId: ws, Version: version},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// versions returns the versions of a workspace's policies in the order of the log.
func versions(all []record, ws string) (list []uint64) {
	for _, r := range all {
		if r.key == ws {
			list = append(list, r.event.GetWorkspacePolicy().GetVersion())
		}
	}
	return list
}

// TestVersionsStayInOrder changes one workspace from many sides while the broker fails now and then.
func TestVersionsStayInOrder(t *testing.T) {
	cluster, database := newCluster(t), newDatabase(t)
	kafka := brokers(cluster)
	failures := 0
	cluster.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		failures++
		if failures%3 == 0 {
			return nil, fmt.Errorf("connection lost on purpose"), true
		}
		return nil, nil, false
	})
	s, _ := running(t, settings(t, database, kafka))
	ws := s.workspace("a")
	done := make(chan struct{})
	const writers, changes = 4, 10
	for w := range writers {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range changes {
				s.root().do("PUT", fmt.Sprintf("%s/routes/r%d", ws, w), map[string]any{"provider": "http", "base_url": fmt.Sprintf("http://h%d", i)})
			}
		}()
	}
	for range writers {
		<-done
	}
	l := follow(t, kafka, topics.PolicyHistory.Name)
	const last = 1 + writers*changes
	all := l.until("the last version", func(all []record) bool {
		return len(all) > 0 && all[len(all)-1].event.GetWorkspacePolicy().GetVersion() == last
	})
	seen := uint64(0)
	for _, r := range all {
		v := r.event.GetWorkspacePolicy().GetVersion()
		if v > seen+1 {
			t.Fatalf("version %d came after %d", v, seen)
		}
		seen = max(seen, v)
	}
}

func TestOneRelayWorksAndTheNextTakesOver(t *testing.T) {
	kafka, database := brokers(newCluster(t)), newDatabase(t)
	first, stop := running(t, settings(t, database, kafka))
	l := follow(t, kafka, topics.Policies.Name, topics.Ticks.Name)
	ws := first.workspace("a")
	l.until("the policy", func(all []record) bool { return lastPolicy(all, id(ws)) != nil })
	second, _ := running(t, settings(t, database, kafka))
	n := len(l.all)
	l.until("more ticks", func(all []record) bool { return countTopic(all[n:], topics.Ticks.Name) > 10*partitions })
	if writers := producers(l.all); len(writers) != 1 {
		t.Errorf("producers while both run: %v", writers)
	}
	stop()
	other := second.workspace("b")
	l.until("the policy of the second", func(all []record) bool { return lastPolicy(all, id(other)) != nil })
	l.until("ticks of the second", func(all []record) bool { return len(producers(all)) == 2 })
}

func producers(all []record) map[string]bool {
	found := map[string]bool{}
	for _, r := range all {
		if r.topic == topics.Ticks.Name {
			found[r.event.GetProducerId()] = true
		}
	}
	return found
}

func TestTicksReachEveryPartition(t *testing.T) {
	kafka := brokers(newCluster(t))
	running(t, settings(t, newDatabase(t), kafka))
	l := follow(t, kafka, topics.Ticks.Name)
	all := l.until("a tick in each partition", func(all []record) bool {
		seen := map[int32]bool{}
		for _, r := range all {
			seen[r.partition] = true
		}
		return len(seen) == partitions
	})
	for _, r := range all {
		if r.event.GetTick().GetPartition() != r.partition || !hash.IsPartitionKey(r.key) {
			t.Errorf("tick of partition %d in %d with key %s", r.event.GetTick().GetPartition(), r.partition, r.key)
		}
	}
}

// publish appends a record as a zombie would.
func publish(t *testing.T, kafka string, topic topics.Topic, key string, e *rateguardv1.Event) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(kafka))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	value, err := envelope.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: topic.Name, Key: []byte(key), Value: value}).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

// TestAZombiesOldPolicyIsReplaced appends an old version after the newest: after compaction it would be all that is left.
func TestAZombiesOldPolicyIsReplaced(t *testing.T) {
	kafka := brokers(newCluster(t))
	s, _ := running(t, settings(t, newDatabase(t), kafka))
	l := follow(t, kafka, topics.Policies.Name, topics.Keys.Name)
	ws := s.workspace("a")
	keyID, _ := s.key(ws, map[string]any{})
	s.root().do("PUT", ws+"/routes/r", anyRoute).want(t, 201)
	s.root().do("POST", ws+"/keys/"+keyID+"/revoke", nil).want(t, 200)
	all := l.until("both", func(all []record) bool {
		return lastPolicy(all, id(ws)).GetVersion() == 2 && lastKey(all, keyID).GetVersion() == 2
	})
	for _, r := range slices.Clone(all) {
		if r.event.GetWorkspacePolicy().GetVersion() == 1 {
			publish(t, kafka, topics.Policies, r.key, r.event)
		}
		if r.event.GetKeyRecord().GetVersion() == 1 {
			publish(t, kafka, topics.Keys, r.key, r.event)
		}
	}
	n := len(all)
	l.until("the zombie's records", func(all []record) bool { return len(all) >= n+2 })
	all = l.until("the repair", func(all []record) bool {
		return len(all) >= n+4 && lastPolicy(all, id(ws)).GetVersion() == 2 && lastKey(all, keyID).GetVersion() == 2
	})
	if lastKey(all, keyID).GetRevokedAtUnixUs() == 0 {
		t.Error("the key is not revoked in the last record")
	}
}

// TestATopicAheadOfARestoredDatabaseIsOvertaken: consumers keep the largest version, so the restored one must become larger.
func TestATopicAheadOfARestoredDatabaseIsOvertaken(t *testing.T) {
	kafka, database := brokers(newCluster(t)), newDatabase(t)
	s, stop := running(t, settings(t, database, kafka))
	l := follow(t, kafka, topics.Policies.Name)
	ws := s.workspace("restored")
	l.until("the policy", func(all []record) bool { return lastPolicy(all, id(ws)) != nil })
	stop()
	publish(t, kafka, topics.Policies, id(ws), &rateguardv1.Event{Id: "x", WorkspaceId: id(ws), Body: &rateguardv1.Event_WorkspacePolicy{
		WorkspacePolicy: &rateguardv1.WorkspacePolicy{WorkspaceId: id(ws), Name: "lost", Version: 7},
	}})
	// A late record of the old version hides the larger one from the compacted topic, not from running consumers.
	publish(t, kafka, topics.Policies, id(ws), l.all[0].event)
	running(t, settings(t, database, kafka))
	all := l.until("a larger version", func(all []record) bool { return lastPolicy(all, id(ws)).GetVersion() == 8 })
	if got := lastPolicy(all, id(ws)).GetName(); got != "restored" {
		t.Errorf("name: got %q", got)
	}
}

// TestAWipedTopicIsFilledAgain gives the role a new, empty broker.
func TestAWipedTopicIsFilledAgain(t *testing.T) {
	database := newDatabase(t)
	s, stop := running(t, settings(t, database, brokers(newCluster(t))))
	ws := s.workspace("a")
	keyID, _ := s.key(ws, map[string]any{})
	stop()
	fresh := brokers(newCluster(t))
	running(t, settings(t, database, fresh))
	l := follow(t, fresh, topics.Policies.Name, topics.Keys.Name)
	l.until("policy and key", func(all []record) bool { return lastPolicy(all, id(ws)) != nil && lastKey(all, keyID) != nil })
}

// TestChangesAreAcceptedWithoutABroker and published once there is one.
func TestChangesAreAcceptedWithoutABroker(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(partitions, topics.Policies.Name, topics.PolicyHistory.Name,
		topics.Keys.Name, topics.Audit.Name, topics.Ticks.Name, topics.Prices.Name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	kafka := brokers(cluster)
	down := make(chan struct{})
	cluster.Control(func(kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		select {
		case <-down:
			return nil, nil, false
		default:
			return nil, fmt.Errorf("the broker is down on purpose"), true
		}
	})
	s, _ := running(t, settings(t, newDatabase(t), kafka))
	ws := s.workspace("a")
	s.root().do("PUT", ws+"/routes/r", anyRoute).want(t, 201)
	close(down)
	l := follow(t, kafka, topics.Policies.Name)
	l.until("the route", func(all []record) bool { return len(lastPolicy(all, id(ws)).GetRoutes()) == 1 })
}
