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

// Graph returns the group: costs in, one SpendState a workspace out, and for each partition the Event of its latest Round.
func Graph() group.Graph {
	return group.Graph{
		Name:       topics.SpendGroup,
		Generation: 1,
		Input:      topics.Costs,
		Table:      topics.SpendTable,
		Fold:       foldBytes,
	}
}

// foldBytes is spend.Fold on encoded states, as the table holds them.
func foldBytes(state []byte, in group.Input) ([]byte, []fold.Note) {
	if hash.IsPartitionKey(in.Key) {
		return foldPartition(state, in.Event)
	}
	s, err := spend.Decode(state)
	if err != nil { // a value that the merge let through is ours: this cannot be
		return state, malformed(err)
	}
	notes := spend.Fold(s, in.Event).Notes
	next, err := spend.Encode(s)
	if err != nil {
		return state, append(notes, unwritable(err)...)
	}
	return next, notes
}

func foldPartition(state []byte, e *rateguardv1.Event) ([]byte, []fold.Note) {
	var held *rateguardv1.Event
	if len(state) > 0 {
		var err error
		if held, err = envelope.Decode(state); err != nil {
			return state, malformed(err)
		}
	}
	latest := spend.LaterRound(held, e)
	if latest == held {
		return state, nil
	}
	next, err := envelope.Encode(latest)
	if err != nil {
		return state, unwritable(err)
	}
	return next, nil
}

func malformed(err error) []fold.Note {
	return []fold.Note{{Kind: "state_malformed", Detail: err.Error()}}
}

func unwritable(err error) []fold.Note {
	return []fold.Note{{Kind: "state_unwritable", Detail: err.Error()}}
}
