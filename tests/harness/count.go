package harness

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/mockprovider"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/tests/oracle"
	"github.com/rateguard/rateguard/topics"
)

// row is a request as the analytics have it, entry as the ledger has it.
type row struct {
	id, key   string
	cost      int64
	estimated bool
}

type entry struct {
	cost, bound int64
	estimated   bool
	kind        string
	revision    int
	// first is the cost of the first revision, which the analytics keep, and guessed whether that was estimated.
	first   int64
	guessed bool
}

// Count compares all that is known of a workspace's requests: what its clients got, what the provider
// served, what the log, the ledger, the analytics and the tables say.
type Count struct {
	// Whole is how many requests were answered whole, Estimated how many have an estimated cost.
	Whole, Estimated int
	// Posted is the sum of the ledger in nano-USD. Billed is what the provider billed for the requests whose cost is no estimate, and Bounds what was reserved for
	// the others.
	Posted, Billed, Bounds int64

	losses    Losses
	corrected int

	t      testing.TB
	system *System
	tenant *Tenant
	sent   map[string]Sent
	served map[string]mockprovider.Record

	rows   []row
	ledger map[string]entry
}

// NewCount waits until everything is accounted for, then holds every request to the promise: exactly one row
// and one entry of the ledger, equal to the nano-USD; exact where the client got the answer whole, otherwise
// exact or an estimate that is marked and within the bound.
func NewCount(t testing.TB, s *System, tenant *Tenant, all map[string]Sent) *Count {
	t.Helper()
	return NewCountOf(t, s, tenant, all, Losses{})
}

// Losses are what a test has done to the books on purpose.
type Losses struct {
	// Corrections is how many costs were corrected later: the last one counts.
	Corrections int
	// Untold are the idempotency keys of requests that nobody told the log of: only Redis knew what they held, or cost. Their rows and entries are marked estimated, and
	// have neither keys nor bounds.
	Untold []string
	// Kept are those of requests whose end nobody told the log of, but their openings: Redis has kept their costs, and not whether these are estimates, so that they are
	// marked as such.
	Kept []string
}

// NewCountOf is NewCount after such losses.
func NewCountOf(t testing.TB, s *System, tenant *Tenant, all map[string]Sent, losses Losses) *Count {
	t.Helper()
	c := &Count{t: t, system: s, tenant: tenant, sent: all, served: map[string]mockprovider.Record{}, losses: losses}
	for _, r := range s.Mock.Served() {
		if r.IdempotencyKey == "" {
			continue
		}
		if _, ok := c.served[r.IdempotencyKey]; ok {
			t.Errorf("the provider got request %s twice", r.IdempotencyKey)
		}
		c.served[r.IdempotencyKey] = r
	}
	began := time.Now()
	c.await()
	t.Logf("everything is accounted for after %s", time.Since(began).Round(time.Millisecond))
	c.check()
	return c
}

// await reads the stores until the log shows every reservation ended and they show as many requests.
func (c *Count) await() {
	c.t.Helper()
	Eventually(c.t, 90*time.Second, func() error {
		opened, open, err := c.log()
		if err != nil {
			return err
		}
		if open > 0 {
			return fmt.Errorf("%d of %d reservations are open", open, opened)
		}
		if err := errors.Join(c.readRows(), c.readLedger()); err != nil {
			return err
		}
		if len(c.rows) < opened || len(c.ledger) < opened {
			return fmt.Errorf("%d reservations, but %d rows and %d entries of the ledger", opened, len(c.rows), len(c.ledger))
		}
		if c.corrected < c.losses.Corrections {
			return fmt.Errorf("%d costs were corrected, want %d", c.corrected, c.losses.Corrections)
		}
		return nil
	})
}

// log returns how many of the workspace's requests the topic shows a reservation of, and how many reservations and leases have no end.
func (c *Count) log() (opened, open int, err error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.system.Config().Kafka.Seeds()...), kgo.ConsumeTopics(topics.Costs.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics.Costs.Name)
	if err != nil {
		return 0, 0, err
	}
	var left int64
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	state, leases := map[string]bool{}, map[string]bool{}
	for left > 0 {
		fetches := client.PollFetches(ctx)
		if err := errors.Join(ctx.Err(), fetches.Err()); err != nil {
			return 0, 0, err
		}
		fetches.EachRecord(func(r *kgo.Record) {
			left--
			e, err := envelope.Decode(r.Value)
			if err != nil || string(r.Key) != c.tenant.ID {
				return
			}
			if o := e.GetReservationOpened(); o.GetReservationId() != "" {
				if _, known := state[o.GetReservationId()]; !known {
					state[o.GetReservationId()] = false
				}
				if o.GetLease() {
					leases[o.GetReservationId()] = true
				}
			}
			single := []*rateguardv1.Outcome{e.GetCostSettled().GetOutcome(), e.GetReservationVoided().GetOutcome(), e.GetReservationExpired().GetOutcome(), e.GetLeaseEnded().GetOutcome()}
			for _, end := range append(single, e.GetProducerClosed().GetEnds()...) {
				if end.GetReservationId() != "" {
					state[end.GetReservationId()] = true
				}
				if end.GetLease() {
					leases[end.GetReservationId()] = true
				}
			}
		})
	}
	for _, ended := range state {
		if !ended {
			open++
		}
	}
	return len(state) - len(leases), open, nil
}

func (c *Count) readRows() error {
	options, err := clickhouse.ParseDSN(c.system.Config().ClickHouseURL)
	if err != nil {
		return err
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	found, err := conn.Query(c.t.Context(), "SELECT id, idempotency_key, toInt64(ifNull(cost_nano, -1)), estimated FROM requests WHERE workspace = ? AND decision = 'forwarded'", c.tenant.ID)
	if err != nil {
		return err
	}
	defer func(r driver.Rows) { _ = r.Close() }(found)
	c.rows = nil
	for found.Next() {
		var r row
		if err := found.Scan(&r.id, &r.key, &r.cost, &r.estimated); err != nil {
			return err
		}
		c.rows = append(c.rows, r)
	}
	return found.Err()
}

func (c *Count) readLedger() error {
	ctx := c.t.Context()
	conn, err := pgx.Connect(ctx, c.system.Config().PostgresURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	found, err := conn.Query(ctx, "SELECT request_id, revision, coalesce(cost_nano, -1), coalesce(bound_nano, -1), estimated, kind FROM ledger WHERE workspace = $1 ORDER BY revision", c.tenant.ID)
	if err != nil {
		return err
	}
	defer found.Close()
	c.ledger, c.corrected = map[string]entry{}, 0
	for found.Next() {
		var id string
		var e entry
		if err := found.Scan(&id, &e.revision, &e.cost, &e.bound, &e.estimated, &e.kind); err != nil {
			return err
		}
		e.first, e.guessed = e.cost, e.estimated
		if last := c.ledger[id]; e.revision != last.revision+1 {
			c.t.Errorf("request %s has revision %d in the ledger behind revision %d", id, e.revision, last.revision)
		} else if e.revision > 1 {
			c.corrected++
			e.bound, e.first, e.guessed = max(e.bound, last.bound), last.first, last.guessed
		}
		c.ledger[id] = e
	}
	return found.Err()
}

func (c *Count) check() {
	c.t.Helper()
	byKey, byID := map[string]row{}, map[string]bool{}
	var untold []row
	var rowSum, ledgerSum, firstSum int64
	if c.corrected != c.losses.Corrections {
		c.t.Errorf("%d costs were corrected in the ledger, want %d", c.corrected, c.losses.Corrections)
	}
	for _, r := range c.rows {
		if byID[r.id] || r.key != "" && byKey[r.key].id != "" { // that of a lease has no key
			c.t.Errorf("request %s (%s) has two rows", r.id, r.key)
		}
		rowSum += r.cost
		e, ok := c.ledger[r.id]
		switch {
		case !ok:
			c.t.Errorf("request %s is in the analytics and not in the ledger", r.id)
		case e.first != r.cost || e.guessed != r.estimated:
			c.t.Errorf("request %s: the analytics say %d nano-USD (estimated %t), the ledger %d (%t)", r.id, r.cost, r.estimated, e.first, e.guessed)
		}
		nameless := r.key == "" && r.estimated
		r.cost, r.estimated = e.cost, e.estimated && !slices.Contains(c.losses.Kept, r.key) // what counts from here on
		byID[r.id], byKey[r.key] = true, r
		if len(c.losses.Untold) > 0 && nameless {
			untold = append(untold, r)
		} else if r.estimated {
			c.Estimated++
			c.Bounds += max(0, e.bound)
		} else if _, ok := c.served[r.key]; ok {
			c.Billed += c.want(r.key)
		}
	}
	for id, e := range c.ledger {
		ledgerSum += e.cost
		firstSum += e.first
		if !byID[id] {
			c.t.Errorf("request %s is in the ledger and not in the analytics", id)
		}
	}
	if rowSum != firstSum {
		c.t.Errorf("the analytics sum up to %d nano-USD, the ledger to %d", rowSum, firstSum)
	}
	c.checkUntold(untold)
	c.Posted = ledgerSum
	for key, s := range c.sent {
		if s.Whole {
			c.Whole++
			if !slices.Contains(c.losses.Untold, key) {
				c.checkWhole(key, s, byKey[key])
			}
		}
	}
	for key := range c.served {
		if !slices.Contains(c.losses.Untold, key) {
			c.checkServed(key, byKey[key])
		}
	}
	c.checkTables(ledgerSum)
	c.t.Logf("%d requests sent, %d answered whole, %d reached the provider, %d rows, %d of them estimated, %d nano-USD", len(c.sent), c.Whole, len(c.served), len(c.rows), c.Estimated, rowSum)
}

// checkUntold holds rows of requests that only Redis knew to what those requests were: the cost of those that were answered whole, and otherwise what is reserved for a
// request of their kind.
func (c *Count) checkUntold(rows []row) {
	c.t.Helper()
	if len(rows) != len(c.losses.Untold) {
		c.t.Errorf("%d rows are of requests that nobody told the log of, want %d", len(rows), len(c.losses.Untold))
	}
	bounds := map[int64]bool{}
	for _, e := range c.ledger {
		bounds[e.bound] = true
	}
	for _, key := range c.losses.Untold {
		if !c.sent[key].Whole {
			c.Estimated++
			continue
		}
		cost := c.want(key)
		c.Billed += cost
		i := slices.IndexFunc(rows, func(r row) bool { return r.cost == cost })
		if i < 0 {
			c.t.Errorf("request %s was answered whole and cost %d nano-USD: no row has that", key, cost)
			continue
		}
		rows = slices.Delete(rows, i, i+1)
	}
	for _, r := range rows {
		c.Bounds += r.cost
		if !bounds[r.cost] {
			c.t.Errorf("request %s costs %d nano-USD, which is nobody's bound", r.id, r.cost)
		}
	}
}

func (c *Count) checkWhole(key string, s Sent, r row) {
	if r.id == "" {
		c.t.Errorf("request %s (%s) was answered whole and has no row", key, s.Kind)
		return
	}
	if r.id != s.ID {
		c.t.Errorf("request %s: the client was told id %s, the row has %s", key, s.ID, r.id)
	}
	if want := c.want(key); r.cost != want || r.estimated {
		c.t.Errorf("request %s (%s) was answered whole: got %d nano-USD (estimated %t), want exactly %d", key, s.Kind, r.cost, r.estimated, want)
	}
}

// checkServed holds a request that reached the provider to its row, whatever its client saw.
func (c *Count) checkServed(key string, r row) {
	if r.id == "" {
		c.t.Errorf("request %s reached the provider and has no row", key)
		return
	}
	e := c.ledger[r.id]
	if !r.estimated && r.cost != c.want(key) {
		c.t.Errorf("request %s: got %d nano-USD, not marked estimated, want %d", key, r.cost, c.want(key))
	}
	if r.estimated && (e.bound < 0 || r.cost > e.bound || r.cost < 0) {
		c.t.Errorf("request %s: the estimate is %d nano-USD, the bound %d", key, r.cost, e.bound)
	}
}

// want is what the provider billed, by the oracle.
func (c *Count) want(key string) int64 {
	r := c.served[key]
	if r.Provider == "http" {
		return HTTPCostNano
	}
	nano, err := oracle.Nano(r.Model, oracle.Tokens{Input: r.Usage.Input, CacheRead: r.Usage.Cached, CacheWrite: r.Usage.CacheWrite, Output: r.Usage.Output})
	if err != nil {
		c.t.Errorf("request %s: %v", key, err)
	}
	return nano
}

// checkTables compares the sums that the processors and the balances keep.
func (c *Count) checkTables(want int64) {
	c.t.Helper()
	ctx := c.t.Context()
	conn, err := pgx.Connect(ctx, c.system.Config().PostgresURL)
	if err != nil {
		c.t.Fatalf("connecting to Postgres: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }()
	Eventually(c.t, 30*time.Second, func() error {
		var posted, reserved int64
		if err := conn.QueryRow(ctx, "SELECT posted_nano::bigint, reserved_nano::bigint FROM balances WHERE workspace = $1 AND scope = 'total'", c.tenant.ID).Scan(&posted, &reserved); err != nil {
			return err
		}
		if posted != want || reserved != 0 {
			return fmt.Errorf("the balances say posted %d, reserved %d; want %d and 0", posted, reserved, want)
		}
		spend, err := c.system.Processors().Spend(ctx, c.tenant.ID)
		if err != nil {
			return err
		}
		if total := spend.GetTotal(); total.GetPostedNanoUsd() != want || total.GetReservedNanoUsd() != 0 {
			return fmt.Errorf("the spend table says %v; want posted %d and reserved 0", total, want)
		}
		return nil
	})
}
