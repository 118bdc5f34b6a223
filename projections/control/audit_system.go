package control

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// systemChain stands for a workspace in the audit log where a change belongs to none; no id of a workspace is like it.
const systemChain = "system"

// systemLock is the advisory lock of that chain's end; "rgsystem" in ASCII.
const systemLock int64 = 0x72_67_73_79_73_74_65_6d

// recordOfSystem appends the action to the chain of what belongs to no workspace. Its end is its last row: there is no workspace to hold it.
func (c *change) recordOfSystem(ctx context.Context, a action) error {
	if _, err := c.tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", systemLock); err != nil {
		return fmt.Errorf("locking the end of the audit chain: %w", err)
	}
	end := chainEnd{hash: []byte{}}
	const last = "SELECT number, hash FROM control.actions WHERE workspace_id = $1 ORDER BY number DESC LIMIT 1"
	err := c.tx.QueryRow(ctx, last, systemChain).Scan(&end.count, &end.hash)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("reading the end of the audit chain: %w", err)
	}
	_, err = c.chain(ctx, a, end)
	return err
}
