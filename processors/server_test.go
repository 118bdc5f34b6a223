package processors_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/processors"
	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const patience = 60 * time.Second

// start runs a server until the test ends or stop is called.
func start(t *testing.T, kafka broker.Config, instance string) (server *processors.Server, stop func()) {
	t.Helper()
	c := processors.Config{Kafka: kafka, Instance: instance, Session: 2 * time.Second}
	server, err := processors.New(t.Context(), c, slog.New(slog.NewTextHandler(testWriter{t}, nil)), prometheus.NewRegistry())
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	}
	t.Cleanup(stop)
	return server, stop
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(b))
	return len(b), nil
}

// limit is that of the budget of life, in nano-USD: 100 reservations cost half of it.
const limit = 9900

// life returns the events of n reservations of one producer in a workspace, each of a cost of i nano-USD.
func life(producer, workspace string, from, n int) []*rateguardv1.Event {
	var events []*rateguardv1.Event
	for i := from; i < from+n; i++ {
		id := fmt.Sprintf("%s-%s-%d/1", producer, workspace, i)
		hold := &rateguardv1.Hold{
			BudgetId: "b1", BudgetGeneration: 1, AmountNanoUsd: 1000, LimitNanoUsd: limit, AlertPermille: []uint32{100, 500, 1000}, Hard: true,
		}
		subject := &rateguardv1.Subject{OpenedAtUnixUs: 1_790_000_000_000_000}
		event := func(seq int, body *rateguardv1.Event) *rateguardv1.Event {
			body.ProducerId, body.Sequence, body.WorkspaceId = producer, uint64(seq), workspace
			body.Id, body.OccurredAtUnixUs = fmt.Sprintf("%s/%d", id, seq), 1_790_000_000_000_000+int64(seq)
			return body
		}
		events = append(events, event(2*i+1, &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
			ReservationId: id, Subject: subject, BoundNanoUsd: proto.Int64(1000), Holds: []*rateguardv1.Hold{hold},
		}}}), event(2*i+2, &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: &rateguardv1.Outcome{
			ReservationId: id, Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, CostNanoUsd: proto.Int64(int64(i)),
			Subject: subject, Holds: []*rateguardv1.Hold{hold}, BoundNanoUsd: proto.Int64(1000),
		}}}}))
	}
	return events
}

// has returns nil when the server shows the sums of n reservations of life, all ended.
func has(ctx context.Context, server *processors.Server, workspace string, n int) error {
	s, err := server.Spend(ctx, workspace)
	if err != nil {
		return err
	}
	posted := int64(n) * int64(n-1) / 2
	got := s.GetTotal()
	if got.GetEnded() != uint64(n) || got.GetOpened() != uint64(n) || got.GetPostedNanoUsd() != posted || got.GetReservedNanoUsd() != 0 {
		return fmt.Errorf("workspace %s: got %v, want %d reservations and %d nano-USD", workspace, got, n, posted)
	}
	return nil
}

func TestCostsBecomeSpend(t *testing.T) {
	cluster := kafkatest.Start(t)
	server, stop := start(t, cluster.Kafka, "one")
	if _, err := server.Spend(t.Context(), "ws_1"); !errors.Is(err, gokakit.ErrNotReady) {
		t.Errorf("spend before the table is read: got %v, want ErrNotReady", err)
	}
	for w := range 20 {
		cluster.Produce(t, topics.Costs, life("p1", fmt.Sprintf("ws_%d", w), 0, 10+w)...)
	}
	kafkatest.Wait(t, patience, "readiness", server.Ready)
	for w := range 20 {
		kafkatest.Wait(t, patience, "sums", func() error { return has(t.Context(), server, fmt.Sprintf("ws_%d", w), 10+w) })
	}
	stop()
	again, _ := start(t, cluster.Kafka, "one")
	for w := range 20 {
		kafkatest.Wait(t, patience, "sums after a restart", func() error { return has(t.Context(), again, fmt.Sprintf("ws_%d", w), 10+w) })
	}
}
