package control

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/control/mirror"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// toRedis hands what proxies must know at once to the mirror, without waiting for it. The rows are committed.
func (s *Server) toRedis(rows []outboxRow) {
	if s.mirror == nil {
		return
	}
	var c mirror.Contents
	for _, row := range rows {
		if row.value == nil || row.topic != topics.Policies.Name && row.topic != topics.Keys.Name {
			continue
		}
		event, err := envelope.Decode(row.value)
		if err != nil {
			continue // a consumer's dead letter
		}
		if p := event.GetWorkspacePolicy(); p != nil {
			c.Policies = append(c.Policies, mirror.Policy{Workspace: p.GetWorkspaceId(), Version: p.GetVersion(), Document: row.value})
		}
		if k := event.GetKeyRecord(); k.GetRevokedAtUnixUs() != 0 {
			c.Revoked = append(c.Revoked, mirror.Revoked{Workspace: k.GetWorkspaceId(), Key: k.GetKeyId()})
		}
	}
	s.mirror.Add(c)
}

// mirrored returns all policies and all revoked keys that have not expired as well.
func (s *Server) mirrored(ctx context.Context) (mirror.Contents, error) {
	var c mirror.Contents
	policies, err := s.readAllPolicies(ctx)
	if err != nil {
		return c, err
	}
	for _, p := range policies {
		id, err := uuid.NewV7()
		if err != nil {
			return c, fmt.Errorf("making an event id: %w", err)
		}
		value, err := envelope.Encode(&rateguardv1.Event{
			Id: id.String(), ProducerId: s.producerID, WorkspaceId: p.GetWorkspaceId(), OccurredAtUnixUs: s.now().UnixMicro(),
			Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: p},
		})
		if err != nil {
			return c, err
		}
		c.Policies = append(c.Policies, mirror.Policy{Workspace: p.GetWorkspaceId(), Version: p.GetVersion(), Document: value})
	}
	const query = "SELECT workspace_id, id FROM control.keys WHERE revoked_at IS NOT NULL AND (expires_at IS NULL OR expires_at > $1)"
	rows, err := s.pool.Query(ctx, query, s.now())
	if err != nil {
		return c, fmt.Errorf("reading the revoked keys: %w", err)
	}
	if c.Revoked, err = pgx.CollectRows(rows, pgx.RowToStructByPos[mirror.Revoked]); err != nil {
		return c, fmt.Errorf("reading the revoked keys: %w", err)
	}
	return c, nil
}
