package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/money"
)

var routeColumns = []column[adminclient.Route]{
	{"route", func(r adminclient.Route) string { return r.Name }},
	{"provider", func(r adminclient.Route) string { return r.Provider }},
	{"base url", func(r adminclient.Route) string { return r.BaseURL }},
	{"credential", func(r adminclient.Route) string {
		if r.HasCredential {
			return "set"
		}
		return ""
	}},
	{"cost", func(r adminclient.Route) string {
		if r.Cost.USD != "" {
			return r.Cost.USD + " USD a request"
		}
		return strings.ReplaceAll(r.Cost.Mode, "_", " ")
	}},
	{"timeout", func(r adminclient.Route) string { return r.Timeout }},
}

func (a *app) routes() *cobra.Command {
	return a.group("routes", "Manage the routes of a workspace", append(stored[adminclient.Route]{
		name: "route", columns: routeColumns,
		list: (*adminclient.Client).Routes, get: (*adminclient.Client).Route, remove: (*adminclient.Client).DeleteRoute,
	}.commands(a), a.putRoute())...)
}

func (a *app) putRoute() *cobra.Command {
	var r adminclient.PutRoute
	var credentialEnv, usd string
	var stdin bool
	var timeout time.Duration
	cmd := a.command("put ROUTE", "Make or change a route", 1, func(ctx context.Context, args []string) error {
		if r.BaseURL == "" {
			return usagef("--base-url is required")
		}
		if credentialEnv != "" && stdin {
			return usagef("--credential-env and --credential-stdin exclude each other")
		}
		if credentialEnv != "" {
			v := a.env.Getenv(credentialEnv)
			if v == "" {
				return usagef("--credential-env: %s is not set", credentialEnv)
			}
			r.Credential = &v
		}
		if stdin {
			b, err := io.ReadAll(io.LimitReader(a.env.Stdin, 64<<10))
			if err != nil {
				return fmt.Errorf("reading the credential: %w", err)
			}
			v := strings.TrimSpace(string(b))
			r.Credential = &v
		}
		if usd != "" {
			if _, err := money.ParseUSD(usd); err != nil {
				return usagef("--usd-per-request: %w", err)
			}
			r.Cost = &adminclient.Cost{Mode: "per_request", USD: usd}
		}
		if timeout > 0 {
			r.Timeout = timeout.String()
		}
		c, ws, err := a.in(ctx)
		if err != nil {
			return err
		}
		route, err := c.PutRoute(ctx, ws, args[0], r)
		if err != nil {
			return err
		}
		return one(a, route, routeColumns)
	})
	f := cmd.Flags()
	f.StringVar(&r.Provider, "provider", "openai", "openai, anthropic, gemini or http")
	f.StringVar(&r.BaseURL, "base-url", "", "address of the upstream, without /v1")
	f.StringVar(&credentialEnv, "credential-env", "", "name of the variable with the upstream's credential (default: keep it)")
	f.BoolVar(&stdin, "credential-stdin", false, "read the upstream's credential from standard input")
	f.StringVar(&usd, "usd-per-request", "", "charge each request this decimal amount instead of its tokens")
	f.DurationVar(&timeout, "timeout", 0, "how long the first byte may take (default the API's)")
	return cmd
}
