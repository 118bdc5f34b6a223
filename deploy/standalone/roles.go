package standalone

import (
	"context"
	"flag"
	"fmt"
	"log/slog"

	"github.com/rateguard/rateguard/processors"
)

// Roles holds the settings that only one role has. What they share (brokers, URLs, addresses,
// secrets) is set from Config when the roles are made, whatever stands here.
type Roles struct {
	Processors processors.Config
}

// defaultRoles returns every role's own defaults.
func defaultRoles() Roles {
	r := Roles{Processors: processors.DefaultConfig()}
	r.register(flag.NewFlagSet("defaults", flag.ContinueOnError))
	return r
}

// register adds the settings that no other role and not Config itself has added.
func (r *Roles) register(fs *flag.FlagSet) {
	for _, add := range []func(*flag.FlagSet){r.Processors.Register} {
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

	r := s.cfg.Roles
	r.Processors.Kafka = s.cfg.Kafka
	// One process owns the data folder, so its member of the groups may keep one name over restarts.
	r.Processors.Instance = "standalone"
	p, err := processors.New(ctx, r.Processors, logOf("processors"), s.registry)
	if err := add("processors", stageConsumers, p, err); err != nil {
		return nil, err
	}
	s.processors = p
	return roles, nil
}
