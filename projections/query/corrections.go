package query

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/rateguard/rateguard/schemas/money"
)

// askCorrected runs a query that reads corrections. Until their table is there, as between the start of this release's control and that of its
// projections, rows are shown without them.
func (s *Service) askCorrected(ctx context.Context, sql func(corrected bool) string, params []any, scan func(driver.Rows) error) error {
	err := s.run(ctx, sql(true), params, scan)
	if errors.Is(err, errNoTable) {
		return s.ask(ctx, sql(false), params, scan)
	}
	return err
}

// within is the condition on the time of a table in the whole span, with a slack of µs around it.
func within(slack string) string {
	return "time >= fromUnixTimestamp64Micro({from:Int64}" + strings.Replace(slack, "±", "-", 1) + ", 'UTC') AND time < fromUnixTimestamp64Micro({to:Int64}" +
		strings.Replace(slack, "±", "+", 1) + ", 'UTC')"
}

// ofApart are the requests in and around the span whose costs are in the table of corrections alone. Its times are a little later than those of
// the rows of requests.
var ofApart = "(SELECT request_id FROM corrections WHERE workspace = {workspace:String} AND apart AND " + within(" ± {slack:Int64}") + ")"

// ofCorrected are the requests of all corrections, in the same way.
var ofCorrected = strings.Replace(ofApart, " AND apart", "", 1)

// corrections returns the pieces that make sums of cost those of the ledger: what corrections add, and, of requests whose costs are there
// alone, less what their rows say. They count no requests.
func (u *usageQuestion) corrections(names []string, by string) []string {
	columns := func(cost string) string {
		var list []string
		for i, g := range u.groups {
			list = append(list, strings.ReplaceAll(g.sql, bucket, "time")+" AS "+names[i])
		}
		for _, a := range aggregates {
			sum := a.nothing
			if a.name == costs {
				sum = cost
			}
			list = append(list, sum+" AS "+a.name)
		}
		return strings.Join(list, ", ")
	}
	where := " WHERE " + u.filter.where() + " AND " + within("")
	from := "corrections"
	if slices.ContainsFunc(u.groups, func(g group) bool { return g.sql == "status" }) {
		// Only the row of the request knows its status; nobody knows that of one without a row.
		from = "(SELECT c.*, r.status AS status FROM corrections AS c LEFT ANY JOIN (SELECT id, status FROM requests WHERE workspace = {workspace:String} AND " +
			within(" ± {slack:Int64}") + " AND id IN " + ofCorrected + ") AS r ON c.request_id = r.id WHERE c.workspace = {workspace:String})"
	}
	return []string{
		"SELECT " + columns("sum(delta_nano)") + " FROM " + from + where + by,
		"SELECT " + columns("-sum(cost_nano)") + " FROM requests" + where + " AND id IN " + ofApart + by,
	}
}

// correction is what the table says of one request.
type correction struct {
	request       string
	apart, priced bool
	delta         int64
	revision      int32
	estimated     bool
	priceVersion  string
}

// correct puts the newest costs into rows of requests.
func (s *Service) correct(ctx context.Context, workspace string, rows []Request) error {
	if len(rows) == 0 {
		return nil
	}
	first, last := rows[0].Time, rows[0].Time
	ids := make([]string, len(rows))
	at := make(map[string]int, len(rows))
	for i, r := range rows {
		ids[i], at[r.ID] = r.ID, i
		if r.Time.Before(first) {
			first = r.Time
		}
		if r.Time.After(last) {
			last = r.Time
		}
	}
	sql := "SELECT request_id, max(apart), countIf(isNotNull(cost_nano)) > 0, sum(delta_nano), max(revision), argMax(estimated, revision), argMax(price_version, revision)" +
		" FROM corrections WHERE workspace = {workspace:String} AND " + within(" ± {slack:Int64}") + " AND request_id IN {ids:Array(String)} GROUP BY request_id"
	params := []any{
		param("workspace", workspace), param("from", first.UnixMicro()), param("to", last.UnixMicro()), param("slack", idSlack.Microseconds()), param("ids", ids),
	}
	return s.ask(ctx, sql, params, func(found driver.Rows) error {
		var c correction
		if err := found.Scan(&c.request, &c.apart, &c.priced, &c.delta, &c.revision, &c.estimated, &c.priceVersion); err != nil {
			return err
		}
		rows[at[c.request]].take(c)
		return nil
	})
}

// take shows a correction.
func (r *Request) take(c correction) {
	var before money.Nano
	switch {
	case c.apart:
		r.Corrected = c.revision > 1 || r.CostUSD == nil && c.priced || r.CostUSD != nil && int64(*r.CostUSD) != c.delta
		r.CostUSD = nil
	case r.CostUSD != nil:
		before, c.priced, r.Corrected = *r.CostUSD, true, true
	default:
		r.Corrected = true
	}
	if c.priced {
		cost := before + money.Nano(c.delta)
		r.CostUSD = &cost
	}
	r.Estimated = c.estimated
	if c.priceVersion != "" { // empty where the log has lost the opening
		r.PriceVersion = c.priceVersion
	}
}
