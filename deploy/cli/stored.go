package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

// stored is a kind of thing that a workspace has many of, each under a name: routes, limits, budgets.
type stored[T any] struct {
	name    string
	columns []column[T]
	list    func(c *adminclient.Client, ctx context.Context, workspace string) ([]T, error)
	get     func(c *adminclient.Client, ctx context.Context, workspace, name string) (T, error)
	remove  func(c *adminclient.Client, ctx context.Context, workspace, name string) error
}

// commands returns list, get and delete.
func (k stored[T]) commands(a *app) []*cobra.Command {
	arg := " " + strings.ToUpper(k.name)
	return []*cobra.Command{
		a.command("list", "List the "+k.name+"s", 0, func(ctx context.Context, _ []string) error {
			c, ws, err := a.in(ctx)
			if err != nil {
				return err
			}
			all, err := k.list(c, ctx, ws)
			if err != nil {
				return err
			}
			return many(a, all, k.columns)
		}),
		a.command("get"+arg, "Show a "+k.name, 1, func(ctx context.Context, args []string) error {
			c, ws, err := a.in(ctx)
			if err != nil {
				return err
			}
			v, err := k.get(c, ctx, ws, args[0])
			if err != nil {
				return err
			}
			return one(a, v, k.columns)
		}),
		a.command("delete"+arg, "Delete a "+k.name, 1, func(ctx context.Context, args []string) error {
			c, ws, err := a.in(ctx)
			if err != nil {
				return err
			}
			if err := k.remove(c, ctx, ws, args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.env.Stderr, "deleted %s\n", args[0])
			return err
		}),
	}
}
