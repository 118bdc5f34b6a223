package standalone

import (
	"context"
	"flag"
	"fmt"
	"log/slog"

	"github.com/rateguard/rateguard/processors"
	"github.com/rateguard/rateguard/projections"
	"github.com/rateguard/rateguard/projections/control"
	"github.com/rateguard/rateguard/proxy"
)

// Roles holds the settings that only one role has. What they share (brokers, URLs, addresses,
// secrets) is set from Config when the roles are made, whatever stands here.
type Roles struct {
	Proxy       proxy.Config
	Processors  processors.Config
	Projections projections.Config
	Control     control.Config
}

// instance is this process's name in the consumer groups. One process owns the data folder, so it
// keeps the name over restarts and takes its partitions back at once.
const instance = "standalone"

// defaultRoles returns every role's own defaults.
func defaultRoles() Roles {
	r := Roles{Proxy: proxy.DefaultConfig(), Processors: processors.DefaultConfig(), Projections: projections.DefaultConfig()}
	r.register(flag.NewFlagSet("defaults", flag.ContinueOnError))
	return r
}

// register adds the settings that no other role and not Config itself has added.
func (r *Roles) register(fs *flag.FlagSet) {
	for _, add := range []func(*flag.FlagSet){r.Proxy.Register, r.Processors.Register, r.Projections.Register, r.Control.Register} {
		own := flag.NewFlagSet("role", flag.ContinueOnError)
		add(own)
		own.VisitAll(func(f *flag.Flag) {
			if fs.Lookup(f.Name) == nil {
				fs.Var(f.Value, f.Name, f.Usage)
			}
		})
	}
}

// newRoles makes every role from the shared settings.
func (s *System) newRoles(ctx context.Context) ([]named, error) {
	var roles []named
	add := func(name string, stage int, r role, err error) error {
		if err != nil {
			return fmt.Errorf("starting the role %s: %w", name, err)
		}
		roles = append(roles, named{role: r, name: name, stage: stage})
		return nil
	}
	logOf := func(name string) *slog.Logger { return s.log.With(slog.String("role", name)) }

	c, r := s.cfg, s.cfg.Roles
	r.Control.Listener, r.Control.AdminToken, r.Control.SecretKey = c.Listeners.Admin, c.AdminToken, c.SecretKey
	r.Control.PostgresURL, r.Control.ClickHouseURL, r.Control.Kafka = c.PostgresURL, c.ClickHouseURL, c.Kafka
	r.Control.RedisURL = c.RedisURL
	admin, err := control.New(ctx, r.Control, logOf("control"), s.registry)
	if err := add("control", stageConsumers, admin, err); err != nil {
		return nil, err
	}
	r.Processors.Kafka = c.Kafka
	r.Processors.Instance = instance
	p, err := processors.New(ctx, r.Processors, logOf("processors"), s.registry)
	if err := add("processors", stageConsumers, p, err); err != nil {
		return nil, err
	}
	s.processors = p
	r.Projections.Kafka, r.Projections.PostgresURL, r.Projections.ClickHouseURL = c.Kafka, c.PostgresURL, c.ClickHouseURL
	r.Projections.Instance = instance
	views, err := projections.New(ctx, r.Projections, logOf("projections"), s.registry)
	if err := add("projections", stageConsumers, views, err); err != nil {
		return nil, err
	}
	r.Proxy.Listener, r.Proxy.DataDir, r.Proxy.SecretKey = c.Listeners.Proxy, c.DataDir, c.SecretKey
	r.Proxy.RedisURL, r.Proxy.Kafka = c.RedisURL, c.Kafka
	data, err := proxy.New(ctx, r.Proxy, logOf("proxy"), s.registry)
	if err := add("proxy", stageProxy, data, err); err != nil {
		return nil, err
	}
	s.proxy = data
	return roles, nil
}
