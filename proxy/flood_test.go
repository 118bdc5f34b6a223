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
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

// A role whose spool is too small to open anything refuses all requests. Once it has stopped, each of them is in Kafka, as
// a row or in a count: what is counted last has to be in the spool before that is flushed.
func TestRoleShipsTheCountsOfAFloodBeforeItStops(t *testing.T) {
	const flood = 100
	var seeds []kfake.Opt
	for _, topic := range topics.All() {
		seeds = append(seeds, kfake.SeedTopics(4, topic.Name))
	}
	cluster, err := kfake.NewCluster(append(seeds, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	brokers := strings.Join(cluster.ListenAddrs(), ",")
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers), kgo.ConsumeTopics(topics.Requests.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	sum := sha256.Sum256([]byte(goodKey))
	for topic, e := range map[string]*rateguardv1.Event{
		topics.Keys.Name: {Body: &rateguardv1.Event_KeyRecord{KeyRecord: &rateguardv1.KeyRecord{KeyId: "k", WorkspaceId: workspace, Sha256: sum[:], Version: 1}}},
		topics.Policies.Name: {Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: &rateguardv1.WorkspacePolicy{
			WorkspaceId: workspace, Version: 1, Routes: []*rateguardv1.Route{{Id: "openai", Provider: "openai", BaseUrl: "http://127.0.0.1:1"}},
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
	s, err := proxy.New(t.Context(), proxy.Config{
		Addr: "127.0.0.1:0", DataDir: t.TempDir(), RedisURL: "redis://127.0.0.1:1", SecretKey: strings.Repeat("ab", 32),
		Kafka: broker.Config{Brokers: brokers}, Spool: spool.Config{SegmentBytes: 512 << 10, MaxBytes: 1 << 20, MaxEndBytes: 1 << 20},
	}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	eventually(t, func() bool { return s.Ready() == nil }, "readiness")
	for range flood {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+s.Addr()+"/v1/chat/completions", strings.NewReader(chatBody))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+goodKey)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if got := res.Header.Get("X-Rateguard-Error"); got != "store_unavailable" {
			t.Fatalf("got %d %s", res.StatusCode, got)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("stopping: %v", err)
	}
	rows, counted := 0, 0
	wait, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for rows+counted < flood {
		fetches := cl.PollFetches(wait)
		if wait.Err() != nil {
			t.Fatalf("got %d rows + %d counted, want %d", rows, counted, flood)
		}
		fetches.EachRecord(func(rec *kgo.Record) {
			e, err := envelope.Decode(rec.Value)
			if err != nil {
				t.Errorf("decoding: %v", err)
				return
			}
			counted += int(e.GetDenialsAggregated().GetCount())
			if e.GetRequestRecorded() != nil {
				rows++
			}
		})
	}
	if rows+counted != flood || counted == 0 {
		t.Errorf("got %d rows + %d counted, want %d and some counted", rows, counted, flood)
	}
}
