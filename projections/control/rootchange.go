package control

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// rootID stands in the audit log where others have a workspace: for what is done to no single one. No workspace is called so.
const rootID = "root"

// rootChange runs do in a transaction that changes what belongs to no workspace. It holds the lock of the root's audit chain, which
// puts the outbox rows of all such changes in their order.
func (s *Server) rootChange(ctx context.Context, do func(context.Context, *change) error) error {
	return s.transact(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT FROM control.root_chain WHERE id = $1 FOR UPDATE", rootID); err != nil {
			return fmt.Errorf("locking the root's changes: %w", err)
		}
		return do(ctx, &change{tx: tx, server: s, ws: workspace{ID: rootID}, now: s.now()})
	})
}

// chain is the table with the end of the change's audit chain.
func (c *change) chain() string {
	if c.ws.ID == rootID {
		return "control.root_chain"
	}
	return "control.workspaces"
}
