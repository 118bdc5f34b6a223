package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/topics"
)

// row is a request as the analytics have it.
type row struct {
	id, key, decision, code, model, idempotency string
	status, upstream                            uint16
	cost                                        *int64
	estimated                                   bool
	input, output                               int64
}

// entry is the first end of a reservation as the ledger has it.
type entry struct {
	kind        string
	cost, bound *int64
	estimated   bool
}

// account is all that is known of a request that was forwarded.
type account struct {
	row
	entry entry
}

// books are all that the stores hold of one workspace, closed: nothing is open, nothing is on its way.
type books struct {
	forwarded map[string]account
	denied    map[string]row
	// posted is the sum of all costs in nano-USD.
	posted int64
}

// closeBooks sends a last request of its own and waits until every store has it. Records of a workspace keep their
// order, so whatever the requests before it did is then in the stores too. It fails the test where log, ledger,
// balances, spend table, analytics and usage report do not agree on every request; its own is left out of the books.
func closeBooks(t *testing.T, s *harness.System, tenant *harness.Tenant) books {
	t.Helper()
	last := send(t, s, request{key: tenant.Key, method: http.MethodGet, path: "/http/last"})
	if last.status != http.StatusOK {
		t.Fatalf("the last request: got %d %s", last.status, last.body)
	}
	r := reader{t: t, system: s, workspace: tenant.ID}
	r.await(last.id())
	r.readLog()
	b := r.reconcile()
	if len(b.forwarded) == 0 || b.forwarded[last.id()].id == "" {
		t.Fatalf("the last request is not in the books")
	}
	delete(b.forwarded, last.id())
	return b
}

// reader reads the stores of one workspace.
type reader struct {
	t         *testing.T
	system    *harness.System
	workspace string

	rows   []row
	ledger map[string][]entry
	// opened and ended are the reservations of the log, by request id.
	opened map[string]int
	ended  map[string][]*rateguardv1.Outcome

	posted, reserved, open, endedCount int64
	spend                              *rateguardv1.Sums
}

// await reads until the last request is everywhere and nothing is open.
func (r *reader) await(last string) {
	r.t.Helper()
	harness.Eventually(r.t, 20*time.Second, func() error {
		if err := errors.Join(r.readRows(), r.readPostgres(), r.readSpend()); err != nil {
			return err
		}
		seen := false
		for _, row := range r.rows {
			seen = seen || row.id == last
		}
		if !seen || len(r.ledger[last]) == 0 {
			return errors.New("the last request is not in the analytics and the ledger yet")
		}
		if r.open != 0 || int64(len(r.ledger)) != r.endedCount || r.spend.GetOpened() != r.spend.GetEnded() || r.spend.GetEnded() != uint64(r.endedCount) {
			return fmt.Errorf("%d reservations are open, %d ended, the ledger has %d, the spend table %v", r.open, r.endedCount, len(r.ledger), r.spend)
		}
		return nil
	})
}

func (r *reader) readRows() error {
	options, err := clickhouse.ParseDSN(r.system.Config().ClickHouseURL)
	if err != nil {
		return err
	}
	conn, err := clickhouse.Open(options)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	found, err := conn.Query(r.t.Context(), `SELECT id, key_id, decision, error_code, model, idempotency_key, status, upstream_status, cost_nano, estimated, input_tokens, output_tokens
 FROM requests WHERE workspace = ?`, r.workspace)
	if err != nil {
		return err
	}
	defer func(d driver.Rows) { _ = d.Close() }(found)
	r.rows = nil
	for found.Next() {
		var x row
		if err := found.Scan(&x.id, &x.key, &x.decision, &x.code, &x.model, &x.idempotency, &x.status, &x.upstream, &x.cost, &x.estimated, &x.input, &x.output); err != nil {
			return err
		}
		r.rows = append(r.rows, x)
	}
	return found.Err()
}

func (r *reader) readPostgres() error {
	ctx := r.t.Context()
	conn, err := pgx.Connect(ctx, r.system.Config().PostgresURL)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	found, err := conn.Query(ctx, "SELECT request_id, kind, cost_nano, bound_nano, estimated FROM ledger WHERE workspace = $1 ORDER BY revision", r.workspace)
	if err != nil {
		return err
	}
	r.ledger = map[string][]entry{}
	var id string
	var e entry
	if _, err := pgx.ForEachRow(found, []any{&id, &e.kind, &e.cost, &e.bound, &e.estimated}, func() error {
		r.ledger[id] = append(r.ledger[id], e)
		return nil
	}); err != nil {
		return err
	}
	return conn.QueryRow(ctx, "SELECT posted_nano::bigint, reserved_nano::bigint, open_count, ended_count FROM balances WHERE workspace = $1 AND scope = 'total'", r.workspace).
		Scan(&r.posted, &r.reserved, &r.open, &r.endedCount)
}

func (r *reader) readSpend() error {
	state, err := r.system.Processors().Spend(r.t.Context(), r.workspace)
	r.spend = state.GetTotal()
	return err
}

// readLog reads what the topic of costs has of the workspace now.
func (r *reader) readLog() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer cancel()
	r.opened, r.ended = map[string]int{}, map[string][]*rateguardv1.Outcome{}
	err := r.system.ReadLog(ctx, func(rec *kgo.Record) {
		if string(rec.Key) == r.workspace {
			r.take(rec.Value)
		}
	}, topics.Costs.Name)
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *reader) take(value []byte) {
	r.t.Helper()
	e, err := envelope.Decode(value)
	if err != nil {
		r.t.Fatalf("decoding a record of the log: %v", err)
	}
	if o := e.GetReservationOpened(); o != nil {
		r.opened[o.GetSubject().GetRequestId()]++
	}
	for _, o := range append([]*rateguardv1.Outcome{e.GetCostSettled().GetOutcome(), e.GetReservationVoided().GetOutcome(), e.GetReservationExpired().GetOutcome()}, e.GetProducerClosed().GetEnds()...) {
		if o != nil {
			r.ended[o.GetSubject().GetRequestId()] = append(r.ended[o.GetSubject().GetRequestId()], o)
		}
	}
}

// reconcile holds every request to its one reservation, one end, one entry and one row, all with the same cost.
func (r *reader) reconcile() books {
	r.t.Helper()
	b := books{forwarded: map[string]account{}, denied: map[string]row{}}
	for _, x := range r.rows {
		if b.forwarded[x.id].id != "" || b.denied[x.id].id != "" {
			r.t.Errorf("request %s has two rows", x.id)
		}
		if x.decision == "denied" {
			if r.opened[x.id] != 0 || len(r.ended[x.id]) != 0 || len(r.ledger[x.id]) != 0 {
				r.t.Errorf("request %s was refused and has a reservation", x.id)
			}
			if value(x.cost) != 0 || x.cost == nil {
				r.t.Errorf("request %s was refused and has the cost %s", x.id, show(x.cost))
			}
			b.denied[x.id] = x
			continue
		}
		b.forwarded[x.id] = r.account(x)
		b.posted += value(x.cost)
	}
	for id := range r.opened {
		if b.forwarded[id].id == "" {
			r.t.Errorf("request %s has a reservation and no row", id)
		}
	}
	for id := range r.ledger {
		if b.forwarded[id].id == "" {
			r.t.Errorf("request %s has an entry in the ledger and no row", id)
		}
	}
	if r.posted != b.posted || r.spend.GetPostedNanoUsd() != b.posted || r.reserved != 0 || r.spend.GetReservedNanoUsd() != 0 {
		r.t.Errorf("the rows cost %d nano-USD, the balances say %d and %d reserved, the spend table %v", b.posted, r.posted, r.reserved, r.spend)
	}
	r.usage(b)
	return b
}

func (r *reader) account(x row) account {
	r.t.Helper()
	a := account{row: x}
	if r.opened[x.id] != 1 || len(r.ended[x.id]) != 1 || len(r.ledger[x.id]) != 1 {
		r.t.Errorf("request %s: %d openings, %d ends, %d entries in the ledger; want one of each", x.id, r.opened[x.id], len(r.ended[x.id]), len(r.ledger[x.id]))
		return a
	}
	end := r.ended[x.id][0]
	a.entry = r.ledger[x.id][0]
	if show(x.cost) != show(end.CostNanoUsd) || show(x.cost) != show(a.entry.cost) {
		r.t.Errorf("cost of request %s: %s in the analytics, %s in the log, %s in the ledger", x.id, show(x.cost), show(end.CostNanoUsd), show(a.entry.cost))
	}
	if x.estimated != end.GetEstimated() || x.estimated != a.entry.estimated {
		r.t.Errorf("request %s is estimated: %t in the analytics, %t in the log, %t in the ledger", x.id, x.estimated, end.GetEstimated(), a.entry.estimated)
	}
	if x.estimated && x.cost != nil && (a.entry.bound == nil || value(x.cost) < 0 || value(x.cost) > value(a.entry.bound)) {
		r.t.Errorf("request %s is estimated at %s, its bound is %s", x.id, show(x.cost), show(a.entry.bound))
	}
	return a
}

// usage compares the usage report with the rows.
func (r *reader) usage(b books) {
	r.t.Helper()
	report, err := r.system.Admin.Usage(r.t.Context(), r.workspace, adminclient.UsageQuery{})
	if err != nil || len(report.Data) != 1 {
		r.t.Fatalf("reading the usage: %v, %+v", err, report)
	}
	u := report.Data[0]
	if u.Requests != int64(len(r.rows)) || u.Denied != int64(len(b.denied)) || harness.Nano(r.t, &u.CostUSD) != b.posted {
		r.t.Errorf("usage: got %d requests, %d denied, %s USD; want %d, %d and %d nano-USD", u.Requests, u.Denied, u.CostUSD, len(r.rows), len(b.denied), b.posted)
	}
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

func show(n *int64) string {
	if n == nil {
		return "null"
	}
	return fmt.Sprint(*n)
}
