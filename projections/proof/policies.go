package proof

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/budget"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// policyAt returns the policy of a workspace that had been published at an instant, and when it was; nil where the history shows none.
// Of several the largest version counts, as it does for proxies.
func (l *Log) policyAt(ctx context.Context, workspace string, partition int32, at time.Time) (*rateguardv1.WorkspacePolicy, time.Time, error) {
	var policy *rateguardv1.WorkspacePolicy
	var published time.Time
	_, err := l.read(ctx, topics.PolicyHistory, partition, func(rec *kgo.Record) {
		if string(rec.Key) != workspace {
			return
		}
		e, err := envelope.Decode(rec.Value)
		if err != nil || e.GetWorkspacePolicy() == nil {
			return
		}
		p, when := e.GetWorkspacePolicy(), instant(e.GetOccurredAtUnixUs())
		if !when.After(at) && (policy == nil || p.GetVersion() > policy.GetVersion()) {
			policy, published = p, when
		}
	})
	return policy, published, err
}

// find returns a budget of a policy; nil where it has none of that id.
func find(p *rateguardv1.WorkspacePolicy, id string) *rateguardv1.Budget {
	for _, b := range p.GetBudgets() {
		if b.GetId() == id {
			return b
		}
	}
	return nil
}

// periodAt returns the bounds of the period of a budget that holds an instant; zero for a budget without periods. What the policy says counts,
// and only where it says nothing of that time the calendar does.
func periodAt(b *rateguardv1.Budget, at time.Time) (start, end time.Time, err error) {
	if b.GetPeriod() == budget.Total {
		return time.Time{}, time.Time{}, nil
	}
	bounds := b.GetBoundariesUnixUs()
	for i := 1; i < len(bounds); i++ {
		if us := at.UnixMicro(); bounds[i-1] <= us && us < bounds[i] {
			return instant(bounds[i-1]), instant(bounds[i]), nil
		}
	}
	zone, err := budget.Zone(b.GetTimezone())
	if err != nil {
		return start, end, err
	}
	if both := budget.Boundaries(b.GetPeriod(), zone, at, 2); len(both) == 2 {
		return both[0].UTC(), both[1].UTC(), nil
	}
	return start, end, nil
}
