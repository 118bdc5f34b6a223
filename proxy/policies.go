package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/topics"
)

// policies gives the steps what the topics have not brought yet: a newer policy and revocations, from where control writes them first.
type policies struct {
	view  *policy.View
	store *lua.Store
}

// Refresh returns the newest policy of the workspace, nil where that is no newer than the version. A request may be behind what is in force here by now.
func (p *policies) Refresh(ctx context.Context, workspace string, version uint64) (*call.Workspace, error) {
	if now := p.view.Workspace(workspace); now != nil && now.Version > version {
		return now, nil
	}
	document, err := p.store.Policy(ctx, workspace)
	if err != nil {
		return nil, fmt.Errorf("refreshing the policy: %w", err)
	}
	if len(document) > 0 {
		if err := p.view.ApplyAhead(topics.Policies.Name, workspace, document); err != nil {
			return nil, fmt.Errorf("refreshing the policy: %w", err)
		}
	}
	now := p.view.Workspace(workspace)
	if now == nil || now.Version <= version {
		return nil, nil
	}
	return now, nil
}

// Revoke makes the key revoked for every request from now on.
func (p *policies) Revoke(key string) { p.view.Revoke(key) }

// budgeted is the configuration as the keeper of budgets needs it.
type budgeted struct {
	*policy.View
	*policy.Follower
}

// pollRevocations is how often the set of revoked keys is read: revocation does not wait for Kafka.
const pollRevocations = time.Second

// followRevocations reads the set of revoked keys until ctx ends.
func (s *Server) followRevocations(ctx context.Context) error {
	tick := time.NewTicker(pollRevocations)
	defer tick.Stop()
	var since int64
	failing := false
	for {
		keys, latest, err := s.store.Revoked(ctx, since)
		if err != nil && !failing && ctx.Err() == nil {
			s.log.Warn("revoked keys cannot be read from Redis; Kafka still brings them", slog.Any("error", err))
		}
		failing = err != nil
		for _, k := range keys {
			s.view.Revoke(k)
		}
		since = max(since, latest)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
