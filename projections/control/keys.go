package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

const (
	keyPrefix = "rg_"
	// keyBytes of randomness become 32 characters of base64url.
	keyBytes = 24
	// shownPrefix is how many characters of a key are kept in clear, for people to tell keys apart.
	shownPrefix = len(keyPrefix) + 6
)

// Bounds of what a key can hold.
const (
	maxAllowed       = 200
	maxModelPattern  = 200
	maxMetadata      = 32
	maxMetadataKey   = 64
	maxMetadataValue = 512
	maxGrace         = 90 * 24 * time.Hour
)

// key is an API key without its secret.
type key struct {
	ID          string            `json:"id"`
	WorkspaceID string            `json:"workspace_id"`
	Name        string            `json:"name"`
	Prefix      string            `json:"prefix"`
	Scopes      []string          `json:"scopes"`
	Routes      []string          `json:"routes"`
	Models      []string          `json:"models"`
	Metadata    map[string]string `json:"metadata"`
	ExpiresAt   *time.Time        `json:"expires_at"`
	RevokedAt   *time.Time        `json:"revoked_at"`
	CreatedAt   time.Time         `json:"created_at"`
	Version     int64             `json:"version"`

	sum []byte
}

// createdKey is the one answer that shows the secret.
type createdKey struct {
	Key string `json:"key"`
	key
}

func (k key) rights() rights { return rights{scopes: k.Scopes, routes: k.Routes, models: k.Models} }

// record returns what the proxies need to know of the key.
func (k key) record() *rateguardv1.KeyRecord {
	r := &rateguardv1.KeyRecord{
		KeyId: k.ID, WorkspaceId: k.WorkspaceID, Name: k.Name, Sha256: k.sum, Prefix: k.Prefix,
		Scopes: k.Scopes, Routes: k.Routes, Models: k.Models, CreatedAtUnixUs: k.CreatedAt.UnixMicro(),
		Version: uint64(k.Version), Metadata: k.Metadata, //nolint:gosec // versions count from 1
	}
	if k.ExpiresAt != nil {
		r.ExpiresAtUnixUs = k.ExpiresAt.UnixMicro()
	}
	if k.RevokedAt != nil {
		r.RevokedAtUnixUs = k.RevokedAt.UnixMicro()
	}
	return r
}

// newID returns a prefix and 32 hex digits that grow with time, so that lists by id are lists by age.
func newID(prefix string) (string, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return "", fmt.Errorf("making an id: %w", err)
	}
	return prefix + hex.EncodeToString(id[:]), nil
}

// newSecret gives k an id and a fresh secret, which it returns.
func (k *key) newSecret() (string, error) {
	id, err := newID("key_")
	if err != nil {
		return "", err
	}
	var b [keyBytes]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	secret := keyPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(secret))
	k.ID, k.sum, k.Prefix = id, sum[:], secret[:shownPrefix]
	return secret, nil
}

const keyColumns = "id, workspace_id, name, sha256, prefix, scopes, routes, models, metadata, expires_at, revoked_at, created_at, version"

func scanKey(row pgx.CollectableRow) (key, error) {
	var k key
	err := row.Scan(&k.ID, &k.WorkspaceID, &k.Name, &k.sum, &k.Prefix, &k.Scopes, &k.Routes, &k.Models, &k.Metadata,
		&k.ExpiresAt, &k.RevokedAt, &k.CreatedAt, &k.Version)
	k.CreatedAt, k.ExpiresAt, k.RevokedAt = k.CreatedAt.UTC(), inUTC(k.ExpiresAt), inUTC(k.RevokedAt)
	return k, err
}

func inUTC(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// readKey returns a key of a workspace, or a 404. lock is "" or "FOR UPDATE".
func readKey(ctx context.Context, q querier, ws, id, lock string) (key, error) {
	rows, err := q.Query(ctx, "SELECT "+keyColumns+" FROM control.keys WHERE workspace_id = $1 AND id = $2 "+lock, ws, id)
	if err != nil {
		return key{}, storeError("reading a key", err)
	}
	k, err := pgx.CollectExactlyOneRow(rows, scanKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return key{}, problem.Missing("key", id)
	}
	if err != nil {
		return key{}, storeError("reading a key", err)
	}
	return k, nil
}

func (c *change) insertKey(ctx context.Context, k key) error {
	const insert = "INSERT INTO control.keys (" + keyColumns + ") VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)"
	_, err := c.tx.Exec(ctx, insert, k.ID, k.WorkspaceID, k.Name, k.sum, k.Prefix, k.Scopes, k.Routes, k.Models, k.Metadata,
		k.ExpiresAt, k.RevokedAt, k.CreatedAt, k.Version)
	if err != nil {
		return fmt.Errorf("inserting a key: %w", err)
	}
	return c.publishKey(ctx, k)
}

// updateKey writes all that can change, with the next version.
func (c *change) updateKey(ctx context.Context, k *key) error {
	k.Version++
	const update = `UPDATE control.keys SET name = $2, scopes = $3, routes = $4, models = $5, metadata = $6,
 expires_at = $7, revoked_at = $8, version = $9 WHERE id = $1`
	_, err := c.tx.Exec(ctx, update, k.ID, k.Name, k.Scopes, k.Routes, k.Models, k.Metadata, k.ExpiresAt, k.RevokedAt, k.Version)
	if err != nil {
		return fmt.Errorf("updating a key: %w", err)
	}
	return c.publishKey(ctx, *k)
}

// revokeAll revokes every key of the workspace.
func (c *change) revokeAll(ctx context.Context) error {
	rows, err := c.tx.Query(ctx, "SELECT "+keyColumns+" FROM control.keys WHERE workspace_id = $1 AND revoked_at IS NULL ORDER BY id", c.ws.ID)
	if err != nil {
		return fmt.Errorf("reading the keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return fmt.Errorf("reading the keys: %w", err)
	}
	for _, k := range keys {
		k.RevokedAt = &c.now
		if err := c.updateKey(ctx, &k); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) listKeys(ctx context.Context, c *call) (answer, error) {
	p, err := readPage(c.http.URL.Query())
	if err != nil {
		return answer{}, err
	}
	const query = "SELECT " + keyColumns + " FROM control.keys WHERE workspace_id = $1 AND id > $2 ORDER BY id LIMIT $3"
	rows, err := s.pool.Query(ctx, query, c.workspace(), p.after, p.limit+1)
	if err != nil {
		return answer{}, storeError("listing keys", err)
	}
	found, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return answer{}, storeError("listing keys", err)
	}
	return answer{status: http.StatusOK, body: newList(found, p, func(k key) string { return k.ID })}, nil
}

func (s *Server) getKey(ctx context.Context, c *call) (answer, error) {
	k, err := readKey(ctx, s.pool, c.workspace(), c.vars["key"], "")
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: k, version: k.Version}, nil
}

// refuseMore is a 403 where the caller would grant more than it has.
func refuseMore(who caller, want rights) error {
	if who.root {
		return nil
	}
	if lacking := who.rights.lacks(want); lacking != "" {
		return problem.New(http.StatusForbidden, problem.InsufficientScope, "a key cannot grant what it lacks: %s", lacking)
	}
	return nil
}
