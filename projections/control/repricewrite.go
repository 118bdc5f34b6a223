package control

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// chunk looks at the next reservations of a run and puts the corrections into the outbox; done says that none is left.
func (p *repricer) chunk(ctx context.Context, c *change, r *reprice) (done bool, err error) {
	catalogue, err := r.catalogue()
	if err != nil {
		return false, err
	}
	rows, err := r.scope.next(ctx, c.tx, &r.cursor, repriceChunk)
	if err != nil {
		return false, err
	}
	if len(rows) == 0 {
		if _, err := c.tx.Exec(ctx, "UPDATE control.reprices SET computed = true WHERE id = $1", r.ID); err != nil {
			return false, fmt.Errorf("ending the computation of a reprice: %w", err)
		}
		return true, nil
	}
	before, err := readRepriceSums(ctx, c.tx, r.ID)
	if err != nil {
		return false, err
	}
	sequence := before.changed()
	found := repriceSums{}
	var out []outboxRow
	for i := range rows {
		row := &rows[i]
		to := row.change(catalogue)
		if err := found.add(row, to); err != nil {
			return false, err
		}
		if to == nil || !row.differs(*to) {
			continue
		}
		sequence[row.workspace]++
		event := &rateguardv1.Event{
			Id: r.ID + "/" + row.reservation, ProducerId: r.Producer, Sequence: uint64(sequence[row.workspace]), WorkspaceId: row.workspace, //nolint:gosec // counts from 1
			OccurredAtUnixUs: c.now.UnixMicro(), Body: &rateguardv1.Event_CostCorrected{CostCorrected: row.correction(*to, r.ID+": "+r.Reason)},
		}
		value, err := envelope.Encode(event)
		if err != nil {
			return false, err
		}
		out = append(out, outboxRow{topic: topics.Costs.Name, key: row.workspace, value: value})
	}
	if err := enqueueAll(ctx, c.tx, out); err != nil {
		return false, err
	}
	if err := addRepriceSums(ctx, c.tx, r.ID, found); err != nil {
		return false, err
	}
	const update = "UPDATE control.reprices SET cursor_workspace = $2, cursor_opened_at = $3, cursor_reservation = $4 WHERE id = $1"
	if _, err := c.tx.Exec(ctx, update, r.ID, r.cursor.workspace, r.cursor.openedAt, r.cursor.reservation); err != nil {
		return false, fmt.Errorf("moving the cursor of a reprice: %w", err)
	}
	return false, p.fail(RepriceWritten)
}

// enqueueAll puts many rows into the outbox, in their order.
func enqueueAll(ctx context.Context, tx pgx.Tx, rows []outboxRow) error {
	if len(rows) == 0 {
		return nil
	}
	source := pgx.CopyFromSlice(len(rows), func(i int) ([]any, error) { return []any{rows[i].topic, rows[i].key, rows[i].value}, nil })
	if _, err := tx.CopyFrom(ctx, pgx.Identifier{"control", "outbox"}, []string{"topic", "key", "value"}, source); err != nil {
		return fmt.Errorf("writing the outbox: %w", err)
	}
	if _, err := tx.Exec(ctx, "SELECT pg_notify($1, '')", outboxChannel); err != nil {
		return fmt.Errorf("waking the relay: %w", err)
	}
	return nil
}

// writeClosings puts the end of the run's producer into the outbox of each workspace that it wrote to. As of every closer, the records
// have no sequence: a second one is ignored.
func (p *repricer) writeClosings(ctx context.Context, c *change, r *reprice) error {
	sums, err := readRepriceSums(ctx, c.tx, r.ID)
	if err != nil {
		return err
	}
	changed := sums.changed()
	var out []outboxRow
	for _, ws := range slices.Sorted(maps.Keys(changed)) {
		if changed[ws] == 0 {
			continue
		}
		id, err := uuid.NewV7()
		if err != nil {
			return fmt.Errorf("making an event id: %w", err)
		}
		value, err := envelope.Encode(&rateguardv1.Event{
			Id: id.String(), ProducerId: p.server.producerID, WorkspaceId: ws, OccurredAtUnixUs: c.now.UnixMicro(),
			Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: r.Producer, Mark: uint64(changed[ws])}}, //nolint:gosec // counts from 1
		})
		if err != nil {
			return err
		}
		out = append(out, outboxRow{topic: topics.Costs.Name, key: ws, value: value})
	}
	if err := enqueueAll(ctx, c.tx, out); err != nil {
		return err
	}
	if _, err := c.tx.Exec(ctx, "UPDATE control.reprices SET closed = true WHERE id = $1", r.ID); err != nil {
		return fmt.Errorf("closing the producer of a reprice: %w", err)
	}
	return nil
}

// writeResult ends a run: its state, and an audit record of the root and of each workspace whose costs it corrected.
func (p *repricer) writeResult(ctx context.Context, id string) error {
	return p.server.rootChange(ctx, func(ctx context.Context, c *change) error {
		r, found, err := readReprice(ctx, c.tx, "id = $1 AND "+underWay+" FOR UPDATE", id)
		if err != nil || !found {
			return err
		}
		r.State, r.FinishedAt = repriceDone, &c.now
		if _, err := c.tx.Exec(ctx, "UPDATE control.reprices SET state = $2, finished_at = $3 WHERE id = $1", id, r.State, c.now); err != nil {
			return fmt.Errorf("ending a reprice: %w", err)
		}
		sums, err := readRepriceSums(ctx, c.tx, id)
		if err != nil {
			return err
		}
		view, err := newRepriceView(r, sums)
		if err != nil {
			return err
		}
		total := view
		total.Data = nil // there may be many lines, and a record of the log has a bound
		did := action{actor: r.Actor, name: "reprice.done", object: "reprice/" + id, after: total}
		if err := c.record(ctx, did); err != nil {
			return err
		}
		changed := sums.changed()
		for _, ws := range slices.Sorted(maps.Keys(changed)) {
			if changed[ws] == 0 {
				continue
			}
			if err := p.tell(ctx, c, ws, r, sums, did); err != nil {
				return err
			}
		}
		p.server.log.Info("costs were computed again", slog.String("reprice", id), slog.Int64("requests", view.Requests),
			slog.Int64("corrected", view.Changed), slog.String("difference_usd", view.Difference.String()))
		return p.fail(RepriceFinished)
	})
}

// tell writes what a run has done to a workspace into the workspace's own audit log. One that is forgotten has none.
func (p *repricer) tell(ctx context.Context, root *change, ws string, r reprice, all repriceSums, did action) error {
	var there bool
	if err := root.tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM control.workspaces WHERE id = $1)", ws).Scan(&there); err != nil {
		return fmt.Errorf("looking up a workspace: %w", err)
	}
	if !there {
		return nil
	}
	w, err := readWorkspace(ctx, root.tx, ws, "FOR UPDATE")
	if err != nil {
		return err
	}
	own := repriceSums{}
	for key, c := range all {
		if key.workspace == ws {
			own[key] = c
		}
	}
	view, err := newRepriceView(r, own)
	if err != nil {
		return err
	}
	view.Data = nil
	did.after = view
	c := &change{tx: root.tx, server: root.server, ws: w, now: root.now}
	return c.record(ctx, did)
}
