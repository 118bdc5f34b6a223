package cli

import (
	"context"
	"fmt"
	"strconv"

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
		a.workspaceSettings(),
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

var settingColumns = []column[adminclient.Workspace]{
	{"id", func(w adminclient.Workspace) string { return w.ID }},
	{"budget exceeded", func(w adminclient.Workspace) string { return strconv.Itoa(w.Settings.BudgetExceededStatus) }},
	{"unknown outcome", func(w adminclient.Workspace) string { return w.Settings.UnknownOutcome }},
	{"max output tokens", func(w adminclient.Workspace) string {
		if w.Settings.DefaultMaxOutputTokens == nil {
			return "none"
		}
		return strconv.FormatInt(*w.Settings.DefaultMaxOutputTokens, 10)
	}},
	{"fit", func(w adminclient.Workspace) string { return strconv.FormatBool(w.Settings.FitMaxOutputTokens) }},
}

func (a *app) workspaceSettings() *cobra.Command {
	var status int
	var outcome string
	var tokens int64
	var fit bool
	var cmd *cobra.Command
	cmd = a.command("settings ID", "Show the settings of a workspace, and change those whose flags are given", 1, func(ctx context.Context, args []string) error {
		given := map[string]any{}
		for _, f := range []struct {
			flag, name string
			value      any
		}{
			{"budget-exceeded-status", "budget_exceeded_status", status},
			{"unknown-outcome", "unknown_outcome", outcome},
			{"default-max-output-tokens", "default_max_output_tokens", tokens},
			{"fit-max-output-tokens", "fit_max_output_tokens", fit},
		} {
			if cmd.Flags().Changed(f.flag) {
				given[f.name] = f.value
			}
		}
		if tokens == 0 && cmd.Flags().Changed("default-max-output-tokens") {
			given["default_max_output_tokens"] = nil
		}
		c, err := a.client()
		if err != nil {
			return err
		}
		var w adminclient.Workspace
		if len(given) == 0 {
			w, err = c.Workspace(ctx, args[0])
		} else {
			w, err = c.ChangeSettings(ctx, args[0], given)
		}
		if err != nil {
			return err
		}
		return one(a, w, settingColumns)
	})
	f := cmd.Flags()
	f.IntVar(&status, "budget-exceeded-status", 0, "status of a request that a budget refuses: 402, 429 or 400")
	f.StringVar(&outcome, "unknown-outcome", "", "what a call costs whose outcome nobody knows: reserved, input or none")
	f.Int64Var(&tokens, "default-max-output-tokens", 0, "the maximum of output tokens of requests that name none; 0: none")
	f.BoolVar(&fit, "fit-max-output-tokens", false, "lower a request's maximum of output tokens to what a budget has left")
	return cmd
}
