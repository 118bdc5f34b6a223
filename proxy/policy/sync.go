package policy

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/topics"
)

// progress is how far the policies are read, for those who wait for it.
type progress struct {
	// mu guards next and changed.
	mu   sync.Mutex
	next map[int32]int64
	// changed is closed and replaced whenever next changes.
	changed chan struct{}
}

// set notes the offsets that are read next.
func (p *progress) set(next map[int32]int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if maps.Equal(next, p.next) {
		return
	}
	p.next = maps.Clone(next)
	if p.changed != nil {
		close(p.changed)
	}
	p.changed = make(chan struct{})
}

// reached reports whether everything before the ends is read; changed is closed when that may be otherwise.
func (p *progress) reached(ends kadm.ListedOffsets) (yes bool, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	yes = true
	ends.Each(func(o kadm.ListedOffset) { yes = yes && p.next[o.Partition] >= o.Offset })
	return yes, p.changed
}

// Sync returns once the policies that stood in their topic at the call are in the view. Run has to run.
func (f *Follower) Sync(ctx context.Context) error {
	opts, err := f.kafka.Options()
	if err != nil {
		return fmt.Errorf("reading Kafka settings: %w", err)
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return fmt.Errorf("making Kafka client: %w", err)
	}
	defer client.Close()
	lctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ends, err := kadm.NewClient(client).ListEndOffsets(lctx, topics.Policies.Name)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("listing the ends of the policies topic: %w", err)
	}
	for {
		reached, changed := f.progress.reached(ends)
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-time.After(quiet):
			return nil // the last records were compacted away, as in settle
		case <-ctx.Done():
			return fmt.Errorf("waiting for the policies: %w", context.Cause(ctx))
		}
	}
}

// Budgets calls f for each workspace that has budgets, with the version of its policy.
func (v *View) Budgets(f func(workspace string, version uint64)) {
	v.workspaces.Range(func(_, w any) bool {
		if w := w.(*call.Workspace); !w.Deleted && len(w.Document.GetBudgets()) > 0 { //nolint:forcetypeassert,errcheck // the map holds nothing else
			f(w.ID, w.Version)
		}
		return true
	})
}
