package proxy_test

import (
	"context"
	"crypto/sha256"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

// The role with its spool and a broker: configuration comes in, events go out, a drained stop ships everything, and
// the next start serves from the snapshot without a broker.
func TestRoleServesFromKafkaAndFromItsSnapshot(t *testing.T) {
	var seeds []kfake.Opt
	for _, topic := range topics.All() {
		seeds = append(seeds, kfake.SeedTopics(4, topic.Name))
	}
	cluster, err := kfake.NewCluster(append(seeds, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	defer func() {
		if !closed {
			cluster.Close()
		}
	}()
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.ConsumeTopics(topics.Costs.Name, topics.Requests.Name, topics.Producers.Name))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(goodKey))
	upstream := upstreamFunc(t, answerJSON(chatAnswer))
	for topic, e := range map[string]*rateguardv1.Event{
		topics.Keys.Name: {Body: &rateguardv1.Event_KeyRecord{KeyRecord: &rateguardv1.KeyRecord{KeyId: "k", WorkspaceId: workspace, Sha256: sum[:], Version: 1}}},
		topics.Policies.Name: {Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: &rateguardv1.WorkspacePolicy{
			WorkspaceId: workspace, Version: 1, Routes: []*rateguardv1.Route{{Id: "openai", Provider: "openai", BaseUrl: upstream}},
		}}},
	} {
		b, err := envelope.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Key: []byte(workspace), Value: b}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	serve := func() {
		t.Helper()
		s, err := proxy.New(t.Context(), proxy.Config{
			Addr: "127.0.0.1:0", DataDir: dir, RedisURL: "redis://127.0.0.1:1", SecretKey: strings.Repeat("ab", 32),
			Kafka: broker.Config{Brokers: brokers}, FlushTimeout: 2 * time.Second,
		}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		eventually(t, func() bool { return s.Ready() == nil }, "readiness")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.Addr()+"/v1/chat/completions", strings.NewReader(chatBody))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+goodKey)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != http.StatusOK || string(b) != chatAnswer {
			t.Errorf("got %d %s", res.StatusCode, b)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("stopping: %v", err)
		}
	}
	serve()
	seen := map[string]int{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// It ended well, with nothing open: nobody has to wait for it or to close it.
	for seen["cost_settled"] == 0 || seen["request_recorded"] == 0 || seen["reservation_opened"] == 0 || seen["closed"] == 0 {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			t.Fatalf("events did not arrive: %v", seen)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			e, err := envelope.Decode(rec.Value)
			if err != nil {
				t.Errorf("decoding: %v", err)
				return
			}
			seen[envelope.TypeName(e)]++
			if e.GetProducerStatus().GetClosedAtUnixUs() > 0 {
				seen["closed"]++
			}
		})
	}
	cl.Close()
	cluster.Close()
	closed = true
	serve()
}
