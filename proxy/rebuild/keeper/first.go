package keeper

import (
	"context"
	"fmt"
	"slices"

	"github.com/rateguard/rateguard/proxy/rebuild/keeper/plan"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// first installs the budgets of those workspaces whose log shows that they never were in Redis, and returns the others. Nothing was ever granted by
// those, so that no seal has to be waited for and no other workspace of the partition is disturbed by a round.
func (p *partition) first(ctx context.Context, workspaces []string) (rest []string, err error) {
	epoch := plan.Begin(p.latest())
	var mine []string
	for _, ws := range workspaces {
		if plan.Begun(p.reader.View(), ws) || !p.k.firstTime(ws) {
			rest = append(rest, ws)
			continue
		}
		err := p.append(topics.Costs, ws, &rateguardv1.Event{WorkspaceId: ws, Body: &rateguardv1.Event_BudgetsInstalled{
			BudgetsInstalled: &rateguardv1.BudgetsInstalled{Epoch: epoch},
		}})
		if err != nil {
			return nil, fmt.Errorf("beginning the budgets of %s: %w", ws, err)
		}
		mine = append(mine, ws)
	}
	if len(mine) == 0 {
		return rest, nil
	}
	if err := p.k.cfg.Spool.FlushOwn(ctx); err != nil {
		return nil, err
	}
	for !p.begun(mine) {
		if _, err := p.next(ctx, false); err != nil {
			return nil, err
		}
	}
	if err := p.k.cfg.Roster.Sync(ctx); err != nil { // for the fences
		return nil, err
	}
	if err := p.k.cfg.Policies.Sync(ctx); err != nil {
		return nil, fmt.Errorf("reading the policies: %w", err)
	}
	// Whoever came first installs; where that was another one, nobody knows whether it did.
	mine = slices.DeleteFunc(mine, func(ws string) bool {
		s := p.reader.View().Workspace(ws).State
		others := s.GetBudgetsInstalledBy() != p.k.cfg.Spool.ProducerID() || s.GetBudgetsEpoch() != epoch
		if others {
			rest = append(rest, ws)
		}
		return others
	})
	return rest, p.installAll(ctx, epoch, p.versions(mine))
}

// begun reports whether the log shows the beginning of all the workspaces.
func (p *partition) begun(workspaces []string) bool {
	return !slices.ContainsFunc(workspaces, func(ws string) bool {
		return !plan.Begun(p.reader.View(), ws)
	})
}
