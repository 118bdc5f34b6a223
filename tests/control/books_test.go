package control_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections/balances"
	"github.com/rateguard/rateguard/projections/ledger"
	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// books is a system with costs: a database with a ledger and balances that follow the log, and a proxy that writes it.
type books struct {
	t        *testing.T
	cluster  *kfake.Cluster
	kafka    string
	database string
	pool     *pgxpool.Pool
	proxy    *kgo.Client
	sequence map[string]uint64
	rng      *rand.Rand
}

func newBooks(t *testing.T) *books {
	t.Helper()
	b := &books{t: t, cluster: newCluster(t), database: newDatabase(t), sequence: map[string]uint64{}, rng: rand.New(rand.NewPCG(1, 2))}
	b.kafka = brokers(b.cluster)
	if err := postgres.Migrate(t.Context(), b.database); err != nil {
		t.Fatal(err)
	}
	var err error
	if b.pool, err = postgres.Open(t.Context(), b.database); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.pool.Close)
	if b.proxy, err = kgo.NewClient(kgo.SeedBrokers(b.kafka)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.proxy.Close)
	return b
}

// follow runs a projection until the test or stop ends it.
func (b *books) follow(p runner.Projection) (stop func()) {
	metrics, err := runner.NewMetrics(nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r := runner.New(runner.Config{
		Projection: p, PostgresURL: b.database, Pool: b.pool, Migrate: postgres.Migrate, Kafka: []kgo.Opt{kgo.SeedBrokers(b.kafka)},
		Instance: "books", Linger: 5 * time.Millisecond, Log: slog.New(slog.DiscardHandler), Metrics: metrics,
	})
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.t.Context()))
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			b.t.Errorf("following: %v", err)
		}
	}
	b.t.Cleanup(stop)
	return stop
}

// spent is one reservation that has ended.
type spent struct {
	ws, provider, model, version string
	at                           time.Time
	kind                         rateguardv1.OutcomeKind
	cost, bound                  *int64
	usage                        *price.Usage
	estimated                    bool
}

// settled is a call of gpt-4o with random usage, charged by the catalogue.
func (b *books) settled(ws string, at time.Time) spent {
	u := price.Usage{InputTokens: 1 + b.rng.Int64N(100_000), OutputTokens: 1 + b.rng.Int64N(10_000)}
	cost, version := costOf(b.t, price.Default(), "gpt-4o", at, u)
	return spent{ws: ws, provider: "openai", model: "gpt-4o", version: version, at: at, cost: &cost, usage: &u}
}

func costOf(t *testing.T, c *price.Catalogue, model string, at time.Time, u price.Usage) (int64, string) {
	t.Helper()
	p, err := c.Find(price.Query{Provider: "openai", Model: model, At: at})
	if err != nil {
		t.Fatal(err)
	}
	cost, err := p.Cost(u)
	if err != nil {
		t.Fatal(err)
	}
	return int64(cost), p.Version()
}

// write appends opening and end of reservations to the log and waits for the broker.
func (b *books) write(all ...spent) {
	b.t.Helper()
	var records []*kgo.Record
	for _, s := range all {
		id := uuid.NewString()
		subject := &rateguardv1.Subject{
			RequestId: id, Attempt: 1, KeyId: "key_1", Route: "r", Provider: s.provider, Model: s.model, Endpoint: "/v1/chat/completions",
			OpenedAtUnixUs: s.at.UnixMicro(), PriceVersion: s.version, PolicyVersion: 3,
		}
		holds := []*rateguardv1.Hold{{BudgetId: "b", BudgetGeneration: 1, Balance: "x", PeriodStartUnixUs: s.at.Truncate(24 * time.Hour).UnixMicro(), AmountNanoUsd: 7}}
		o := &rateguardv1.Outcome{
			ReservationId: id + "/1", Revision: 1, Kind: max(s.kind, rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED), CostNanoUsd: s.cost, BoundNanoUsd: s.bound,
			Subject: subject, Holds: holds, Estimated: s.estimated,
		}
		if s.usage != nil {
			o.Usage = s.usage.Proto()
		}
		end := &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: o}}}
		switch s.kind {
		case rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED:
			end.Body = &rateguardv1.Event_ReservationExpired{ReservationExpired: &rateguardv1.ReservationExpired{Outcome: o}}
		case rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED:
			end.Body = &rateguardv1.Event_ReservationVoided{ReservationVoided: &rateguardv1.ReservationVoided{Outcome: o}}
		}
		open := &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
			ReservationId: id + "/1", Subject: subject, Holds: holds, BoundNanoUsd: s.bound,
		}}}
		for _, e := range []*rateguardv1.Event{open, end} {
			b.sequence[s.ws]++
			e.Id, e.WorkspaceId, e.OccurredAtUnixUs, e.ProducerId, e.Sequence = uuid.NewString(), s.ws, s.at.UnixMicro(), "proxy", b.sequence[s.ws]
			value, err := envelope.Encode(e)
			if err != nil {
				b.t.Fatal(err)
			}
			records = append(records, &kgo.Record{Topic: topics.Costs.Name, Key: []byte(s.ws), Value: value, Partition: hash.Partition([]byte(s.ws), partitions)})
		}
	}
	if err := b.proxy.ProduceSync(b.t.Context(), records...).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
}

// caughtUp waits until ledger and balances show the whole log.
func (b *books) caughtUp() {
	b.t.Helper()
	ends, err := kadm.NewClient(b.proxy).ListEndOffsets(b.t.Context(), topics.Costs.Name)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, projection := range []string{ledger.Name, balances.Name} {
		await(b.t, projection+" to catch up", func() bool {
			all := true
			ends.Each(func(o kadm.ListedOffset) {
				if b.number("SELECT coalesce(max(next_offset), 0) FROM projection_checkpoints JOIN projection_generations USING (projection, generation) WHERE projection = $1 AND partition = $2",
					projection, o.Partition) < o.Offset {
					all = false
				}
			})
			return all
		})
	}
}

func (b *books) number(sql string, args ...any) (n int64) {
	b.t.Helper()
	if err := b.pool.QueryRow(b.t.Context(), sql, args...).Scan(&n); err != nil {
		b.t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// read returns all events of the topic of costs, by partition.
func (b *books) read() (all []record) {
	b.t.Helper()
	ends, err := kadm.NewClient(b.proxy).ListEndOffsets(b.t.Context(), topics.Costs.Name)
	if err != nil {
		b.t.Fatal(err)
	}
	want := 0
	ends.Each(func(o kadm.ListedOffset) { want += int(o.Offset) })
	return follow(b.t, b.kafka, topics.Costs.Name).until("the whole log", func(all []record) bool { return len(all) >= want })
}

// check compares what every consumer of the log makes of it with what was spent.
func (b *books) check(want map[string]int64) {
	b.t.Helper()
	b.caughtUp()
	states := map[string]*rateguardv1.SpendState{}
	for _, r := range b.read() {
		if states[r.key] == nil {
			states[r.key] = &rateguardv1.SpendState{}
		}
		for _, note := range spend.Fold(states[r.key], r.event).Notes {
			if note.Kind != "producer_closed_ignored" { // of a repeat
				b.t.Errorf("the fold notes %s: %s", note.Kind, note.Detail)
			}
		}
	}
	for ws, cost := range want {
		got := map[string]int64{
			"ledger, by differences": b.number("SELECT sum(delta_nano)::bigint FROM ledger WHERE workspace = $1", ws),
			"ledger, newest revisions": b.number(`SELECT sum(coalesce(cost_nano, 0))::bigint FROM ledger l WHERE workspace = $1
 AND revision = (SELECT max(revision) FROM ledger n WHERE n.workspace = l.workspace AND n.reservation_id = l.reservation_id)`, ws),
			"balances":                b.number("SELECT posted_nano::bigint FROM balances WHERE workspace = $1 AND scope = 'total'", ws),
			"balances, of the budget": b.number("SELECT sum(posted_nano)::bigint FROM balances WHERE workspace = $1 AND scope = 'budget'", ws),
			"spend":                   states[ws].GetTotal().GetPostedNanoUsd(),
		}
		for _, budget := range states[ws].GetBudgets() {
			for _, balance := range budget.GetBalances() {
				for _, p := range balance.GetPeriods() {
					got["spend, of the budget"] += p.GetSums().GetPostedNanoUsd()
				}
			}
		}
		for where, n := range got {
			if n != cost {
				b.t.Errorf("%s of %s: %s, want %s", where, ws, dollars(n), dollars(cost))
			}
		}
		for _, p := range states[ws].GetProducers() {
			if p.GetProducerId() != "proxy" && p.GetClosedAtUnixUs() == 0 {
				b.t.Errorf("producer %s of a reprice is not closed in %s", p.GetProducerId(), ws)
			}
		}
	}
}

func dollars(nano int64) string { return fmt.Sprintf("%d nano-USD", nano) }
