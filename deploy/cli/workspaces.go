package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

var workspaceColumns = []column[adminclient.Workspace]{
	{"id", func(w adminclient.Workspace) string { return w.ID }},
	{"name", func(w adminclient.Workspace) string { return w.Name }},
	{"created", func(w adminclient.Workspace) string { return stamp(w.CreatedAt) }},
}

// command is a leaf with n arguments that checks the output format first.
func (a *app) command(use, short string, n int, run func(ctx context.Context, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: exactly(n), RunE: func(c *cobra.Command, args []string) error {
		if err := a.checkOutput(); err != nil {
			return err
		}
		return run(c.Context(), args)
	}}
}

// one prints a single thing.
func one[T any](a *app, v T, columns []column[T]) error { return show(a, v, []T{v}, columns) }

// many prints a list.
func many[T any](a *app, v []T, columns []column[T]) error { return show(a, v, v, columns) }

func (a *app) workspaces() *cobra.Command {
	return a.group("workspaces", "Manage workspaces",
		a.command("list", "List the workspaces", 0, func(ctx context.Context, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			all, err := c.Workspaces(ctx)
			if err != nil {
				return err
			}
			return many(a, all, workspaceColumns)
		}),
		a.command("get ID", "Show a workspace", 1, func(ctx context.Context, args []string) error {
			return a.oneWorkspace(func(c *adminclient.Client) (adminclient.Workspace, error) { return c.Workspace(ctx, args[0]) })
		}),
		a.command("create NAME", "Make a workspace", 1, func(ctx context.Context, args []string) error {
			return a.oneWorkspace(func(c *adminclient.Client) (adminclient.Workspace, error) { return c.CreateWorkspace(ctx, args[0]) })
		}),
		a.command("rename ID NAME", "Rename a workspace", 2, func(ctx context.Context, args []string) error {
			return a.oneWorkspace(func(c *adminclient.Client) (adminclient.Workspace, error) {
				return c.RenameWorkspace(ctx, args[0], args[1])
			})
		}),
		a.command("delete ID", "Delete a workspace", 1, func(ctx context.Context, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.DeleteWorkspace(ctx, args[0]); err != nil {
				return err
			}
			_, err = fmt.Fprintf(a.env.Stderr, "deleted %s\n", args[0])
			return err
		}),
	)
}

func (a *app) oneWorkspace(do func(*adminclient.Client) (adminclient.Workspace, error)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	w, err := do(c)
	if err != nil {
		return err
	}
	return one(a, w, workspaceColumns)
}
