package projections_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/projections"
	"github.com/rateguard/rateguard/projections/query"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/topics"
)

// repriced corrects the cost of a request, which is in the oracle.
func (tr *traffic) repriced(q *request, revision uint32, cost int64) *kgo.Record {
	o := q.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, cost)
	o.Revision, o.Subject.PriceVersion = revision, fmt.Sprint("p", revision)
	tr.want.ledger++
	tr.want.corrections++
	tr.want.posted += cost - q.cost
	q.cost = cost
	return tr.record(topics.Costs, q.workspace, "repricer", &rateguardv1.Event{
		OccurredAtUnixUs: q.at.Add(time.Hour).UnixMicro(),
		Body:             &rateguardv1.Event_CostCorrected{CostCorrected: &rateguardv1.CostCorrected{Outcome: o, Reason: "reprice"}},
	})
}

// closing is the records by which another producer closes one: of the costs, with an end for an open request, and of the requests, with a row for it.
func (tr *traffic) closing(q request, costsMark, requestsMark uint64, row bool) (costs, requests *kgo.Record) {
	end := q.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, q.bound)
	end.Estimated = true
	var rows []*rateguardv1.RequestRecorded
	if row {
		r := q.row()
		r.CostNanoUsd, r.Estimated, r.Status = &q.bound, true, 0
		rows = append(rows, r)
	}
	at := q.at.Add(time.Minute).UnixMicro()
	costs = tr.record(topics.Costs, q.workspace, "closer", &rateguardv1.Event{OccurredAtUnixUs: at, Body: &rateguardv1.Event_ProducerClosed{
		ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: q.producer, Mark: costsMark, Ends: []*rateguardv1.Outcome{end}},
	}})
	requests = tr.record(topics.Requests, q.workspace, "closer", &rateguardv1.Event{OccurredAtUnixUs: at, Body: &rateguardv1.Event_ProducerClosed{
		ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: q.producer, Mark: requestsMark, Rows: rows},
	}})
	return costs, requests
}

// surfaced is a request of a producer that was closed while it lived: in its three ways what the closing said was not the last word.
func (tr *traffic) surfaced(workspace string, way int) []*kgo.Record {
	q := tr.newRequest(workspace, "gone-"+fmt.Sprint(tr.rng.Uint64()))
	tr.want.requests++
	tr.want.input += q.input
	tr.want.ledger += 2
	tr.want.corrections += 2
	opened := tr.opened(q)
	switch way {
	case 0: // the actual cost comes behind the closing
		costs, requests := tr.closing(q, 1, 0, true)
		tr.want.cost += q.bound
		tr.want.posted += q.cost
		return []*kgo.Record{opened, costs, requests, tr.settled(q), tr.recorded(q)}
	case 1: // its row had come before the closing of the requests, which so brings none
		costs, requests := tr.closing(q, 1, 1, false)
		tr.want.cost += q.cost
		tr.want.posted += q.cost
		return []*kgo.Record{opened, costs, tr.recorded(q), requests, tr.settled(q)}
	default: // a second request, of which nothing was known, comes behind it, and has a row much later or never
		costs, requests := tr.closing(q, 1, 0, true)
		late := tr.newRequest(workspace, q.producer)
		tr.want.cost += q.bound
		tr.want.posted += q.bound + late.cost
		records := []*kgo.Record{opened, costs, requests, tr.opened(late), tr.settled(late), tr.recorded(late)}
		if tr.rng.IntN(2) == 0 {
			tr.want.requests++
			tr.want.input += late.input
			tr.want.cost += late.cost
			late.producer = "closer"
			records = append(records, tr.recorded(late))
		}
		return records
	}
}

// corrected returns the records of n requests of all kinds of corrected costs.
func (tr *traffic) corrected(n int) []*kgo.Record {
	var out []*kgo.Record
	for i := range n {
		ws := fmt.Sprintf("ws_%d", tr.rng.IntN(5))
		switch {
		case i%6 < 2:
			out = append(out, tr.surfaced(ws, tr.rng.IntN(3))...)
		case i%6 < 4:
			q := tr.newRequest(ws, "producer-1")
			out = append(out, tr.whole(q)...)
			for revision := range uint32(1 + tr.rng.IntN(2)) {
				out = append(out, tr.repriced(&q, revision+2, tr.rng.Int64N(5_000_000)))
			}
		default:
			out = append(out, tr.whole(tr.newRequest(ws, "producer-1"))...)
		}
	}
	return out
}

// ask is the analytics API over the rig's stores.
func (r *rig) ask() *query.Service {
	r.t.Helper()
	s, err := query.New(r.cfg.ClickHouseURL, r.pg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = s.Close() })
	return s
}

var all = url.Values{"from": {"2026-10-01T00:17:00Z"}, "to": {"2026-12-01T00:17:00Z"}, "limit": {"1000"}}

func with(name, value string) url.Values {
	q := maps.Clone(all)
	q.Set(name, value)
	return q
}

// spentBy returns the ledger's sums by model and day.
func (r *rig) spentBy(workspace string) map[string]money.Nano {
	r.t.Helper()
	rows, err := r.pg.Query(r.t.Context(), "SELECT model || to_char(opened_at, ' YYYY-MM-DD'), sum(delta_nano)::bigint FROM ledger WHERE workspace = $1 GROUP BY 1", workspace)
	if err != nil {
		r.t.Fatal(err)
	}
	sums := map[string]money.Nano{}
	var group string
	var spent int64
	if _, err := pgx.ForEachRow(rows, []any{&group, &spent}, func() error {
		sums[group] = money.Nano(spent)
		return nil
	}); err != nil {
		r.t.Fatal(err)
	}
	return sums
}

// usageBy returns the same as the analytics API says it.
func (r *rig) usageBy(s *query.Service, workspace string) map[string]money.Nano {
	r.t.Helper()
	u, err := s.Usage(r.t.Context(), workspace, with("group_by", "model,day"), time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	sums := map[string]money.Nano{}
	for _, x := range u.Data {
		sums[*x.Model+x.Day.Format(" 2006-01-02")] = x.CostUSD
	}
	return sums
}

// Usage, the list of requests and each request cost what the ledger says, whatever was corrected and however.
func TestAnalyticsSayWhatTheLedgerSays(t *testing.T) {
	r, tr := newRig(t), newTraffic(12)
	r.start()
	s := r.ask()
	for range 3 {
		r.send(tr.load(50)...)
		r.send(tr.corrected(90)...)
		r.caughtUp()
		r.verify(tr.want)
		for i := range 5 {
			r.verifyAnswers(s, fmt.Sprintf("ws_%d", i))
		}
	}
}

func (r *rig) verifyAnswers(s *query.Service, ws string) {
	r.t.Helper()
	ctx := r.t.Context()
	want := r.spentBy(ws)
	if diff := cmp.Diff(want, r.usageBy(s, ws)); diff != "" {
		r.t.Errorf("%s: costs by model and day (-ledger +usage):\n%s", ws, diff)
	}
	var total money.Nano
	for _, n := range want {
		total += n
	}
	for _, grouping := range []string{"", "status", "key,route,endpoint", "hour"} {
		u, err := s.Usage(ctx, ws, with("group_by", grouping), time.Now())
		if err != nil {
			r.t.Fatal(err)
		}
		var sum money.Nano
		var requests uint64
		for _, x := range u.Data {
			sum, requests = sum+x.CostUSD, requests+x.Requests
			if x.Requests > 0 && x.P50 == nil || x.Requests == 0 && x.P50 != nil {
				r.t.Errorf("%s by %q: percentiles of %d requests: %v", ws, grouping, x.Requests, x.P50)
			}
		}
		if sum != total {
			r.t.Errorf("%s by %q: usage says %d nano-USD, the ledger %d", ws, grouping, sum, total)
		}
		var rows uint64
		if err := r.ch.QueryRow(ctx, "SELECT count() FROM requests WHERE workspace = $1", ws).Scan(&rows); err != nil {
			r.t.Fatal(err)
		}
		equal(r.t, ws+": requests of usage by "+grouping, int64(requests), int64(rows))
	}
	list, err := s.Requests(ctx, ws, all, time.Now())
	if err != nil {
		r.t.Fatal(err)
	}
	var errs []error
	for i, x := range list.Data {
		errs = append(errs, r.verifyRequest(ws, x))
		if i%7 > 0 {
			continue
		}
		one, found, err := s.Request(ctx, ws, x.ID)
		if diff := cmp.Diff(x, one, cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".more" }, cmp.Ignore())); err != nil || !found || diff != "" {
			r.t.Fatalf("%s: %v, found %t (-list +one):\n%s", x.ID, err, found, diff)
		}
	}
	if err := errors.Join(errs...); err != nil {
		r.t.Error(err)
	}
}

// verifyRequest compares a request with the ledger's newest revision.
func (r *rig) verifyRequest(ws string, x query.Request) error {
	var cost, first int64
	var estimated bool
	var version string
	var revision int
	err := r.pg.QueryRow(r.t.Context(), `SELECT cost_nano, estimated, price_version, revision FROM ledger WHERE workspace = $1 AND request_id = $2 ORDER BY revision DESC LIMIT 1`, ws, x.ID).
		Scan(&cost, &estimated, &version, &revision)
	if err != nil {
		return fmt.Errorf("request %s in the ledger: %w", x.ID, err)
	}
	if err := r.ch.QueryRow(r.t.Context(), "SELECT cost_nano FROM requests WHERE workspace = $1 AND id = $2", ws, x.ID).Scan(&first); err != nil {
		return err
	}
	if x.CostUSD == nil || int64(*x.CostUSD) != cost || x.Estimated != estimated || x.PriceVersion != version || x.Corrected != (revision > 1 || cost != first) {
		return fmt.Errorf("request %s: got %+v, the ledger says %d nano-USD, estimated %t, by %s, revision %d", x.ID, x, cost, estimated, version, revision)
	}
	return nil
}

// A cost that is corrected after it was shown changes the sums of its model and its day and no others.
func TestRepriceChangesUsage(t *testing.T) {
	r, tr := newRig(t), newTraffic(13)
	r.start()
	s := r.ask()
	const ws = "ws_1"
	var requests []request
	for range 20 {
		q := tr.newRequest(ws, "producer-1")
		requests = append(requests, q)
		r.send(tr.whole(q)...)
	}
	r.caughtUp()
	before := r.usageBy(s, ws)
	q := &requests[7]
	cost := q.cost
	r.send(tr.repriced(q, 2, cost+1))
	r.caughtUp()
	want := maps.Clone(before)
	want[q.model+q.at.Format(" 2006-01-02")]++
	if diff := cmp.Diff(want, r.usageBy(s, ws)); diff != "" {
		t.Errorf("one nano-USD more (-want +got):\n%s", diff)
	}
	r.send(tr.repriced(q, 3, cost))
	r.caughtUp()
	if diff := cmp.Diff(before, r.usageBy(s, ws)); diff != "" {
		t.Errorf("and one less (-want +got):\n%s", diff)
	}
	r.verify(tr.want)
}

// The log is the truth: what was wrong in a ledger and was copied from it goes with that ledger.
func TestALedgerThatIsMadeAgainIsCopiedAgain(t *testing.T) {
	r, tr := newRig(t), newTraffic(17)
	stop := r.start()
	r.send(tr.corrected(60)...)
	r.caughtUp()
	stop()
	before := map[string]string{"ledger": r.generation("ledger"), "corrections": r.generation("corrections")}
	r.exec(r.pg, "UPDATE ledger SET delta_nano = delta_nano + 1 WHERE revision > 1")
	r.execClickHouse("DROP TABLE corrections SYNC")
	stop = r.start()
	r.eventually("the corrections are copied again", r.newGenerations(before, []string{"corrections"}))
	r.caughtUp()
	var wrong int64
	if err := r.ch.QueryRow(t.Context(), "SELECT sum(delta_nano) FROM corrections").Scan(&wrong); err != nil {
		t.Fatal(err)
	}
	stop()
	before["corrections"] = r.generation("corrections")
	r.exec(r.pg, "TRUNCATE ledger")
	r.start()
	r.eventually("both are made again", r.newGenerations(before, []string{"ledger", "corrections"}))
	r.caughtUp()
	r.verify(tr.want)
	var right int64
	if err := r.ch.QueryRow(t.Context(), "SELECT sum(delta_nano) FROM corrections").Scan(&right); err != nil || right >= wrong {
		t.Errorf("corrections of the new ledger sum up to %d, of the wrong one to %d, %v", right, wrong, err)
	}
}

// While ClickHouse takes nothing, answers say what they said, and how old that is; then each correction counts once.
func TestCorrectionsWaitForClickHouse(t *testing.T) {
	r, tr := newRig(t), newTraffic(18)
	var away atomic.Bool
	r.start(func(c *projections.Config) {
		c.Fail = func(p string, s runner.Step) error {
			if away.Load() && p == "corrections" && s == runner.StepFetched {
				return errors.New("ClickHouse is away")
			}
			return nil
		}
	})
	s := r.ask()
	const ws = "ws_1"
	var requests []request
	for range 20 {
		q := tr.newRequest(ws, "producer-1")
		requests = append(requests, q)
		r.send(tr.whole(q)...)
	}
	r.caughtUp()
	before, spent := r.usageBy(s, ws), r.spentBy(ws)
	away.Store(true)
	for i := range requests {
		r.send(tr.repriced(&requests[i], 2, requests[i].cost+1))
	}
	r.eventually("the ledger is corrected", func(context.Context) error {
		if cmp.Equal(spent, r.spentBy(ws)) {
			return errors.New("it is as it was")
		}
		return nil
	})
	r.eventually("usage is stale", func(ctx context.Context) error {
		u, err := s.Usage(ctx, ws, all, time.Now())
		if err == nil && !u.Stale {
			err = fmt.Errorf("as of %v", u.AsOf)
		}
		return err
	})
	if diff := cmp.Diff(before, r.usageBy(s, ws)); diff != "" {
		t.Errorf("without corrections (-before +now):\n%s", diff)
	}
	away.Store(false)
	r.caughtUp()
	r.verify(tr.want)
	r.verifyAnswers(s, ws)
}

// The ends of one closing stay in one batch, however many they are.
func TestAClosingIsCopiedWhole(t *testing.T) {
	r, tr := newRig(t), newTraffic(16)
	r.send(tr.corrected(12)...)
	const ws, gone, n = "ws_1", "producer-gone", 10
	c := &rateguardv1.ProducerClosed{ProducerId: gone, Mark: n}
	rows := &rateguardv1.ProducerClosed{ProducerId: gone}
	for range n {
		q := tr.newRequest(ws, gone)
		r.send(tr.opened(q))
		c.Ends = append(c.Ends, q.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, q.bound))
		row := q.row()
		row.CostNanoUsd = &q.bound
		rows.Rows = append(rows.Rows, row)
		tr.want.requests, tr.want.cost, tr.want.input = tr.want.requests+1, tr.want.cost+q.bound, tr.want.input+q.input
		tr.want.ledger, tr.want.posted, tr.want.corrections = tr.want.ledger+1, tr.want.posted+q.bound, tr.want.corrections+1
	}
	at := epoch.UnixMicro()
	r.send(
		tr.record(topics.Costs, ws, "closer", &rateguardv1.Event{OccurredAtUnixUs: at, Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: c}}),
		tr.record(topics.Requests, ws, "closer", &rateguardv1.Event{OccurredAtUnixUs: at, Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: rows}}))
	r.send(tr.corrected(12)...)
	r.start(func(c *projections.Config) { c.MaxBatch = 4 })
	r.caughtUp()
	r.verify(tr.want)
}

// Two processes elect one that copies; when it goes the other goes on where it was.
func TestCopyingIsHandedOver(t *testing.T) {
	r, tr := newRig(t), newTraffic(14)
	stop := r.start()
	r.send(tr.corrected(30)...)
	r.caughtUp()
	r.cfg.Instance += "-2"
	r.start()
	r.send(tr.corrected(30)...)
	r.caughtUp()
	stop()
	r.send(tr.corrected(30)...)
	r.caughtUp()
	r.verify(tr.want)
}

// An answer is as old as the older of its two tables, and one without corrections is called stale.
func TestAnswersAreAsOldAsTheirCorrections(t *testing.T) {
	r, tr := newRig(t), newTraffic(15)
	stop := r.start()
	s := r.ask()
	r.send(tr.corrected(10)...)
	r.caughtUp()
	r.eventually("usage is fresh", func(ctx context.Context) error {
		u, err := s.Usage(ctx, "ws_1", all, time.Now())
		if err == nil && (u.Stale || u.AsOf == nil) {
			err = fmt.Errorf("as of %v, stale %t", u.AsOf, u.Stale)
		}
		return err
	})
	stop()
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
	if _, err := r.pg.Exec(t.Context(), "UPDATE projection_checkpoints SET observed_at = $1 WHERE projection = 'corrections'", at); err != nil {
		t.Fatal(err)
	}
	u, err := s.Usage(t.Context(), "ws_1", all, time.Now())
	if err != nil || !u.Stale || u.AsOf == nil || !u.AsOf.Equal(at) {
		t.Errorf("an hour behind: as of %v, stale %t, %v", u.AsOf, u.Stale, err)
	}
	r.execClickHouse("DROP TABLE corrections SYNC")
	r.exec(r.pg, "DELETE FROM projection_generations WHERE projection = 'corrections'")
	if u, err = s.Usage(t.Context(), "ws_1", all, time.Now()); err != nil || !u.Stale || u.AsOf != nil || len(u.Data) != 1 || u.Data[0].Requests == 0 {
		t.Errorf("before there is a table: %+v, %v", u, err)
	}
	if list, err := s.Requests(t.Context(), "ws_1", all, time.Now()); err != nil || len(list.Data) == 0 || slices.ContainsFunc(list.Data, func(x query.Request) bool { return x.Corrected }) {
		t.Errorf("before there is a table: %+v, %v", list, err)
	}
}
