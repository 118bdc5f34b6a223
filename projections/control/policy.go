package control

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// contents are the things of a workspace that its policy holds, each kind in the order of ids.
type contents struct {
	routes  []route
	limits  []rateLimit
	budgets []costBudget
}

// readPolicy builds the published document of a workspace from what the querier sees.
func readPolicy(ctx context.Context, q querier, w workspace) (*rateguardv1.WorkspacePolicy, error) {
	var c contents
	var err error
	if c.routes, err = routes.of(ctx, q, w.ID); err != nil {
		return nil, err
	}
	if c.limits, err = limits.of(ctx, q, w.ID); err != nil {
		return nil, err
	}
	if c.budgets, err = budgets.of(ctx, q, w.ID); err != nil {
		return nil, err
	}
	return newPolicy(w, c)
}

// readAllContents returns what every workspace has, by a few queries for all of them. q sees one snapshot.
func readAllContents(ctx context.Context, q querier) (func(ws string) contents, error) {
	r, err := routes.all(ctx, q)
	if err != nil {
		return nil, err
	}
	l, err := limits.all(ctx, q)
	if err != nil {
		return nil, err
	}
	b, err := budgets.all(ctx, q)
	if err != nil {
		return nil, err
	}
	return func(ws string) contents { return contents{routes: r[ws], limits: l[ws], budgets: b[ws]} }, nil
}

// newPolicy makes the document of a workspace. It depends on what is stored alone and not on the time: the reconciler compares what
// it makes with what was published under the same version.
func newPolicy(w workspace, c contents) (*rateguardv1.WorkspacePolicy, error) {
	p := &rateguardv1.WorkspacePolicy{
		WorkspaceId: w.ID, Name: w.Name, Version: uint64(w.PolicyVersion), Deleted: w.DeletedAt != nil, //nolint:gosec // versions count from 1
	}
	if p.GetDeleted() {
		return p, nil // nothing is routed any more, and credentials need not stay in the log
	}
	for _, r := range c.routes {
		p.Routes = append(p.Routes, r.document())
	}
	for _, l := range c.limits {
		p.Limits = append(p.Limits, l.document())
	}
	for _, b := range c.budgets {
		d, err := b.document(w.PeriodsFrom)
		if err != nil {
			return nil, fmt.Errorf("making the policy of %s: %w", w.ID, err)
		}
		p.Budgets = append(p.Budgets, d)
	}
	p.Settings = w.Settings.document()
	return p, nil
}

// readAllPolicies builds the documents of all workspaces, deleted ones too, from one snapshot.
func (s *Server) readAllPolicies(ctx context.Context) ([]*rateguardv1.WorkspacePolicy, error) {
	var all []*rateguardv1.WorkspacePolicy
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+workspaceColumns+" FROM control.workspaces")
		if err != nil {
			return err
		}
		workspaces, err := pgx.CollectRows(rows, scanWorkspace)
		if err != nil {
			return err
		}
		of, err := readAllContents(ctx, tx)
		if err != nil {
			return err
		}
		for _, w := range workspaces {
			p, err := newPolicy(w, of(w.ID))
			if err != nil {
				return err
			}
			all = append(all, p)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading all policies: %w", err)
	}
	return all, nil
}
