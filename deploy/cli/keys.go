package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/adminclient"
)

var keyColumns = []column[adminclient.Key]{
	{"id", func(k adminclient.Key) string { return k.ID }},
	{"name", func(k adminclient.Key) string { return k.Name }},
	{"prefix", func(k adminclient.Key) string { return k.Prefix }},
	{"scopes", func(k adminclient.Key) string { return list(k.Scopes) }},
	{"expires", func(k adminclient.Key) string { return stampAt(k.ExpiresAt) }},
	{"revoked", func(k adminclient.Key) string { return stampAt(k.RevokedAt) }},
	{"created", func(k adminclient.Key) string { return stamp(k.CreatedAt) }},
}

// newKeyColumns show the secret, once.
var newKeyColumns = append([]column[adminclient.Key]{{"key", func(k adminclient.Key) string { return k.Secret }}}, keyColumns...)

func (a *app) keys() *cobra.Command {
	return a.group("keys", "Manage the API keys of a workspace",
		a.command("list", "List the keys", 0, func(ctx context.Context, _ []string) error {
			c, ws, err := a.in(ctx)
			if err != nil {
				return err
			}
			all, err := c.Keys(ctx, ws)
			if err != nil {
				return err
			}
			return many(a, all, keyColumns)
		}),
		a.command("get KEY-ID", "Show a key, never its secret", 1, func(ctx context.Context, args []string) error {
			return a.oneKey(ctx, keyColumns, func(c *adminclient.Client, ws string) (adminclient.Key, error) { return c.Key(ctx, ws, args[0]) })
		}),
		a.createKey(), a.rotateKey(),
		a.command("revoke KEY-ID", "End a key at once", 1, func(ctx context.Context, args []string) error {
			return a.oneKey(ctx, keyColumns, func(c *adminclient.Client, ws string) (adminclient.Key, error) {
				return c.RevokeKey(ctx, ws, args[0])
			})
		}),
	)
}

func (a *app) oneKey(ctx context.Context, columns []column[adminclient.Key], do func(*adminclient.Client, string) (adminclient.Key, error)) error {
	c, ws, err := a.in(ctx)
	if err != nil {
		return err
	}
	k, err := do(c, ws)
	if err != nil {
		return err
	}
	return one(a, k, columns)
}

func (a *app) createKey() *cobra.Command {
	var k adminclient.NewKey
	var expiresIn time.Duration
	cmd := a.command("create NAME", "Make a key; its secret is shown only now", 1, func(ctx context.Context, args []string) error {
		k.Name = args[0]
		if expiresIn < 0 {
			return usagef("--expires-in %s is in the past", expiresIn)
		}
		if expiresIn > 0 {
			at := time.Now().Add(expiresIn).UTC().Truncate(time.Second)
			k.ExpiresAt = &at
		}
		return a.oneKey(ctx, newKeyColumns, func(c *adminclient.Client, ws string) (adminclient.Key, error) { return c.CreateKey(ctx, ws, k) })
	})
	f := cmd.Flags()
	f.StringSliceVar(&k.Scopes, "scopes", nil, "what the key may do, such as invoke,read:usage (default invoke)")
	f.StringSliceVar(&k.Routes, "routes", nil, "routes that it may call (default all)")
	f.StringSliceVar(&k.Models, "models", nil, "models that it may call, with * (default all)")
	f.StringToStringVar(&k.Metadata, "metadata", nil, "name=value pairs that are kept with it")
	f.DurationVar(&expiresIn, "expires-in", 0, "how long it lives (default for ever)")
	return cmd
}

func (a *app) rotateKey() *cobra.Command {
	var grace time.Duration
	cmd := a.command("rotate KEY-ID", "Replace a key; the old one lives on for a while", 1, func(ctx context.Context, args []string) error {
		return a.oneKey(ctx, newKeyColumns, func(c *adminclient.Client, ws string) (adminclient.Key, error) {
			return c.RotateKey(ctx, ws, args[0], grace.String())
		})
	})
	cmd.Flags().DurationVar(&grace, "grace", 24*time.Hour, "how long the old key lives on")
	return cmd
}
