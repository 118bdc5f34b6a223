package control

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// action is one change for the audit log. before and after are the API's own views: they hold no secrets.
type action struct {
	actor, name, object string
	before, after       any
}

// record appends the action to the workspace's hash chain and to the outbox.
func (c *change) record(ctx context.Context, a action) error {
	var end chainEnd
	err := c.tx.QueryRow(ctx, "SELECT action_count, action_hash FROM control.workspaces WHERE id = $1", c.ws.ID).Scan(&end.count, &end.hash)
	if err != nil {
		return fmt.Errorf("reading the end of the audit chain: %w", err)
	}
	if end, err = c.chain(ctx, a, end); err != nil {
		return err
	}
	const update = "UPDATE control.workspaces SET action_count = $2, action_hash = $3 WHERE id = $1"
	if _, err := c.tx.Exec(ctx, update, c.ws.ID, end.count, end.hash); err != nil {
		return fmt.Errorf("writing the end of the audit chain: %w", err)
	}
	return nil
}

// chainEnd is the number and the hash of the last action of a chain.
type chainEnd struct {
	count int64
	hash  []byte
}

// chain appends the action behind the end of a chain and returns the new end.
func (c *change) chain(ctx context.Context, a action, end chainEnd) (chainEnd, error) {
	before, err := auditJSON(a.before)
	if err != nil {
		return end, err
	}
	after, err := auditJSON(a.after)
	if err != nil {
		return end, err
	}
	entry := &rateguardv1.ControlAction{
		Actor: a.actor, Action: a.name, Object: a.object, BeforeJson: before, AfterJson: after, PreviousHash: end.hash,
	}
	entry.Hash = ActionHash(c.ws.ID, c.now.UnixMicro(), entry)
	const insert = `
INSERT INTO control.actions (workspace_id, number, at, actor, action, object, before_json, after_json, previous_hash, hash)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	if _, err := c.tx.Exec(ctx, insert, c.ws.ID, end.count+1, c.now, a.actor, a.name, a.object, before, after, end.hash, entry.Hash); err != nil {
		return end, fmt.Errorf("writing the audit log: %w", err)
	}
	err = c.publish(ctx, topics.Audit, c.ws.ID, &rateguardv1.Event{Body: &rateguardv1.Event_ControlAction{ControlAction: entry}})
	return chainEnd{end.count + 1, entry.Hash}, err
}

func auditJSON(v any) ([]byte, error) {
	if v == nil {
		return []byte{}, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding an audit record: %w", err)
	}
	return b, nil
}

// ActionHash returns the hash of an audit record: SHA-256 over the previous hash, the workspace, the time of its event in µs
// and the fields of the action, each with its length in front, so that no byte can move from one field to the next.
func ActionHash(workspace string, occurredAtUnixUs int64, a *rateguardv1.ControlAction) []byte {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	field(a.GetPreviousHash())
	field([]byte(workspace))
	field(binary.BigEndian.AppendUint64(nil, uint64(occurredAtUnixUs))) //nolint:gosec // the bits are hashed, not the number
	field([]byte(a.GetActor()))
	field([]byte(a.GetAction()))
	field([]byte(a.GetObject()))
	field(a.GetBeforeJson())
	field(a.GetAfterJson())
	return h.Sum(nil)
}
