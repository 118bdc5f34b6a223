// Package cli is the operator's command line: everything that `rateguard` does besides being
// a process's main function, so that tests run whole command lines without a process.
package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// Env is what a command line meets outside of itself.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads environment variables.
	Getenv func(string) string
	// Version of the build.
	Version string
}

// Process returns the environment of the running process.
func Process(version string) Env {
	return Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Version: version}
}

// usageError is a command line that cannot be understood.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// app is one run of the command line.
type app struct {
	env      Env
	settings settings
	output   string
}

// Run executes a command line and returns its exit code: 0 ok, 1 failed, 2 usage.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{env: env}
	root := a.root() //nolint:contextcheck // commands get theirs when they run, from cobra
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var usage *usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(env.Stderr, "rateguard: %v\nTry 'rateguard help'.\n", err)
		return exitUsage
	default:
		_, _ = fmt.Fprintf(env.Stderr, "rateguard: %v\n", err)
		return exitFailed
	}
}

func (a *app) root() *cobra.Command {
	root := a.group("rateguard", "Rate limits, budgets and cost accounting for LLM and HTTP APIs",
		a.up(), a.demo(), a.usage(), a.requests(), a.workspaces(), a.keys(), a.routes(), a.limits(), a.budgets(), a.prices(), a.reprice(), a.producers(), a.topics(), a.mock(), a.version())
	root.SetIn(a.env.Stdin)
	root.SetOut(a.env.Stdout)
	root.SetErr(a.env.Stderr)
	root.SilenceErrors, root.SilenceUsage = true, true
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	flags := root.PersistentFlags()
	flags.StringVarP(&a.output, "output", "o", "table", "table, json or yaml")
	a.settings.register(flags, a.env.Getenv)
	return root
}

// group is a command that only has others below it.
func (a *app) group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: func(c *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("%s has no command %q", c.CommandPath(), args[0])
		}
		return c.Help()
	}}
	c.AddCommand(below...)
	return c
}

// exactly wants n arguments and makes anything else a usage error.
func exactly(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%q takes %d arguments, got %d", c.CommandPath(), n, len(args))
		}
		return nil
	}
}

func (a *app) version() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: exactly(0), RunE: func(*cobra.Command, []string) error {
		_, err := fmt.Fprintln(a.env.Stdout, a.env.Version)
		return err
	}}
}
