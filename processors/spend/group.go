// Package spend is the processor group that keeps the states of schemas/spend in a table.
package spend

import (
	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// Graph returns the group: costs in, one SpendState a workspace out, and for each partition the Event of its latest Round; what
// budgets have come to goes to the alerts.
func Graph() group.Graph {
	return group.Graph{
		Name:       topics.SpendGroup,
		Generation: 1,
		Input:      topics.Costs,
		Table:      topics.SpendTable,
		Outputs:    []topics.Topic{topics.Alerts},
		Loop:       topics.SpendLoop,
		Fold:       foldBytes,
	}
}

// foldBytes is spend.Fold on encoded states, as the table holds them.
func foldBytes(state []byte, in group.Input) group.Result {
	if hash.IsPartitionKey(in.Key) {
		return foldPartition(state, in.Event)
	}
	s, err := spend.Decode(state)
	if err != nil { // a value that the merge let through is ours: this cannot be
		return unchanged(state, "state_malformed", err)
	}
	did := spend.Fold(s, in.Event)
	next, err := spend.Encode(s)
	if err != nil {
		return unchanged(state, "state_unwritable", err)
	}
	out := group.Result{State: next, Notes: did.Notes}
	for _, a := range did.Alerts {
		out.Outputs = append(out.Outputs, group.Output{Topic: topics.Alerts, Event: newAlert(in, a)})
	}
	return out
}

func foldPartition(state []byte, e *rateguardv1.Event) group.Result {
	var held *rateguardv1.Event
	if len(state) > 0 {
		var err error
		if held, err = envelope.Decode(state); err != nil {
			return unchanged(state, "state_malformed", err)
		}
	}
	latest := spend.LaterRound(held, e)
	if latest == held {
		return group.Result{State: state}
	}
	next, err := envelope.Encode(latest)
	if err != nil {
		return unchanged(state, "state_unwritable", err)
	}
	return group.Result{State: next}
}

func unchanged(state []byte, kind string, err error) group.Result {
	return group.Result{State: state, Notes: []fold.Note{{Kind: kind, Detail: err.Error()}}}
}
