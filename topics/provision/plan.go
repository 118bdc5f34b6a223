package provision

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/rateguard/rateguard/topics"
)

// Action is what a plan does about one difference.
type Action string

// The actions.
const (
	// Create makes a missing topic.
	Create Action = "create"
	// Set changes one setting of an existing topic.
	Set Action = "set"
	// Conflict is a difference that is never repaired in place: the number of partitions decides
	// where every workspace's records stand, the number of replicas is moved with Kafka's own tools.
	Conflict Action = "conflict"
)

// Change is one difference between the table and the cluster.
type Change struct {
	Topic  string `json:"topic"`
	Action Action `json:"action"`
	// Field is "partitions", "replication" or the name of a topic setting; empty for Create.
	Field string `json:"field,omitempty"`
	Have  string `json:"have,omitempty"`
	Want  string `json:"want,omitempty"`
}

// String returns the change as one line.
func (c Change) String() string {
	if c.Action == Create {
		return fmt.Sprintf("%s %s: %s", c.Action, c.Topic, c.Want)
	}
	return fmt.Sprintf("%s %s: %s is %s, want %s", c.Action, c.Topic, c.Field, orUnset(c.Have), c.Want)
}

func orUnset(v string) string {
	if v == "" {
		return "unset"
	}
	return v
}

// Plan is every difference, in the order of the table and then by field.
type Plan struct {
	Settings Settings
	Changes  []Change
}

// ErrConflict means that the cluster differs in a way that Apply must not change.
var ErrConflict = errors.New("topic conflicts with the table")

// ErrDiffers means that the cluster is not as the table says.
var ErrDiffers = errors.New("topics differ from the table")

// Field names of changes that are no topic setting.
const (
	fieldTopic       = "topic"
	fieldPartitions  = "partitions"
	fieldReplication = "replication"
)

// NewPlan compares the cluster with the table under the settings. It changes nothing.
func NewPlan(ctx context.Context, client *kadm.Client, s Settings) (*Plan, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("planning topics: %w", err)
	}
	names := make([]string, 0, len(topics.All()))
	for _, t := range topics.All() {
		names = append(names, t.Name)
	}
	details, err := list(ctx, client, names)
	if err != nil {
		return nil, err
	}
	var there []string
	for _, name := range names {
		switch err := details[name].Err; {
		case err == nil && details.Has(name):
			there = append(there, name)
		case err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition):
			return nil, fmt.Errorf("describing topic %s: %w", name, err)
		}
	}
	configs, err := describe(ctx, client, there)
	if err != nil {
		return nil, err
	}
	p := &Plan{Settings: s}
	for _, t := range topics.All() {
		if !slices.Contains(there, t.Name) {
			p.Changes = append(p.Changes, Change{Topic: t.Name, Action: Create, Want: s.summary(t)})
			continue
		}
		p.Changes = append(p.Changes, s.compare(t, details[t.Name], configs[t.Name])...)
	}
	return p, nil
}

// list describes topics. Without asking for authorized operations kadm answers from the
// client's cache, which is up to 5 s old: a topic that was just made would be missing.
func list(ctx context.Context, client *kadm.Client, names []string) (kadm.TopicDetails, error) {
	details, err := client.ListTopics(kadm.WithAuthorizedOps(ctx), names...)
	if err != nil {
		return nil, fmt.Errorf("listing topics: %w", err)
	}
	return details, nil
}

// describe returns the settings of topics by name.
func describe(ctx context.Context, client *kadm.Client, names []string) (map[string]map[string]string, error) {
	out := make(map[string]map[string]string, len(names))
	if len(names) == 0 {
		return out, nil
	}
	answers, err := client.DescribeTopicConfigs(ctx, names...)
	if err != nil {
		return nil, fmt.Errorf("describing topic settings: %w", err)
	}
	for _, a := range answers {
		if a.Err != nil {
			return nil, fmt.Errorf("describing settings of topic %s: %w", a.Name, a.Err)
		}
		c := make(map[string]string, len(a.Configs))
		for _, v := range a.Configs {
			c[v.Key] = v.MaybeValue()
		}
		out[a.Name] = c
	}
	return out, nil
}

// compare returns the differences of an existing topic.
func (s Settings) compare(t topics.Topic, have kadm.TopicDetail, config map[string]string) []Change {
	var changes []Change
	if n := len(have.Partitions); n != s.partitionsOf(t) {
		changes = append(changes, Change{t.Name, Conflict, fieldPartitions, strconv.Itoa(n), strconv.Itoa(s.partitionsOf(t))})
	}
	if n := have.Partitions.NumReplicas(); n != s.Replication {
		changes = append(changes, Change{t.Name, Conflict, fieldReplication, strconv.Itoa(n), strconv.Itoa(s.Replication)})
	}
	want := s.configOf(t)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if config[name] != want[name] {
			changes = append(changes, Change{t.Name, Set, name, config[name], want[name]})
		}
	}
	return changes
}

// summary describes a topic to be made.
func (s Settings) summary(t topics.Topic) string {
	c := s.configOf(t)
	text := fmt.Sprintf("partitions=%d replication=%d", s.partitionsOf(t), s.Replication)
	for _, name := range slices.Sorted(maps.Keys(c)) {
		text += fmt.Sprintf(" %s=%s", name, c[name])
	}
	return text
}

// Empty reports whether the cluster is as the table says.
func (p *Plan) Empty() bool { return len(p.Changes) == 0 }

// Conflicts returns an error that wraps ErrConflict and names every topic and field that Apply must not change; nil without one.
func (p *Plan) Conflicts() error {
	return p.problems(ErrConflict, func(c Change) bool { return c.Action == Conflict })
}

// Verify returns an error that wraps ErrDiffers and names every topic and field that differs; nil without one.
func (p *Plan) Verify() error { return p.problems(ErrDiffers, func(Change) bool { return true }) }

func (p *Plan) problems(kind error, which func(Change) bool) error {
	var errs []error
	for _, c := range p.Changes {
		if !which(c) {
			continue
		}
		if c.Action == Create {
			c.Field = fieldTopic
			errs = append(errs, fmt.Errorf("%w: %s: %s is missing", kind, c.Topic, c.Field))
			continue
		}
		errs = append(errs, fmt.Errorf("%w: %s: %s is %s, want %s", kind, c.Topic, c.Field, orUnset(c.Have), c.Want))
	}
	return errors.Join(errs...)
}

// Verify compares the cluster with the table and returns an error that names every topic and field that differs.
func Verify(ctx context.Context, client *kadm.Client, s Settings) error {
	p, err := NewPlan(ctx, client, s)
	if err != nil {
		return err
	}
	return p.Verify()
}
