package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

var repriceColumns = []column[adminclient.RepriceRow]{
	{"workspace", func(r adminclient.RepriceRow) string { return r.Workspace }},
	{"provider", func(r adminclient.RepriceRow) string { return r.Provider }},
	{"model", func(r adminclient.RepriceRow) string { return r.Model }},
	{"requests", func(r adminclient.RepriceRow) string { return count(r.Requests) }},
	{"changed", func(r adminclient.RepriceRow) string { return count(r.Changed) }},
	{"kept", func(r adminclient.RepriceRow) string { return count(r.Kept) }},
	{"cost usd", func(r adminclient.RepriceRow) string { return r.CostUSD }},
	{"new cost usd", func(r adminclient.RepriceRow) string { return r.NewCostUSD }},
	{"difference usd", func(r adminclient.RepriceRow) string { return r.DifferenceUSD }},
}

// missing reports whether an error is a 404 of the API.
func missing(err error) bool {
	e, ok := errors.AsType[*adminclient.Error](err)
	return ok && e.Status == http.StatusNotFound
}

func (a *app) reprice() *cobra.Command {
	var when period
	var q adminclient.RepriceQuery
	var background bool
	cmd := a.command("reprice", "Compute the costs of past requests again and correct what differs", 0, func(ctx context.Context, _ []string) error {
		p, err := when.read(time.Now())
		if err != nil {
			return err
		}
		switch {
		case p.From.IsZero():
			return usagef("--from is required")
		case !q.DryRun && q.Reason == "":
			return usagef("--reason is required, or --dry-run")
		}
		q.From = p.From
		if !p.To.IsZero() {
			q.To = &p.To
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		if a.settings.workspace != "" {
			if c, q.Workspace, err = a.in(ctx); err != nil {
				return err
			}
		}
		r, err := c.StartReprice(ctx, q)
		if err != nil {
			return err
		}
		if !q.DryRun && !background {
			if r, err = a.awaitReprice(ctx, c, r); err != nil {
				return err
			}
		}
		return a.showReprice(r)
	})
	when.register(cmd)
	f := cmd.Flags()
	f.Lookup("from").Usage = "start, by when requests were opened: RFC 3339, or how long ago such as 48h"
	f.StringVar(&q.Provider, "provider", "", "only requests to this provider")
	f.StringVar(&q.Model, "model", "", "only of this model; a trailing * stands for anything")
	f.BoolVar(&q.DryRun, "dry-run", false, "show what would change and change nothing")
	f.StringVar(&q.Reason, "reason", "", "why; it stands with each correction and in the audit log")
	f.BoolVar(&background, "background", false, "do not wait for the end")
	cmd.AddCommand(a.command("get ID", "Show how far a run is", 1, func(ctx context.Context, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		r, err := c.Reprice(ctx, args[0])
		if err != nil {
			return err
		}
		return a.showReprice(r)
	}))
	return cmd
}

// awaitReprice waits until a run has ended.
func (a *app) awaitReprice(ctx context.Context, c *adminclient.Client, r adminclient.Reprice) (adminclient.Reprice, error) {
	if _, err := fmt.Fprintf(a.env.Stderr, "%s runs; it goes on when this command ends\n", r.ID); err != nil {
		return r, err
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !r.Ended() {
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-tick.C:
		}
		var err error
		if r, err = c.Reprice(ctx, r.ID); err != nil {
			return r, err
		}
	}
	if r.State == "failed" {
		return r, fmt.Errorf("%s failed: %s", r.ID, r.Error)
	}
	return r, nil
}

// showReprice prints the difference with its total.
func (a *app) showReprice(r adminclient.Reprice) error {
	rows := r.Data
	if a.output == "table" && len(rows) != 1 {
		rows = append(slices.Clone(rows), adminclient.RepriceRow{Workspace: "TOTAL", RepriceCounts: r.RepriceCounts})
	}
	if err := show(a, r, rows, repriceColumns); err != nil {
		return err
	}
	if a.output == "table" && !r.DryRun {
		_, err := fmt.Fprintf(a.env.Stderr, "%s is %s\n", r.ID, r.State)
		return err
	}
	return nil
}
