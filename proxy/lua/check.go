package lua

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// checkTimeout bounds one look at one server; checkRetry is the pause after a failed one, checkEvery after a good
	// one: settings change while servers run.
	checkTimeout = 2 * time.Second
	checkRetry   = time.Second
	checkEvery   = time.Minute
	// oldestRedis is the first version that is tested.
	oldestRedis = "6.2"
)

// Watch looks after the server's settings until ctx ends: at start, again until they could be read, and then every
// minute. A Redis that evicts keys turns the store off for as long as it does.
func (s *Store) Watch(ctx context.Context) {
	warned := false
	for {
		findings, err := s.check(ctx)
		pause := checkEvery
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = checkRetry
		default:
			if !warned && len(findings.warnings) > 0 {
				s.cfg.Log.Warn("redis is not as it should be", slog.String("findings", strings.Join(findings.warnings, "; ")))
				warned = true
			}
			if was := s.evicting.Swap(findings.evicting); was != findings.evicting {
				s.changed("settings", findings.evicting, ReasonEvicting)
			}
			if findings.evicting {
				pause = checkRetry
			}
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
	}
}

// CheckServer returns ErrEvicting where a server throws keys away when it is full, and the error of a server that
// does not answer. It warns of what it cannot see and of versions that are not tested.
func (s *Store) CheckServer(ctx context.Context) error {
	f, err := s.check(ctx)
	if err != nil {
		return err
	}
	for _, w := range f.warnings {
		s.cfg.Log.Warn("redis is not as it should be", slog.String("findings", w))
	}
	s.evicting.Store(f.evicting)
	if f.evicting {
		return ErrEvicting
	}
	return nil
}

type findings struct {
	evicting bool
	warnings []string
}

// check looks at every primary.
func (s *Store) check(ctx context.Context) (findings, error) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var f findings
	if s.cluster == nil {
		err := inspect(ctx, s.one.client, s.one.name, &f)
		return f, err
	}
	var mu sync.Mutex
	err := s.cluster.client.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		mu.Lock()
		defer mu.Unlock()
		return inspect(ctx, c, c.Options().Addr, &f)
	})
	return f, err
}

// inspect reads one server's settings. CONFIG is forbidden on managed services, and INFO by some rules.
func inspect(ctx context.Context, c *redis.Client, name string, f *findings) error {
	if err := c.Ping(ctx).Err(); err != nil {
		return fmt.Errorf("looking at redis %s: %w", name, err)
	}
	seen := map[string]string{}
	for _, section := range []string{"server", "memory"} {
		for line := range strings.Lines(c.Info(ctx, section).Val()) {
			if k, v, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
				seen[k] = v
			}
		}
	}
	for _, k := range []string{"maxmemory", "maxmemory_policy"} {
		if seen[k] == "" {
			name := strings.ReplaceAll(k, "_", "-")
			seen[k] = c.ConfigGet(ctx, name).Val()[name]
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("looking at redis %s: %w", name, err)
	}
	policy, limit := seen["maxmemory_policy"], seen["maxmemory"]
	if policy == "" || limit == "" {
		f.warnings = append(f.warnings, name+": whether it evicts keys cannot be seen")
	}
	if policy != "" && policy != "noeviction" && limit != "" && limit != "0" {
		f.evicting = true
	}
	if v := seen["redis_version"]; v != "" && older(v, oldestRedis) {
		f.warnings = append(f.warnings, name+": version "+v+" is older than "+oldestRedis)
	}
	return nil
}

// older compares versions by their first two numbers.
func older(version, than string) bool {
	number := func(v string) int {
		major, rest, _ := strings.Cut(v, ".")
		minor, _, _ := strings.Cut(rest, ".")
		a, _ := strconv.Atoi(major)
		b, _ := strconv.Atoi(minor)
		return a*1000 + b
	}
	return number(version) < number(than)
}
