package gokakit_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/lovoo/goka"

	"github.com/rateguard/rateguard/processors/gokakit"
)

// rebalancing is a group that rebalances twice and then stays.
type rebalancing struct {
	sarama.ConsumerGroup
	errs chan error

	mu       sync.Mutex // guards sessions
	sessions []time.Time
	stays    chan struct{}
}

func (r *rebalancing) Consume(ctx context.Context, _ []string, _ sarama.ConsumerGroupHandler) error {
	r.mu.Lock()
	r.sessions = append(r.sessions, time.Now())
	n := len(r.sessions)
	r.mu.Unlock()
	if n < 3 {
		return nil
	}
	close(r.stays)
	<-ctx.Done()
	return nil
}

func (r *rebalancing) Errors() <-chan error { return r.errs }
func (r *rebalancing) Close() error         { close(r.errs); return nil }

// T7 and T14: after every rebalance goka sleeps for 5 s without a heartbeat, which is past a
// shorter session: the group then never settles.
func TestARebalanceIsNoPause(t *testing.T) {
	for name, test := range map[string]struct {
		wrap     func(sarama.ConsumerGroup) sarama.ConsumerGroup
		from, to time.Duration
	}{
		"plain goka sleeps": {func(g sarama.ConsumerGroup) sarama.ConsumerGroup { return g }, 9 * time.Second, patience},
		"the kit does not":  {func(g sarama.ConsumerGroup) sarama.ConsumerGroup { return gokakit.NewConsumerGroup(g, quiet) }, 0, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fake := &rebalancing{errs: make(chan error), stays: make(chan struct{})}
			_, _, stop := runPlain(t, trapCluster(t), counter(func(goka.Context, int64) {}),
				goka.WithConsumerGroupBuilder(func([]string, string, string) (sarama.ConsumerGroup, error) { return test.wrap(fake), nil }))
			<-fake.stays
			if took := fake.sessions[2].Sub(fake.sessions[0]); took < test.from || took > test.to {
				t.Errorf("two rebalances took %s, want between %s and %s", took, test.from, test.to)
			}
			stop()
		})
	}
}
