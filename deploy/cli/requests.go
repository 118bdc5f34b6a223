package cli

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

var requestColumns = []column[adminclient.Request]{
	{"time", func(r adminclient.Request) string { return r.Time.UTC().Format("15:04:05.000") }},
	{"id", func(r adminclient.Request) string { return r.ID }},
	{"route", func(r adminclient.Request) string { return r.Route }},
	{"model", func(r adminclient.Request) string { return r.Model }},
	{"status", func(r adminclient.Request) string { return strconv.Itoa(r.Status) }},
	{"in", func(r adminclient.Request) string { return count(r.InputTokens) }},
	{"out", func(r adminclient.Request) string { return count(r.OutputTokens) }},
	{"cost usd", costText},
	{"ms", func(r adminclient.Request) string { return r.LatencyMS.String() }},
}

func costText(r adminclient.Request) string {
	switch {
	case r.CostUSD == nil:
		return "unknown"
	case r.Estimated:
		return "~" + *r.CostUSD
	default:
		return *r.CostUSD
	}
}

func (a *app) requests() *cobra.Command {
	return a.group("requests", "Look at single requests", a.listRequests(), a.tailRequests(),
		a.command("get ID", "Show a request", 1, func(ctx context.Context, args []string) error {
			c, ws, err := a.in(ctx)
			if err != nil {
				return err
			}
			r, err := c.Request(ctx, ws, args[0])
			if err != nil {
				return err
			}
			return one(a, r, requestColumns)
		}),
		a.explainRequest(),
	)
}

// filter reads the filters of the request log.
type filter struct{ model, route, key, status string }

func (f *filter) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.model, "model", "", "only this model")
	flags.StringVar(&f.route, "route", "", "only this route")
	flags.StringVar(&f.key, "key", "", "only this key id")
	flags.StringVar(&f.status, "status", "", "only this status")
}

func (f *filter) values() url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"model": f.model, "route": f.route, "key": f.key, "status": f.status} {
		if v != "" {
			q.Set(name, v)
		}
	}
	return q
}

func (a *app) listRequests() *cobra.Command {
	var when period
	var f filter
	var limit int
	cmd := a.command("list", "List requests, newest first", 0, func(ctx context.Context, _ []string) error {
		p, err := when.read(time.Now())
		if err != nil {
			return err
		}
		if limit < 1 {
			return usagef("--limit %d is not positive", limit)
		}
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		rows, err := take(ctx, c, ws, p, f.values(), limit)
		if err != nil {
			return err
		}
		return many(a, rows, requestColumns)
	})
	when.register(cmd)
	f.register(cmd)
	cmd.Flags().IntVarP(&limit, "limit", "n", 50, "how many at most")
	return cmd
}

// pageSize is how many rows one call asks for at most.
const pageSize = 200

// take reads up to n requests.
func take(ctx context.Context, c *adminclient.Client, ws string, p adminclient.Period, q url.Values, n int) ([]adminclient.Request, error) {
	q.Set("limit", strconv.Itoa(min(n, pageSize)))
	rows := []adminclient.Request{}
	for r, err := range c.Requests(ctx, ws, p, q) {
		if err != nil {
			return nil, err
		}
		if rows = append(rows, r); len(rows) == n {
			break
		}
	}
	return rows, nil
}

// Rows become visible a little out of order, so a tail looks back over what it has shown.
const (
	tailEvery    = time.Second
	tailLookback = 30 * time.Second
	tailMost     = 1000
)

func (a *app) tailRequests() *cobra.Command {
	var f filter
	var since time.Duration
	cmd := a.command("tail", "Show requests as they come, until interrupted", 0, func(ctx context.Context, _ []string) error {
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		t := &tail{app: a, client: c, workspace: ws, filter: f, from: time.Now().Add(-since), shown: map[string]time.Time{}}
		return t.run(ctx)
	})
	f.register(cmd)
	cmd.Flags().DurationVar(&since, "since", 10*time.Second, "how far back to begin")
	return cmd
}

// tail follows the request log by asking again and again.
type tail struct {
	app       *app
	client    *adminclient.Client
	workspace string
	filter    filter
	from      time.Time
	// shown are the requests of the last tailLookback that were printed.
	shown map[string]time.Time
}

func (t *tail) run(ctx context.Context) error {
	tick := time.NewTicker(tailEvery)
	defer tick.Stop()
	for {
		if err := t.poll(ctx); err != nil {
			if ctx.Err() != nil {
				return nil // an interrupt is how a tail ends
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (t *tail) poll(ctx context.Context) error {
	rows, err := take(ctx, t.client, t.workspace, adminclient.Period{From: t.from}, t.filter.values(), tailMost)
	if err != nil {
		return err
	}
	for _, r := range slices.Backward(rows) {
		if _, ok := t.shown[r.ID]; ok {
			continue
		}
		t.shown[r.ID] = r.Time
		if err := t.print(r); err != nil {
			return err
		}
	}
	if len(rows) > 0 {
		if next := rows[0].Time.Add(-tailLookback); next.After(t.from) {
			t.from = next
		}
	}
	for id, at := range t.shown {
		if at.Before(t.from) {
			delete(t.shown, id)
		}
	}
	return nil
}

// print writes one line; JSON is one object a line, for pipes.
func (t *tail) print(r adminclient.Request) error {
	if t.app.output != "table" {
		return t.app.document(r)
	}
	w := tabwriter.NewWriter(t.app.env.Stdout, 12, 4, 2, ' ', 0)
	for _, c := range requestColumns {
		if _, err := fmt.Fprintf(w, "%s\t", printable(c.text(r))); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return w.Flush()
}
