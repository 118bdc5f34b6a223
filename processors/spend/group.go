// Package spend folds the costs topic into what each workspace has spent and holds: in all,
// by month and by budget period. It is separate so that the arithmetic of money is one
// pure function, tested without a broker.
package spend

import (
	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/topics"
)

// Graph returns the group: costs in, one SpendState a workspace out.
func Graph() group.Graph {
	return group.Graph{
		Name:       topics.SpendGroup,
		Generation: 1,
		Input:      topics.Costs,
		Table:      topics.SpendTable,
		Fold:       foldBytes,
	}
}
