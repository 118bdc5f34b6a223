package cli

import (
	"context"
	"flag"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/provision"
)

func (a *app) topics() *cobra.Command {
	doc := a.command("doc", "Print the table of topics as Markdown", 0, func(context.Context, []string) error { return provision.Doc(a.env.Stdout) })
	return a.group("topics", "Plan, make and check the Kafka topics", doc,
		a.onCluster("plan", "Show what differs from the table; changes nothing", func(ctx context.Context, c *kadm.Client, s provision.Settings, asJSON bool) error {
			p, err := provision.NewPlan(ctx, c, s)
			if err != nil {
				return err
			}
			if asJSON {
				return p.WriteJSON(a.env.Stdout)
			}
			return p.WriteText(a.env.Stdout)
		}),
		a.onCluster("apply", "Make the topics that are missing and set what differs", func(ctx context.Context, c *kadm.Client, s provision.Settings, _ bool) error {
			p, err := provision.NewPlan(ctx, c, s)
			if err != nil {
				return err
			}
			if err := p.WriteText(a.env.Stdout); err != nil {
				return err
			}
			return p.Apply(ctx, c)
		}),
		a.onCluster("verify", "Fail when the topics are not as the table says", func(ctx context.Context, c *kadm.Client, s provision.Settings, _ bool) error {
			if err := provision.Verify(ctx, c, s); err != nil {
				return err
			}
			_, err := fmt.Fprintln(a.env.Stdout, "topics are as the table says")
			return err
		}),
	)
}

// onCluster is a command that talks to the brokers.
func (a *app) onCluster(use, short string, run func(context.Context, *kadm.Client, provision.Settings, bool) error) *cobra.Command {
	var kafka broker.Config
	s := provision.Production()
	var asJSON bool
	return a.configured(configured{
		use: use, short: short,
		register: func(fs *flag.FlagSet) {
			kafka.Register(fs)
			s.Register(fs)
			fs.BoolVar(&asJSON, "json", false, "print JSON where there is a document")
		},
		validate: kafka.Validate,
		run: func(ctx context.Context) error {
			options, err := kafka.Options()
			if err != nil {
				return err
			}
			client, err := kgo.NewClient(options...)
			if err != nil {
				return fmt.Errorf("connecting to Kafka: %w", err)
			}
			defer client.Close()
			return run(ctx, kadm.NewClient(client), s, asJSON)
		},
	})
}
