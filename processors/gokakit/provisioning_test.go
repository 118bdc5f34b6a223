package gokakit_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lovoo/goka"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
	"github.com/rateguard/rateguard/topics/provision"
)

func tick(p int32) *rateguardv1.Event {
	key := hash.PartitionKey(p, kafkatest.Partitions)
	return &rateguardv1.Event{WorkspaceId: key, Body: &rateguardv1.Event_Tick{Tick: &rateguardv1.Tick{Partition: p}}}
}

func decode(t *testing.T, b []byte) *rateguardv1.TableValue {
	t.Helper()
	v := new(rateguardv1.TableValue)
	if err := proto.Unmarshal(b, v); err != nil {
		t.Fatalf("reading a table value: %v", err)
	}
	return v
}

// T13: plain goka makes a missing table itself, with settings of its own; two instances that start at once race.
func TestPlainGokaMakesItsTable(t *testing.T) {
	c := kafkatest.StartEmpty(t)
	if _, err := c.Admin.CreateTopic(t.Context(), 1, 1, nil, trapInput); err != nil {
		t.Fatalf("making the input: %v", err)
	}
	// A replication factor of 2 is goka's default; on one broker the topic cannot be made at all.
	_, err := goka.NewProcessor(c.ListenAddrs(), counter(func(goka.Context, int64) {}))
	if err == nil || !strings.Contains(err.Error(), "creating topic "+trapTable) {
		t.Errorf("got %v, want a failed attempt to make the table", err)
	}
}

func TestTheKitWaitsForItsTopics(t *testing.T) {
	c := kafkatest.StartEmpty(t)
	r, _, _ := runKit(t, c, tally())
	kafkatest.Wait(t, patience, "a refusal that names the topic", func() error {
		err := r.Ready()
		if err == nil || !errors.Is(err, gokakit.ErrNotReady) || !strings.Contains(err.Error(), topics.Requests.Name) {
			return errors.Join(errors.New("not yet"), err)
		}
		return nil
	})
	there, err := c.Admin.ListTopics(t.Context())
	if err != nil {
		t.Fatalf("listing: %v", err)
	}
	if slices.Contains(there.Names(), topics.SpendTable.Name) {
		t.Error("the kit made its table itself")
	}
	if err := provision.Apply(t.Context(), c.Admin, provision.Settings{Partitions: kafkatest.Partitions, Replication: 1, MinInsync: 1}); err != nil {
		t.Fatalf("provisioning: %v", err)
	}
	kafkatest.Wait(t, patience, "readiness", r.Ready)
	c.Produce(t, topics.Costs, some("ws_1", 2)...)
	waitCount(t, r, "ws_1", 2)
}
