// Package group describes a processor group as data: what it reads, where its state is kept
// and the pure function between them. It is separate from gokakit so that a fold imports
// neither the runtime nor a network.
package group

import (
	"errors"
	"fmt"
	"slices"

	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// Graph is one group.
type Graph struct {
	// Name is the consumer group; the runtime derives the table's topic from it.
	Name string
	// Generation stands in every value. A replay has a higher one and another name.
	Generation uint32
	// Input is the one topic whose records are counted. One only: with two, the states of two
	// writers cannot be ordered, and the merge that keeps a zombie out needs an order.
	Input topics.Topic
	// Clocks are topics that only tell the time; they never move the applied offset.
	Clocks []topics.Topic
	Table  topics.Topic
	// Outputs are the topics to which the fold sends events. They go by the outbox, and Loop is where the group hears that they
	// are published; a group without outputs has none.
	Outputs []topics.Topic
	Loop    topics.Topic
	// Fold returns the state after an event. It is pure: equal arguments give equal bytes.
	Fold Fold
}

// Fold is the pure function of a group.
type Fold func(state []byte, in Input) Result

// Result is what an input made of a state.
type Result struct {
	State   []byte
	Outputs []Output
	Notes   []fold.Note
}

// Output is an event for another topic, under the key of the input. Its id is given to it by whoever runs the group.
type Output struct {
	Topic topics.Topic
	Event *rateguardv1.Event
}

// Emits reports whether the group may send events to a topic.
func (g Graph) Emits(t topics.Topic) bool {
	return slices.ContainsFunc(g.Outputs, func(o topics.Topic) bool { return o.Name == t.Name })
}

// Input is one event for a fold.
type Input struct {
	// Key of the record, a workspace or a partition key.
	Key   string
	Event *rateguardv1.Event
}

// Validate returns every problem of the graph, joined.
func (g Graph) Validate() error {
	var errs []error
	if g.Name == "" || g.Generation == 0 || g.Fold == nil {
		errs = append(errs, fmt.Errorf("group %q: name, generation and fold are required", g.Name))
	}
	if g.Table.Name != g.Name+"-table" {
		errs = append(errs, fmt.Errorf("group %q: the table has to be called %s-table, not %q", g.Name, g.Name, g.Table.Name))
	}
	sharded := slices.Concat([]topics.Topic{g.Input, g.Table}, g.Clocks, g.Outputs)
	if len(g.Outputs) > 0 {
		sharded = append(sharded, g.Loop)
		if g.Loop.Name != g.Name+"-loop" {
			errs = append(errs, fmt.Errorf("group %q: the loop has to be called %s-loop, not %q", g.Name, g.Name, g.Loop.Name))
		}
	}
	for _, t := range sharded {
		if !t.Sharded {
			errs = append(errs, fmt.Errorf("group %q: topic %s is not sharded like the others", g.Name, t.Name))
		}
	}
	return errors.Join(errs...)
}
