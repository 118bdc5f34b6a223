// Package kafkatest gives the tests of this module a small broker with provisioned topics.
package kafkatest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/provision"
)

// Cluster is a broker with the topics of the table.
type Cluster struct {
	*kfake.Cluster
	Client *kgo.Client
	Admin  *kadm.Client
	// Kafka are the settings of a connection to it.
	Kafka broker.Config
}

// Partitions is the number of partitions of the sharded topics.
const Partitions = 4

// Start returns a cluster that ends with the test.
func Start(tb testing.TB) *Cluster {
	tb.Helper()
	return provisioned(tb, StartEmpty(tb))
}

// StartSecured returns such a cluster that takes only TLS connections of one user, by one SASL mechanism.
func StartSecured(tb testing.TB, mechanism string) *Cluster {
	tb.Helper()
	identity := httptest.NewUnstartedServer(nil) // only for its certificate, which names 127.0.0.1
	identity.StartTLS()
	defer identity.Close()
	ca := filepath.Join(tb.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: identity.Certificate().Raw}), 0o600); err != nil {
		tb.Fatalf("writing the certificate: %v", err)
	}
	settings := broker.Config{TLS: true, CAFile: ca, SASLMechanism: mechanism, SASLUser: "rateguard", SASLPassword: rand.Text() + ",=é"}
	return provisioned(tb, start(tb, settings, kfake.TLS(&tls.Config{Certificates: identity.TLS.Certificates, MinVersion: tls.VersionTLS12}),
		kfake.EnableSASL(), kfake.Superuser(strings.ToUpper(mechanism), settings.SASLUser, settings.SASLPassword)))
}

// provisioned makes the topics of the table.
func provisioned(tb testing.TB, c *Cluster) *Cluster {
	tb.Helper()
	s := provision.Settings{Partitions: Partitions, Replication: 1, MinInsync: 1}
	if err := provision.Apply(tb.Context(), c.Admin, s); err != nil {
		tb.Fatalf("provisioning: %v", err)
	}
	return c
}

// StartEmpty returns a cluster without topics.
func StartEmpty(tb testing.TB) *Cluster {
	tb.Helper()
	return start(tb, broker.Config{})
}

// start returns a cluster without topics; settings are how to connect to it, without the address.
func start(tb testing.TB, settings broker.Config, opts ...kfake.Opt) *Cluster {
	tb.Helper()
	fake, err := kfake.NewCluster(append(opts, kfake.NumBrokers(1), kfake.GroupMinSessionTimeout(time.Second))...)
	if err != nil {
		tb.Fatalf("starting kfake: %v", err)
	}
	tb.Cleanup(fake.Close)
	settings.Brokers = fake.ListenAddrs()[0]
	connect, err := settings.Options()
	if err != nil {
		tb.Fatalf("reading the settings: %v", err)
	}
	client, err := kgo.NewClient(append(connect, kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(1<<20))...)
	if err != nil {
		tb.Fatalf("connecting: %v", err)
	}
	tb.Cleanup(client.Close)
	return &Cluster{Cluster: fake, Client: client, Admin: kadm.NewClient(client), Kafka: settings}
}

// Produce appends events to a topic, each keyed by its workspace, and waits until they are written.
func (c *Cluster) Produce(tb testing.TB, topic topics.Topic, events ...*rateguardv1.Event) {
	tb.Helper()
	records := make([]*kgo.Record, 0, len(events))
	for _, e := range events {
		value, err := envelope.Encode(e)
		if err != nil {
			tb.Fatalf("encoding: %v", err)
		}
		records = append(records, &kgo.Record{Topic: topic.Name, Key: []byte(e.GetWorkspaceId()), Value: value})
	}
	if err := c.Client.ProduceSync(tb.Context(), records...).FirstErr(); err != nil {
		tb.Fatalf("producing: %v", err)
	}
}

// Read returns every record of a topic up to its present end, each partition in order.
func (c *Cluster) Read(tb testing.TB, topic string) []*kgo.Record {
	tb.Helper()
	ends, err := c.Admin.ListEndOffsets(tb.Context(), topic)
	if err != nil {
		tb.Fatalf("listing offsets: %v", err)
	}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Offset > 0 {
			left[o.Partition] = o.Offset
		}
	})
	connect, err := c.Kafka.Options()
	if err != nil {
		tb.Fatalf("reading the settings: %v", err)
	}
	reader, err := kgo.NewClient(append(connect, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))...)
	if err != nil {
		tb.Fatalf("connecting: %v", err)
	}
	defer reader.Close()
	var records []*kgo.Record
	for len(left) > 0 {
		fetches := reader.PollFetches(tb.Context())
		if err := fetches.Err(); err != nil {
			tb.Fatalf("reading %s: %v", topic, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			records = append(records, r)
			if r.Offset+1 >= left[r.Partition] {
				delete(left, r.Partition)
			}
		})
	}
	return records
}

// Wait returns when condition does, and fails the test when it has not within a time that is far too long.
func Wait(tb testing.TB, within time.Duration, what string, condition func() error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			tb.Fatalf("waiting for %s: %v", what, err)
		case <-look.C:
		}
	}
}
