package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

var producerColumns = []column[adminclient.Producer]{
	{"producer", func(p adminclient.Producer) string { return p.ID }},
	{"host", func(p adminclient.Producer) string { return p.Host }},
	{"started", func(p adminclient.Producer) string { return stamp(p.StartedAt) }},
	{"declared lost", func(p adminclient.Producer) string { return stampAt(p.DeclaredLostAt) }},
}

func (a *app) producers() *cobra.Command {
	return a.group("producers", "See which runs of proxies are not closed",
		a.command("list", "List the runs of proxies that are not closed: they run, or what they left waits to be ended", 0, func(ctx context.Context, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			all, err := c.Producers(ctx)
			if err != nil {
				return err
			}
			return many(a, all, append(producerColumns, column[adminclient.Producer]{"for", func(p adminclient.Producer) string {
				return time.Since(p.StartedAt).Round(time.Second).String()
			}}))
		}))
}

func (a *app) declareLost() *cobra.Command {
	var reason string
	cmd := a.command("declare-lost PRODUCER", "Say that a proxy's disk and what Redis held of it are gone for good: what it had open is charged at its bound", 1,
		func(ctx context.Context, args []string) error {
			if reason == "" {
				return usagef("--reason is required: it is kept in the audit log")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			p, err := c.DeclareLost(ctx, args[0], reason)
			if err != nil {
				return err
			}
			return one(a, p, producerColumns)
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why nobody can read what it left")
	return cmd
}
