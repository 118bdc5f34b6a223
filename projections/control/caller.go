package control

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
)

// caller is who makes a call: the root, or a key of one workspace.
type caller struct {
	root      bool
	workspace string
	keyID     string
	rights    rights
}

// actor returns the caller's name in the audit log.
func (c caller) actor() string {
	if c.root {
		return "admin"
	}
	return c.keyID
}

// identify returns the caller of a request, or a 401.
func (s *Server) identify(r *http.Request) (caller, error) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return caller{}, problem.New(http.StatusUnauthorized, problem.InvalidAPIKey, "Authorization: Bearer with the admin token or a workspace key is required")
	}
	sum := sha256.Sum256([]byte(token))
	// Sums are compared, so that neither the time nor the length tells anything of the token.
	if subtle.ConstantTimeCompare(sum[:], s.adminSum[:]) == 1 {
		return caller{root: true}, nil
	}
	if !strings.HasPrefix(token, keyPrefix) {
		return caller{}, problem.New(http.StatusUnauthorized, problem.InvalidAPIKey, "unknown credential")
	}
	return s.identifyKey(r.Context(), sum[:])
}

func (s *Server) identifyKey(ctx context.Context, sum []byte) (caller, error) {
	const query = `
SELECT k.id, k.workspace_id, k.scopes, k.routes, k.models, k.expires_at, k.revoked_at
  FROM control.keys k JOIN control.workspaces w ON w.id = k.workspace_id
 WHERE k.sha256 = $1 AND w.deleted_at IS NULL`
	var c caller
	var expires, revoked *time.Time
	err := s.pool.QueryRow(ctx, query, sum).Scan(&c.keyID, &c.workspace, &c.rights.scopes, &c.rights.routes, &c.rights.models, &expires, &revoked)
	now := s.now()
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return caller{}, problem.New(http.StatusUnauthorized, problem.InvalidAPIKey, "unknown credential")
	case err != nil:
		return caller{}, storeError("looking up a key", err)
	case revoked != nil && !revoked.After(now):
		return caller{}, problem.New(http.StatusUnauthorized, problem.APIKeyRevoked, "the key was revoked")
	case expires != nil && !expires.After(now):
		return caller{}, problem.New(http.StatusUnauthorized, problem.APIKeyExpired, "the key has expired")
	}
	return c, nil
}

// admit checks that the caller may use the endpoint at all. Another tenant's workspace is not there, whatever
// scopes the caller has and whatever stands in the body.
func (s *Server) admit(ctx context.Context, c *call, e endpoint) error {
	if ws := c.workspace(); ws != "" {
		if !c.caller.root && c.caller.workspace != ws {
			return problem.Missing("workspace", ws)
		}
		if c.caller.root {
			if err := s.requireWorkspace(ctx, ws); err != nil {
				return err
			}
		}
	}
	if c.caller.root {
		return nil
	}
	switch e.scope {
	case rootOnly:
		return problem.New(http.StatusForbidden, problem.InsufficientScope, "only the admin token may do this")
	case anyScope:
		for _, scope := range c.caller.rights.scopes {
			if scope != invoke {
				return nil
			}
		}
		return problem.New(http.StatusForbidden, problem.InsufficientScope, "the key has no scope for the admin API")
	}
	if !holds(c.caller.rights.scopes, e.scope) {
		return problem.New(http.StatusForbidden, problem.InsufficientScope, "the key lacks the scope %s", e.scope)
	}
	return nil
}

func (s *Server) requireWorkspace(ctx context.Context, id string) error {
	var there bool
	err := s.pool.QueryRow(ctx, "SELECT EXISTS (SELECT FROM control.workspaces WHERE id = $1 AND deleted_at IS NULL)", id).Scan(&there)
	if err != nil {
		return storeError("looking up a workspace", err)
	}
	if !there {
		return problem.Missing("workspace", id)
	}
	return nil
}
