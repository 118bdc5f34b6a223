package rebuild

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/closing"
	"github.com/rateguard/rateguard/topics/hash"
)

// Budgets are those of all workspaces in Redis.
type Budgets struct {
	Balances *lua.Balances
	Wants    *lua.Wants
	Policies Policies
}

// Policies say which workspaces have budgets, to closers and to the keeper; *policy.View with its follower is one.
type Policies interface {
	// Budgets calls f for each workspace that has budgets, with the version of its policy.
	Budgets(f func(workspace string, version uint64))
	// Sync returns once the policies that stood in their topic at the call are known.
	Sync(ctx context.Context) error
}

const (
	// usableFor is how long one closing of a predecessor waits for budgets that are not in Redis, usableEvery how often it looks.
	usableFor   = 10 * time.Second
	usableEvery = 50 * time.Millisecond
)

// held is what Redis shows of a producer.
type held struct {
	// entries by workspace and reservation.
	entries map[string]map[string]lua.Entry
	// from are the offsets, by partition of the costs topic, before which no end of an entry stands: Redis forgets them as it is shown their ends.
	from map[int32]int64
}

// held fences the producer in every workspace that has budgets, after which nothing is granted to it, and returns what it has reserved there. The budgets
// have to be usable: one that Redis has lost could have held what no log shows, and comes back only with the seals of all. That is waited for with patience.
func (r *Rebuilder) held(ctx context.Context, producer string, patience time.Duration) (*held, error) {
	b, out := r.cfg.Budgets, &held{entries: make(map[string]map[string]lua.Entry), from: make(map[int32]int64)}
	if b == nil {
		return out, nil
	}
	select {
	case <-r.cfg.Spool.Announced(): // from then on the number of partitions is known
	case <-ctx.Done():
		return nil, fmt.Errorf("closing producer %s: %w", producer, context.Cause(ctx))
	}
	if err := b.Policies.Sync(ctx); err != nil {
		return nil, fmt.Errorf("closing producer %s: %w", producer, err)
	}
	var workspaces []string
	b.Policies.Budgets(func(ws string, _ uint64) { workspaces = append(workspaces, ws) })
	if err := r.usable(ctx, workspaces, patience); err != nil {
		return nil, fmt.Errorf("closing producer %s: %w", producer, err)
	}
	places, err := b.Balances.Places(ctx, workspaces) // before the entries: their ends stand behind these
	if err != nil {
		return nil, fmt.Errorf("closing producer %s: %w", producer, err)
	}
	for i, ws := range workspaces {
		entries, err := b.Balances.Retire(ctx, lua.Retirement{Workspace: ws, Producer: producer, Least: r.least(ws)})
		if err != nil {
			return nil, err
		}
		if len(entries) == 0 {
			continue
		}
		out.entries[ws] = make(map[string]lua.Entry, len(entries))
		for _, e := range entries {
			out.entries[ws][e.ID] = e
		}
		p := hash.Partition([]byte(ws), int32(r.cfg.Spool.CostsPartitions())) //nolint:gosec // a number of partitions
		if from, known := out.from[p]; !known || places[i].At+1 < from {
			out.from[p] = places[i].At + 1
		}
	}
	return out, nil
}

// usable returns nil once Redis has budgets of all the workspaces that proxies may use. It asks for those that are missing, and looks at least once.
func (r *Rebuilder) usable(ctx context.Context, workspaces []string, patience time.Duration) error {
	until := time.Now().Add(patience)
	for left := workspaces; len(left) > 0; {
		places, err := r.cfg.Budgets.Balances.Places(ctx, left)
		if err != nil {
			return err
		}
		all := left
		left = slices.DeleteFunc(slices.Clone(all), func(ws string) bool { return places[slices.Index(all, ws)].Epoch >= r.least(ws) })
		if len(left) == 0 {
			return nil
		}
		if err := r.cfg.Budgets.Wants.Want(ctx, left); err != nil {
			return err
		}
		if time.Now().After(until) || !sleep(ctx, usableEvery) {
			return fmt.Errorf("budgets of %d workspaces, %s first, are not in Redis", len(left), left[0])
		}
	}
	return nil
}

// least returns the least epoch of a workspace that proxies may use.
func (r *Rebuilder) least(workspace string) uint64 {
	p := hash.Partition([]byte(workspace), int32(r.cfg.Spool.CostsPartitions())) //nolint:gosec // a number of partitions
	return max(1, r.roster.Rounds()[p])
}

// release frees what stands nowhere but in Redis of a producer all of whose openings are in the log.
func (r *Rebuilder) release(ctx context.Context, producer string, s *closing.State) error {
	for ws, ids := range s.Unopened() {
		_, err := r.cfg.Budgets.Balances.Retire(ctx, lua.Retirement{Workspace: ws, Producer: producer, Least: r.least(ws), Release: ids})
		if err != nil {
			return err
		}
	}
	return nil
}
