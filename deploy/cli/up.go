package cli

import (
	"context"
	"flag"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/standalone"
)

// up runs everything in this process.
func (a *app) up() *cobra.Command {
	c := standalone.Default()
	c.Providers = standalone.ProvidersFromEnv()
	var level slog.Level
	return a.configured(configured{
		use: "up", short: "Run everything in one process, on embedded stores where no URL is set", strict: true, off: []string{"mock-addr"},
		register: func(fs *flag.FlagSet) {
			c.Register(fs)
			fs.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
		},
		validate: func() error { return c.Validate() },
		run: func(ctx context.Context) error {
			log := slog.New(slog.NewTextHandler(a.env.Stderr, &slog.HandlerOptions{Level: level}))
			return standalone.Up(ctx, c, log, a.env.Stdout)
		},
	})
}
