package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/deploy/mockprovider"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/tests/oracle"
	"github.com/rateguard/rateguard/topics"
)

// row is a request as the analytics have it: with the cost that its corrections make of what was recorded first.
type row struct {
	id, key   string
	cost      int64
	estimated bool
}

// entry is the newest revision of a request's reservation in the ledger.
type entry struct {
	reservation string
	cost, bound int64
	estimated   bool
	kind        string
	revision    int
}

// correction is what the analytics' corrections say of a request. The cost of one that is apart stands in them alone.
type correction struct {
	rows                    uint64
	apart, priced, estimate bool
	delta                   int64
}

// Count compares all that is known of a workspace's requests: what its clients got, what the provider
// served, what the log, the ledger, the analytics and the tables say.
type Count struct {
	// Whole is how many requests were answered whole, Estimated how many have an estimated cost.
	Whole, Estimated int
	// Posted is the sum of the ledger in nano-USD. Billed is what the provider billed for the requests whose cost is no estimate, and Bounds what was reserved for
	// the others.
	Posted, Billed, Bounds int64

	losses Losses

	t      testing.TB
	system *System
	tenant *Tenant
	sent   map[string]Sent
	served map[string]mockprovider.Record

	rows        []row
	corrections map[string]correction
	ledger      map[string]entry
	// spent is the sum of the ledger, corrected how many of its rows correct what the analytics have recorded, and revised how many come behind another one.
	spent, corrected int64
	revised          int
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
		if _, ours := all[r.IdempotencyKey]; !ours {
			continue // nobody's, or another workspace's
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

// await reads the stores until the log shows every reservation ended, and they show each of its requests. What is charged of leases is in them too, so that
// numbers alone would say nothing.
func (c *Count) await() {
	c.t.Helper()
	Eventually(c.t, 90*time.Second, func() error {
		opened, open, err := c.log()
		if err != nil {
			return err
		}
		if open > 0 {
			return fmt.Errorf("%d reservations are open, %d requests known", open, len(opened))
		}
		if err := errors.Join(c.readRows(), c.readLedger()); err != nil {
			return err
		}
		rows := map[string]bool{}
		for _, r := range c.rows {
			rows[r.id] = true
		}
		for _, id := range append(opened, slices.Collect(maps.Keys(c.ledger))...) {
			if _, ok := c.ledger[id]; !ok || !rows[id] {
				return fmt.Errorf("request %s is in the log; in the ledger %t, in the analytics %t", id, ok, rows[id])
			}
		}
		var corrections uint64
		for _, x := range c.corrections {
			corrections += x.rows
		}
		if corrections < uint64(c.corrected) {
			return fmt.Errorf("the ledger corrects %d times, the analytics %d", c.corrected, corrections)
		}
		if c.revised < c.losses.Corrections {
			return fmt.Errorf("%d costs were corrected, want %d", c.revised, c.losses.Corrections)
		}
		return nil
	})
}

// log returns the workspace's requests of which the topic shows a reservation, and how many reservations and leases have no end.
func (c *Count) log() (opened []string, open int, err error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	state, leases := map[string]bool{}, map[string]bool{}
	err = c.system.ReadLog(ctx, func(r *kgo.Record) {
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
	}, topics.Costs.Name)
	if err != nil {
		return nil, 0, err
	}
	for id, ended := range state {
		if !ended {
			open++
		}
		if !leases[id] {
			request, _, _ := strings.Cut(id, "/")
			opened = append(opened, request)
		}
	}
	return opened, open, nil
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
	if err := c.readCorrections(conn); err != nil {
		return err
	}
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
		if x, ok := c.corrections[r.id]; ok {
			r.estimated = x.estimate
			switch {
			case !x.priced:
				r.cost = -1
			case x.apart || r.cost == -1:
				r.cost = x.delta
			default:
				r.cost += x.delta
			}
		}
		c.rows = append(c.rows, r)
	}
	return found.Err()
}

func (c *Count) readCorrections(conn driver.Conn) error {
	found, err := conn.Query(c.t.Context(), `SELECT request_id, count(), max(apart), argMax(isNotNull(cost_nano), revision) = 1, argMax(estimated, revision), sum(delta_nano)
 FROM corrections WHERE workspace = ? GROUP BY request_id`, c.tenant.ID)
	if err != nil {
		return err
	}
	defer func(r driver.Rows) { _ = r.Close() }(found)
	c.corrections = map[string]correction{}
	for found.Next() {
		var id string
		var x correction
		var priced uint8
		if err := found.Scan(&id, &x.rows, &x.apart, &priced, &x.estimate, &x.delta); err != nil {
			return err
		}
		x.priced = priced == 1
		c.corrections[id] = x
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
	// One statement, as the ledger goes on meanwhile.
	found, err := conn.Query(ctx, `SELECT request_id, reservation_id, revision, coalesce(cost_nano, -1), coalesce(bound_nano, -1), estimated, kind,
 coalesce(delta_nano, 0), apart OR revision > 1 FROM ledger WHERE workspace = $1 ORDER BY revision`, c.tenant.ID)
	if err != nil {
		return err
	}
	defer found.Close()
	c.ledger, c.revised, c.spent, c.corrected = map[string]entry{}, 0, 0, 0
	for found.Next() {
		var id string
		var e entry
		var delta int64
		var corrects bool
		if err := found.Scan(&id, &e.reservation, &e.revision, &e.cost, &e.bound, &e.estimated, &e.kind, &delta, &corrects); err != nil {
			return err
		}
		c.spent += delta
		if corrects {
			c.corrected++
		}
		if last, ok := c.ledger[id]; ok && last.reservation != e.reservation {
			c.t.Errorf("request %s is in the ledger more than once", id)
		} else if e.revision != last.revision+1 {
			c.t.Errorf("request %s has revision %d in the ledger behind revision %d", id, e.revision, last.revision)
		} else if ok {
			c.revised++
			e.bound = max(e.bound, last.bound)
		}
		c.ledger[id] = e
	}
	return found.Err()
}

func (c *Count) check() {
	c.t.Helper()
	byKey, byID := map[string]row{}, map[string]bool{}
	var untold []row
	var rowSum, ledgerSum int64
	if c.revised != c.losses.Corrections {
		c.t.Errorf("%d costs were corrected in the ledger, want %d", c.revised, c.losses.Corrections)
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
		case e.cost != r.cost || e.estimated != r.estimated:
			c.t.Errorf("request %s: the analytics say %d nano-USD (estimated %t), the ledger %d (%t)", r.id, r.cost, r.estimated, e.cost, e.estimated)
		}
		nameless := r.key == "" && (r.estimated || e.revision > 1)          // whose estimate was corrected has no name either
		r.estimated = r.estimated && !slices.Contains(c.losses.Kept, r.key) // what counts from here on
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
		if !byID[id] {
			c.t.Errorf("request %s is in the ledger and not in the analytics", id)
		}
	}
	if rowSum != ledgerSum || c.spent != ledgerSum {
		c.t.Errorf("the analytics sum up to %d nano-USD, the ledger to %d, by differences to %d", rowSum, ledgerSum, c.spent)
	}
	c.checkUsage(ledgerSum)
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
	c.t.Logf("%d requests sent, %d answered whole, %d reached the provider, %d rows, %d of them estimated, %d corrections, %d nano-USD", len(c.sent), c.Whole, len(c.served), len(c.rows),
		c.Estimated, c.corrected, rowSum)
}

// checkUsage compares what the analytics API sums up.
func (c *Count) checkUsage(want int64) {
	c.t.Helper()
	report, err := c.system.Admin.Usage(c.t.Context(), c.tenant.ID, adminclient.UsageQuery{})
	if err != nil || len(report.Data) != 1 {
		c.t.Fatalf("reading the usage: %v, %+v", err, report)
	}
	if got := Nano(c.t, &report.Data[0].CostUSD); got != want {
		c.t.Errorf("usage says %d nano-USD, the ledger %d", got, want)
	}
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
