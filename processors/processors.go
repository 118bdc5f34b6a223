// Package processors is the role that folds the log into state: every processor group of
// RateGuard, listed in Groups.
package processors

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/processors/spend"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	state "github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

// Groups returns every group of this role.
func Groups() []group.Graph { return []group.Graph{spend.Graph()} }

// Config holds the settings of the role.
type Config struct {
	Kafka broker.Config
	// Instance is the stable name of this process in its groups; empty: a new member each start.
	Instance string
	// Session is how long a silent process keeps its partitions.
	Session time.Duration
}

// DefaultConfig returns the settings of a process on a host of its own.
func DefaultConfig() Config {
	host, err := os.Hostname()
	if err != nil {
		host = "" // no static membership
	}
	return Config{Instance: host, Session: 6 * time.Second}
}

// Register adds the settings to a flag set.
func (c *Config) Register(fs *flag.FlagSet) {
	c.Kafka.Register(fs)
	fs.StringVar(&c.Instance, "processors-instance", c.Instance, "stable name of this process in its groups, different for each; empty: a new member at each start")
	fs.DurationVar(&c.Session, "processors-session", c.Session, "how long a silent process keeps its partitions; brokers refuse less than their group.min.session.timeout.ms")
}

// Validate returns every problem of the settings, joined.
func (c Config) Validate() error {
	errs := []error{c.Kafka.Validate()}
	if c.Session < time.Second || c.Session > 5*time.Minute {
		errs = append(errs, fmt.Errorf("processors-session: %s is not between 1s and 5m", c.Session))
	}
	return errors.Join(errs...)
}

// Server runs the groups.
type Server struct {
	runners map[string]*gokakit.Runner
}

// New returns a server; nothing is connected before Run.
func New(_ context.Context, c Config, log *slog.Logger, reg prometheus.Registerer) (*Server, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("processors: %w", err)
	}
	s := &Server{runners: map[string]*gokakit.Runner{}}
	for _, g := range Groups() {
		r, err := gokakit.New(g, gokakit.Settings{Kafka: c.Kafka, Instance: c.Instance, Session: c.Session}, log, reg)
		if err != nil {
			return nil, fmt.Errorf("processors: %w", err)
		}
		s.runners[g.Name] = r
	}
	return s, nil
}

// Run runs every group until ctx ends and all have left, then returns nil.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, r := range s.runners {
		g.Go(func() error { return r.Run(ctx) })
	}
	return g.Wait()
}

// Ready returns nil when every group has joined and has read its table.
func (s *Server) Ready() error {
	var errs []error
	for _, r := range s.runners {
		errs = append(errs, r.Ready())
	}
	return errors.Join(errs...)
}

// Spend returns what a workspace has spent, as far as this process has read it. An error
// that wraps gokakit.ErrNotReady means: ask again.
func (s *Server) Spend(ctx context.Context, workspace string) (*rateguardv1.SpendState, error) {
	encoded, err := s.runners[topics.SpendGroup].State(ctx, workspace)
	if err != nil {
		return nil, err
	}
	return state.Decode(encoded)
}
