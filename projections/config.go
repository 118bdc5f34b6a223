package projections

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/rateguard/rateguard/projections/runner"
	"github.com/rateguard/rateguard/topics/broker"
)

// Config is the settings of the role.
type Config struct {
	// Kafka is where the log is.
	Kafka broker.Config
	// PostgresURL is where ledger, balances and all checkpoints are: "postgres://…".
	PostgresURL string
	// ClickHouseURL is where the requests are: "http://user:password@host:port/database" or "clickhouse://…".
	ClickHouseURL string
	// Instance is the name of this process among the role's others, the same after a restart. Two processes must not share one.
	Instance string
	// Linger is how long a batch waits for more records; default 150 ms.
	Linger time.Duration
	// MaxBatch bounds the records of a batch; default 20000.
	MaxBatch int
	// AcceptLogLoss goes on when a topic was made again or lost its tail, instead of stopping.
	AcceptLogLoss bool
	// Fail, when set, is called after each step of each projection; an error ends the session as a crash would. For tests.
	Fail func(projection string, step runner.Step) error
}

// DefaultConfig returns the settings that have a default.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil {
		host = "" // a dynamic group member
	}
	return Config{Instance: host, Linger: runner.DefaultLinger, MaxBatch: runner.DefaultMaxBatch}
}

// Register adds the settings to a flag set.
func (c *Config) Register(fs *flag.FlagSet) {
	c.Kafka.Register(fs)
	fs.StringVar(&c.PostgresURL, "postgres-url", c.PostgresURL, "PostgreSQL, postgres://…")
	fs.StringVar(&c.ClickHouseURL, "clickhouse-url", c.ClickHouseURL, "ClickHouse, http://user:password@host:port/database or clickhouse://…")
	fs.StringVar(&c.Instance, "projections-instance", c.Instance,
		"name of this process among its peers, the same after a restart and shared with none; empty: partitions wait for a crashed process' session to end")
	fs.DurationVar(&c.Linger, "projections-linger", c.Linger, "how long a batch waits for more records")
	fs.IntVar(&c.MaxBatch, "projections-max-batch", c.MaxBatch, "records in a batch at most")
	fs.BoolVar(&c.AcceptLogLoss, "projections-accept-log-loss", c.AcceptLogLoss,
		"go on when a topic was made again or lost its tail: the rows stay, the new log is added to them")
}

// Validate returns every problem of the settings, joined.
func (c *Config) Validate() error {
	errs := []error{c.Kafka.Validate()}
	errs = append(errs, validURL("postgres-url", c.PostgresURL, "postgres", "postgresql"))
	errs = append(errs, validURL("clickhouse-url", c.ClickHouseURL, "http", "https", "clickhouse"))
	if c.Linger < 0 || c.Linger > 10*time.Second {
		errs = append(errs, fmt.Errorf("projections-linger: %s is not between 0 and 10s", c.Linger))
	}
	if c.MaxBatch < 0 || c.MaxBatch > 1_000_000 {
		errs = append(errs, fmt.Errorf("projections-max-batch: %d is not between 0 and 1000000", c.MaxBatch))
	}
	return errors.Join(errs...)
}

// validURL checks a URL without showing it: it holds a password.
func validURL(name, value string, schemes ...string) error {
	if value == "" {
		return fmt.Errorf("%s: required", name)
	}
	u, err := url.Parse(value)
	if err != nil {
		return fmt.Errorf("%s: not a URL", name)
	}
	for _, s := range schemes {
		if u.Scheme == s {
			return nil
		}
	}
	return fmt.Errorf("%s: scheme %q is none of %q", name, u.Scheme, schemes)
}
