package provision

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/rateguard/rateguard/topics"
)

// How long Apply waits until every broker knows what it changed, and between two looks.
const (
	visibleWithin = 30 * time.Second
	lookAgain     = 50 * time.Millisecond
)

// Apply plans and applies in one step: what a start does that owns its cluster. Starting
// twice at once is safe.
func Apply(ctx context.Context, client *kadm.Client, s Settings) error {
	p, err := NewPlan(ctx, client, s)
	if err != nil {
		return err
	}
	return p.Apply(ctx, client)
}

// Apply makes the missing topics and sets the settings that differ, then waits until the
// cluster shows them. A plan with a conflict is refused whole, before anything is changed.
func (p *Plan) Apply(ctx context.Context, client *kadm.Client) error {
	if err := p.Conflicts(); err != nil {
		return fmt.Errorf("applying topics: %w", err)
	}
	if p.Empty() {
		return nil
	}
	sets := map[string][]kadm.AlterConfig{}
	for _, c := range p.Changes {
		if c.Action == Create {
			if err := p.create(ctx, client, c.Topic); err != nil {
				return err
			}
			continue
		}
		sets[c.Topic] = append(sets[c.Topic], kadm.AlterConfig{Op: kadm.SetConfig, Name: c.Field, Value: kadm.StringPtr(c.Want)})
	}
	for _, t := range topics.All() {
		if len(sets[t.Name]) == 0 {
			continue
		}
		answers, err := client.AlterTopicConfigs(ctx, sets[t.Name], t.Name)
		if err != nil {
			return fmt.Errorf("setting topic %s: %w", t.Name, err)
		}
		for _, a := range answers {
			if a.Err != nil {
				return fmt.Errorf("setting topic %s: %w: %s", a.Name, a.Err, a.ErrMessage)
			}
		}
	}
	return p.wait(ctx, client)
}

func (p *Plan) create(ctx context.Context, client *kadm.Client, name string) error {
	t, err := topics.ByName(name)
	if err != nil {
		return err
	}
	config := map[string]*string{}
	for k, v := range p.Settings.configOf(t) {
		config[k] = kadm.StringPtr(v)
	}
	partitions := int32(p.Settings.partitionsOf(t)) //nolint:gosec // at most maxPartitions
	replication := int16(p.Settings.Replication)    //nolint:gosec // at most 16
	answer, err := client.CreateTopic(ctx, partitions, replication, config, name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) { // another start made it; wait compares it
		return fmt.Errorf("creating topic %s: %w: %s", name, err, answer.ErrMessage)
	}
	return nil
}

// wait returns when the cluster shows what was applied: a broker answers a create before every other knows of it.
func (p *Plan) wait(ctx context.Context, client *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, visibleWithin)
	defer cancel()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		err := Verify(ctx, client, p.Settings)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for applied topics: %w", err)
		case <-look.C:
		}
	}
}

// Shards returns the number of partitions that all sharded topics of the cluster share. An
// error wraps ErrDiffers and names the topic that is missing or has another number.
func Shards(ctx context.Context, client *kadm.Client) (int32, error) {
	var names []string
	for _, t := range topics.All() {
		if t.Sharded {
			names = append(names, t.Name)
		}
	}
	details, err := list(ctx, client, names)
	if err != nil {
		return 0, err
	}
	var n int
	for _, name := range names {
		d, ok := details[name]
		if !ok || d.Err != nil {
			return 0, fmt.Errorf("%w: %s: %s is missing", ErrDiffers, name, fieldTopic)
		}
		if n == 0 {
			n = len(d.Partitions)
		}
		if len(d.Partitions) != n {
			return 0, fmt.Errorf("%w: %s: %s is %d, %s has %d", ErrDiffers, name, fieldPartitions, len(d.Partitions), names[0], n)
		}
	}
	return int32(n), nil
}
