package control

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/topics"
)

// forgetAfter is how long the rows of a deleted workspace stay. The history topics keep their records as long: until
// then a late record could bring back what a tombstone has removed.
const forgetAfter = 400 * 24 * time.Hour

// forget deletes the rows of workspaces that were deleted long ago and writes the tombstones.
func (r *relay) forget(ctx context.Context) error {
	return r.server.transact(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT id FROM control.workspaces WHERE deleted_at < $1 ORDER BY id LIMIT 10 FOR UPDATE", r.server.now().Add(-forgetAfter))
		if err != nil {
			return fmt.Errorf("looking for deleted workspaces: %w", err)
		}
		gone, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("looking for deleted workspaces: %w", err)
		}
		for _, ws := range gone {
			if err := forgetWorkspace(ctx, tx, ws); err != nil {
				return err
			}
		}
		return nil
	})
}

func forgetWorkspace(ctx context.Context, tx pgx.Tx, ws string) error {
	rows, err := tx.Query(ctx, "DELETE FROM control.keys WHERE workspace_id = $1 RETURNING id", ws)
	if err != nil {
		return fmt.Errorf("deleting keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("deleting keys: %w", err)
	}
	for _, id := range keys {
		if err := enqueue(ctx, tx, outboxRow{topic: topics.Keys.Name, key: id}); err != nil {
			return err
		}
	}
	for _, table := range []string{routes.table(), limits.table(), budgets.table()} {
		if _, err := tx.Exec(ctx, "DELETE FROM "+table+" WHERE workspace_id = $1", ws); err != nil {
			return fmt.Errorf("deleting from %s: %w", table, err)
		}
	}
	if _, err := tx.Exec(ctx, "DELETE FROM control.workspaces WHERE id = $1", ws); err != nil {
		return fmt.Errorf("deleting a workspace: %w", err)
	}
	return enqueue(ctx, tx, outboxRow{topic: topics.Policies.Name, key: ws})
}
