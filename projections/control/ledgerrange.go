package control

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ledgerRange says which reservations are looked at.
type ledgerRange struct {
	from, to time.Time
	// Empty: all. The model may end with *.
	workspace, provider, model string
}

// ledgerCursor is the last reservation that was looked at.
type ledgerCursor struct {
	workspace   string
	openedAt    time.Time
	reservation string
}

// next returns up to limit reservations behind a cursor, by workspace, time of opening and id, and moves the cursor. No rows: there are none left.
func (g ledgerRange) next(ctx context.Context, q querier, at *ledgerCursor, limit int) ([]ledgerRow, error) {
	for {
		if at.workspace != "" {
			rows, err := g.read(ctx, q, *at, limit)
			if err != nil {
				return nil, err
			}
			if n := len(rows); n > 0 {
				at.openedAt, at.reservation = rows[n-1].openedAt, rows[n-1].reservation
				return rows, nil
			}
		}
		next, err := g.workspaceAfter(ctx, q, at.workspace)
		if err != nil || next == "" {
			return nil, err
		}
		*at = ledgerCursor{workspace: next, openedAt: time.Unix(0, 0).UTC()}
	}
}

// workspaceAfter returns the next workspace to look at; empty: there is none.
func (g ledgerRange) workspaceAfter(ctx context.Context, q querier, last string) (next string, err error) {
	switch {
	case g.workspace == "":
	case last == "":
		return g.workspace, nil
	default:
		return "", nil
	}
	err = q.QueryRow(ctx, "SELECT workspace FROM ledger WHERE workspace > $1 ORDER BY workspace LIMIT 1", last).Scan(&next)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("looking for the next workspace in the ledger: %w", err)
	}
	return next, nil
}

func (g ledgerRange) read(ctx context.Context, q querier, at ledgerCursor, limit int) ([]ledgerRow, error) {
	const query = `
SELECT workspace, reservation_id, request_id, revision, attempt, key_id, route, model, endpoint, provider, kind, price_version, policy_version,
       cost_nano, bound_nano, estimated, opened_at, usage, holds
  FROM ledger l
 WHERE workspace = $1 AND opened_at >= $2 AND opened_at < $3 AND (opened_at, reservation_id) > ($4, $5)
   AND ($6 = '' OR provider = $6) AND ($7 = '' OR lower(model) LIKE $7)
   AND NOT EXISTS (SELECT FROM ledger n WHERE n.workspace = l.workspace AND n.reservation_id = l.reservation_id AND n.revision > l.revision)
 ORDER BY opened_at, reservation_id LIMIT $8`
	found, err := q.Query(ctx, query, at.workspace, g.from, g.to, at.openedAt, at.reservation, g.provider, likePattern(g.model), limit)
	if err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	rows, err := pgx.CollectRows(found, scanLedgerRow)
	if err != nil {
		return nil, fmt.Errorf("reading the ledger: %w", err)
	}
	return rows, nil
}

// likePattern turns a name that may end with * into a pattern of LIKE.
func likePattern(name string) string {
	prefix, open := strings.CutSuffix(strings.ToLower(name), "*")
	pattern := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(prefix)
	if open {
		pattern += "%"
	}
	return pattern
}
