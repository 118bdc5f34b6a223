package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"github.com/rateguard/rateguard/deploy/mockprovider"
)

func (a *app) mock() *cobra.Command {
	var addr, journal, pace, credential string
	var seed uint64
	cmd := a.command("mock", "Run the mock provider alone: OpenAI, Anthropic, Gemini and plain HTTP", 0, func(ctx context.Context, _ []string) (err error) {
		c := mockprovider.Config{Credential: credential, Seed: seed, Log: slog.New(slog.NewTextHandler(a.env.Stderr, nil))}
		if c.Pace, err = mockprovider.ParsePace(pace); err != nil {
			return &usageError{err}
		}
		if journal != "" {
			if c.Journal, err = mockprovider.OpenJournal(journal); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, c.Journal.Close()) }()
			c.Keep = -1
		}
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("listening: %w", err)
		}
		if _, err := fmt.Fprintf(a.env.Stdout, "mock provider on http://%s\n", l.Addr()); err != nil {
			return errors.Join(err, l.Close())
		}
		return mockprovider.New(c).Serve(ctx, l)
	})
	f := cmd.Flags()
	f.StringVar(&addr, "addr", "127.0.0.1:8090", "address to listen on")
	f.StringVar(&journal, "journal", "", "file that keeps what was served, over restarts")
	f.StringVar(&pace, "pace", "realistic", `"instant", "realistic" or such as "ttft=100ms,jitter=20ms,tps=50,chunk=2"`)
	f.StringVar(&credential, "credential", "", "the only credential that is taken (default: any)")
	f.Uint64Var(&seed, "seed", 0, "another seed gives other answers")
	return cmd
}
