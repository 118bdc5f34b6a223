package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

var limitColumns = []column[adminclient.Limit]{
	{"limit", func(l adminclient.Limit) string { return l.Name }},
	{"scope", func(l adminclient.Limit) string { return l.Scope }},
	{"match", func(l adminclient.Limit) string { return matchText(l.Match) }},
	{"rate", func(l adminclient.Limit) string { return fmt.Sprintf("%d %s in %s", l.Limit, l.Unit, l.Window) }},
	{"algorithm", func(l adminclient.Limit) string { return strings.ReplaceAll(l.Algorithm, "_", " ") }},
	{"burst", func(l adminclient.Limit) string {
		if l.Burst == 0 {
			return ""
		}
		return strconv.FormatInt(l.Burst, 10)
	}},
	{"max delay", func(l adminclient.Limit) string { return l.MaxDelay }},
	{"mode", func(l adminclient.Limit) string { return modeText(l.Mode, l.LeasePercent) }},
	{"store fails", func(l adminclient.Limit) string { return l.OnStoreFailure }},
}

// modeText shows the mode of a limit or a budget, with its share where it is leased.
func modeText(mode string, percent int) string {
	if percent == 0 {
		return mode
	}
	return fmt.Sprintf("%s %d %%", mode, percent)
}

func matchText(m adminclient.Match) string {
	var parts []string
	for _, f := range []struct{ name, value string }{{"route", m.Route}, {"model", m.Model}, {"key", m.Key}} {
		if f.value != "" {
			parts = append(parts, f.name+" "+f.value)
		}
	}
	return strings.Join(parts, ", ")
}

func (a *app) limits() *cobra.Command {
	return a.group("limits", "Manage the rate limits of a workspace", append(stored[adminclient.Limit]{
		name: "limit", columns: limitColumns,
		list: (*adminclient.Client).Limits, get: (*adminclient.Client).Limit, remove: (*adminclient.Client).DeleteLimit,
	}.commands(a), a.putLimit())...)
}

func (a *app) putLimit() *cobra.Command {
	var l adminclient.PutLimit
	var match adminclient.Match
	var window, maxDelay time.Duration
	cmd := a.command("put LIMIT", "Make or change a limit", 1, func(ctx context.Context, args []string) error {
		switch {
		case l.Limit < 1:
			return usagef("--limit is required and positive")
		case window <= 0:
			return usagef("--window is required and positive")
		case l.Burst < 0:
			return usagef("--burst %d is negative", l.Burst)
		case l.LeasePercent < 0:
			return usagef("--lease-percent %d is negative", l.LeasePercent)
		case maxDelay < 0:
			return usagef("--max-delay %s is negative", maxDelay)
		}
		l.Window = window.String()
		if maxDelay > 0 {
			l.MaxDelay = maxDelay.String()
		}
		if match != (adminclient.Match{}) {
			l.Match = &match
		}
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		limit, err := c.PutLimit(ctx, ws, args[0], l)
		if err != nil {
			return err
		}
		return one(a, limit, limitColumns)
	})
	f := cmd.Flags()
	f.StringVar(&l.Scope, "scope", "", "workspace, key, route, model or endpoint: what has a bucket of its own (default workspace)")
	f.StringVar(&match.Route, "match-route", "", "count only calls of this route")
	f.StringVar(&match.Model, "match-model", "", "count only calls of these models, with *")
	f.StringVar(&match.Key, "match-key", "", "count only calls of this key id")
	f.StringVar(&l.Unit, "unit", "", "requests or tokens (default requests)")
	f.StringVar(&l.Algorithm, "algorithm", "", "token_bucket, sliding_window, fixed_window or leaky_bucket (default token_bucket)")
	f.Int64Var(&l.Limit, "limit", 0, "how many units in a window")
	f.DurationVar(&window, "window", 0, "how long a window is")
	f.Int64Var(&l.Burst, "burst", 0, "size of a bucket (default the limit)")
	f.StringVar(&l.Mode, "mode", "", "strict or leased (default strict)")
	f.IntVar(&l.LeasePercent, "lease-percent", 0, "how much of a leased limit's burst proxies may hold unspent (default 5)")
	f.StringVar(&l.OnStoreFailure, "on-store-failure", "", "open or closed, while Redis does not answer (default open)")
	f.DurationVar(&maxDelay, "max-delay", 0, "how long a leaky bucket may hold a request (default 1s)")
	return cmd
}
