// Command rateguard-topics plans, makes, checks and documents the topics of a cluster.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/peterbourgon/ff/v3"
	"github.com/peterbourgon/ff/v3/ffyaml"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/provision"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

const usage = `usage: rateguard-topics plan|apply|verify|doc [flags]

plan    print what differs between the cluster and the table of topics
apply   make missing topics and set settings that differ; never changes partitions or replicas
verify  exit 1 and name every topic and field that differs
doc     print the table of topics as Markdown; needs no cluster
`

var errUsage = errors.New("usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		os.Exit(exitOK)
	case errors.Is(err, errUsage):
		os.Exit(exitUsage)
	default:
		fmt.Fprintln(os.Stderr, "rateguard-topics:", err)
		os.Exit(exitFailed)
	}
}

// config is everything that the command can be told.
type config struct {
	Kafka  broker.Config
	Topics provision.Settings
	Output string
	check  bool
}

func (c config) validate() error {
	errs := []error{c.Kafka.Validate(), c.Topics.Validate()}
	if c.Output != "text" && c.Output != "json" {
		errs = append(errs, fmt.Errorf("o: %q is neither text nor json", c.Output))
	}
	return errors.Join(errs...)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		_, _ = fmt.Fprint(stderr, usage)
		return errUsage
	}
	verb, args := args[0], args[1:]
	c := config{Topics: provision.Production(), Output: "text"}
	fs := flag.NewFlagSet("rateguard-topics "+verb, flag.ContinueOnError)
	fs.SetOutput(stderr)
	c.Kafka.Register(fs)
	c.Topics.Register(fs)
	fs.StringVar(&c.Output, "o", c.Output, "text or json")
	fs.BoolVar(&c.check, "check-config", false, "print every problem of the settings and exit")
	fs.String("config", "", "YAML file of settings")
	err := ff.Parse(fs, args, ff.WithEnvVarPrefix("RATEGUARD"), ff.WithConfigFileFlag("config"),
		ff.WithConfigFileParser(ffyaml.Parser), ff.WithIgnoreUndefined(true))
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		return errUsage // the flag set has said what is wrong
	case verb == "doc":
		return provision.Doc(stdout)
	case verb != "plan" && verb != "apply" && verb != "verify":
		_, _ = fmt.Fprint(stderr, usage)
		return errUsage
	}
	if err := c.validate(); err != nil || c.check {
		return err
	}
	opts, err := c.Kafka.Options()
	if err != nil {
		return err
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("connecting to Kafka: %w", err)
	}
	defer client.Close()
	return do(ctx, verb, kadm.NewClient(client), c, stdout)
}

// do runs one verb that needs a cluster.
func do(ctx context.Context, verb string, client *kadm.Client, c config, stdout io.Writer) error {
	p, err := provision.NewPlan(ctx, client, c.Topics)
	if err != nil {
		return err
	}
	write := p.WriteText
	if c.Output == "json" {
		write = p.WriteJSON
	}
	if err := write(stdout); err != nil {
		return fmt.Errorf("writing the plan: %w", err)
	}
	switch verb {
	case "apply":
		return p.Apply(ctx, client)
	case "verify":
		return p.Verify()
	default:
		return nil
	}
}
