package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/money"
)

// groups of the usage report and what a row shows of each.
var groups = map[string]func(adminclient.UsageRow) string{
	"route":    func(r adminclient.UsageRow) string { return r.Route },
	"model":    func(r adminclient.UsageRow) string { return r.Model },
	"endpoint": func(r adminclient.UsageRow) string { return r.Endpoint },
	"key":      func(r adminclient.UsageRow) string { return r.Key },
	"status":   func(r adminclient.UsageRow) string { return r.Status.String() },
	"hour":     func(r adminclient.UsageRow) string { return r.Hour },
	"day":      func(r adminclient.UsageRow) string { return r.Day },
}

var usageColumns = []column[adminclient.UsageRow]{
	{"requests", func(r adminclient.UsageRow) string { return count(r.Requests) }},
	{"errors", func(r adminclient.UsageRow) string { return count(r.Errors) }},
	{"denied", func(r adminclient.UsageRow) string { return count(r.Denied) }},
	{"input", func(r adminclient.UsageRow) string { return count(r.InputTokens) }},
	{"cached", func(r adminclient.UsageRow) string { return count(r.CachedTokens) }},
	{"output", func(r adminclient.UsageRow) string { return count(r.OutputTokens) }},
	{"cost usd", func(r adminclient.UsageRow) string { return r.CostUSD }},
	{"p50 ms", func(r adminclient.UsageRow) string { return r.P50MS.String() }},
	{"p95 ms", func(r adminclient.UsageRow) string { return r.P95MS.String() }},
	{"p99 ms", func(r adminclient.UsageRow) string { return r.P99MS.String() }},
}

func count(n int64) string { return strconv.FormatInt(n, 10) }

// period reads --from and --to.
type period struct{ from, to string }

func (p *period) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&p.from, "from", "", "start: RFC 3339, or how long ago such as 2h (default 24h)")
	cmd.Flags().StringVar(&p.to, "to", "", "end: RFC 3339, or how long ago (default now)")
}

func (p *period) read(now time.Time) (adminclient.Period, error) {
	from, err := instant(p.from, now)
	if err != nil {
		return adminclient.Period{}, usagef("--from: %w", err)
	}
	to, err := instant(p.to, now)
	if err != nil {
		return adminclient.Period{}, usagef("--to: %w", err)
	}
	return adminclient.Period{From: from, To: to}, nil
}

func instant(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is neither an RFC 3339 time nor a duration", s)
	}
	return t, nil
}

func (a *app) usage() *cobra.Command {
	var when period
	var q adminclient.UsageQuery
	cmd := a.command("usage", "Show requests, tokens and cost of a workspace", 0, func(ctx context.Context, _ []string) error {
		var err error
		if q.Period, err = when.read(time.Now()); err != nil {
			return err
		}
		var columns []column[adminclient.UsageRow]
		for _, g := range q.GroupBy {
			text, ok := groups[g]
			if !ok {
				return usagef("--group-by %q: not one of route, model, endpoint, key, status, hour, day", g)
			}
			columns = append(columns, column[adminclient.UsageRow]{g, text})
		}
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		u, err := c.Usage(ctx, ws, q)
		if err != nil {
			return err
		}
		rows := u.Data
		if a.output == "table" && len(rows) > 1 {
			total, err := sum(rows)
			if err != nil {
				return err
			}
			rows, columns = append(slices.Clone(rows), total), markTotal(columns, len(rows))
		}
		if err := show(a, u, rows, append(columns, usageColumns...)); err != nil {
			return err
		}
		if u.Stale {
			_, err = fmt.Fprintf(a.env.Stderr, "not all requests are in yet: as of %s\n", stampAt(u.AsOf))
		}
		return err
	})
	when.register(cmd)
	cmd.Flags().StringSliceVarP(&q.GroupBy, "group-by", "g", []string{"model"}, "any of route, model, endpoint, key, status, hour, day")
	cmd.Flags().StringVar(&q.Interval, "interval", "", "length of the buckets of time, as the API takes it")
	return cmd
}

// sum adds the rows; latencies have no sum.
func sum(rows []adminclient.UsageRow) (adminclient.UsageRow, error) {
	var t adminclient.UsageRow
	var cost money.Nano
	for _, r := range rows {
		t.Requests += r.Requests
		t.Errors += r.Errors
		t.Denied += r.Denied
		t.InputTokens += r.InputTokens
		t.CachedTokens += r.CachedTokens
		t.OutputTokens += r.OutputTokens
		c, err := money.ParseUSD(r.CostUSD)
		if err != nil {
			return t, fmt.Errorf("adding costs: %w", err)
		}
		if cost, err = money.Add(cost, c); err != nil {
			return t, fmt.Errorf("adding costs: %w", err)
		}
	}
	t.CostUSD = cost.String()
	return t, nil
}

// markTotal makes the last row say what it is in the first column.
func markTotal(columns []column[adminclient.UsageRow], rows int) []column[adminclient.UsageRow] {
	if len(columns) == 0 {
		return columns
	}
	seen := 0
	text := columns[0].text
	columns[0].text = func(r adminclient.UsageRow) string {
		if seen++; seen > rows {
			return strings.ToUpper("total")
		}
		return text(r)
	}
	return columns
}
