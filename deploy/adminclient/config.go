package adminclient

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Workspace is a tenant.
type Workspace struct {
	ID        string            `json:"id"`
	Name      string            `json:"name"`
	Settings  WorkspaceSettings `json:"settings"`
	Version   int64             `json:"version,omitempty"`
	CreatedAt time.Time         `json:"created_at"`
}

// WorkspaceSettings hold for all calls of a workspace. DefaultMaxOutputTokens nil is no maximum.
type WorkspaceSettings struct {
	BudgetExceededStatus   int    `json:"budget_exceeded_status"`
	UnknownOutcome         string `json:"unknown_outcome"`
	DefaultMaxOutputTokens *int64 `json:"default_max_output_tokens"`
	FitMaxOutputTokens     bool   `json:"fit_max_output_tokens"`
}

// Key is an API key. Secret is set only in the answer that made it.
type Key struct {
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Secret    string          `json:"key,omitempty"`
	Prefix    string          `json:"prefix"`
	Scopes    []string        `json:"scopes"`
	Routes    []string        `json:"routes,omitempty"`
	Models    []string        `json:"models,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
	ExpiresAt *time.Time      `json:"expires_at,omitempty"`
	RevokedAt *time.Time      `json:"revoked_at,omitempty"`
	CreatedAt time.Time       `json:"created_at"`
	Version   int64           `json:"version,omitempty"`
}

// NewKey is what a key is made from; empty fields are left to the API.
type NewKey struct {
	Name      string            `json:"name"`
	Scopes    []string          `json:"scopes,omitempty"`
	ExpiresAt *time.Time        `json:"expires_at,omitempty"`
	Routes    []string          `json:"routes,omitempty"`
	Models    []string          `json:"models,omitempty"`
	Metadata  map[string]string `json:"metadata,omitempty"`
}

// Cost is how requests of a route are charged; USD is a decimal string.
type Cost struct {
	Mode string `json:"mode"`
	USD  string `json:"usd,omitempty"`
}

// Route is an upstream of a workspace, named by the first part of the proxy's path.
type Route struct {
	Name          string           `json:"name"`
	Provider      string           `json:"provider"`
	BaseURL       string           `json:"base_url"`
	HasCredential bool             `json:"has_credential"`
	Timeout       string           `json:"timeout,omitempty"`
	IdleTimeout   string           `json:"idle_timeout,omitempty"`
	Cost          Cost             `json:"cost"`
	Weights       map[string]int64 `json:"weights,omitempty"`
	Version       int64            `json:"version,omitempty"`
}

// PutRoute is what a route is set to. Credential nil keeps the one that is there.
type PutRoute struct {
	Provider    string           `json:"provider"`
	BaseURL     string           `json:"base_url"`
	Credential  *string          `json:"credential,omitempty"`
	Timeout     string           `json:"timeout,omitempty"`
	IdleTimeout string           `json:"idle_timeout,omitempty"`
	Cost        *Cost            `json:"cost,omitempty"`
	Weights     map[string]int64 `json:"weights,omitempty"`
}

// Limit is a rate limit of a workspace: so many units a window. Window and MaxDelay are Go durations.
type Limit struct {
	Name           string `json:"name"`
	Scope          string `json:"scope"`
	Match          Match  `json:"match"`
	Unit           string `json:"unit"`
	Algorithm      string `json:"algorithm"`
	Limit          int64  `json:"limit"`
	Window         string `json:"window"`
	Burst          int64  `json:"burst,omitempty"`
	Mode           string `json:"mode"`
	OnStoreFailure string `json:"on_store_failure"`
	MaxDelay       string `json:"max_delay,omitempty"`
	LeasePercent   int    `json:"lease_percent,omitempty"`
	Version        int64  `json:"version,omitempty"`
}

// PutLimit is what a limit is set to; empty fields are left to the API.
type PutLimit struct {
	Scope          string `json:"scope,omitempty"`
	Match          *Match `json:"match,omitempty"`
	Unit           string `json:"unit,omitempty"`
	Algorithm      string `json:"algorithm,omitempty"`
	Limit          int64  `json:"limit"`
	Window         string `json:"window"`
	Burst          int64  `json:"burst,omitempty"`
	Mode           string `json:"mode,omitempty"`
	OnStoreFailure string `json:"on_store_failure,omitempty"`
	MaxDelay       string `json:"max_delay,omitempty"`
	LeasePercent   int    `json:"lease_percent,omitempty"`
}

func in(workspace string, more ...string) string {
	path := "/v1/workspaces/" + url.PathEscape(workspace)
	for _, m := range more {
		path += "/" + url.PathEscape(m)
	}
	return path
}

// call does one request and returns its decoded answer.
func call[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var out T
	err := c.Do(ctx, method, path, nil, body, &out)
	return out, err
}

// Workspaces lists all workspaces that the token may see.
func (c *Client) Workspaces(ctx context.Context) ([]Workspace, error) {
	return gather(list[Workspace](ctx, c, "/v1/workspaces", nil))
}

// Workspace returns one workspace.
func (c *Client) Workspace(ctx context.Context, id string) (Workspace, error) {
	return call[Workspace](ctx, c, http.MethodGet, in(id), nil)
}

// CreateWorkspace makes a workspace.
func (c *Client) CreateWorkspace(ctx context.Context, name string) (Workspace, error) {
	return call[Workspace](ctx, c, http.MethodPost, "/v1/workspaces", map[string]string{"name": name})
}

// RenameWorkspace changes a workspace's name.
func (c *Client) RenameWorkspace(ctx context.Context, id, name string) (Workspace, error) {
	return call[Workspace](ctx, c, http.MethodPatch, in(id), map[string]string{"name": name})
}

// ChangeSettings sets those settings of a workspace that are given, by their names in the API; nil sets one back to its default.
func (c *Client) ChangeSettings(ctx context.Context, id string, given map[string]any) (Workspace, error) {
	return call[Workspace](ctx, c, http.MethodPatch, in(id), map[string]any{"settings": given})
}

// DeleteWorkspace deletes a workspace.
func (c *Client) DeleteWorkspace(ctx context.Context, id string) error {
	return c.Do(ctx, http.MethodDelete, in(id), nil, nil, nil)
}

// Keys lists the keys of a workspace.
func (c *Client) Keys(ctx context.Context, workspace string) ([]Key, error) {
	return gather(list[Key](ctx, c, in(workspace, "keys"), nil))
}

// Key returns one key, without its secret.
func (c *Client) Key(ctx context.Context, workspace, id string) (Key, error) {
	return call[Key](ctx, c, http.MethodGet, in(workspace, "keys", id), nil)
}

// CreateKey makes a key; its secret is in the answer and nowhere else.
func (c *Client) CreateKey(ctx context.Context, workspace string, k NewKey) (Key, error) {
	return call[Key](ctx, c, http.MethodPost, in(workspace, "keys"), k)
}

// RotateKey makes a successor; the key itself expires after grace, a Go duration.
func (c *Client) RotateKey(ctx context.Context, workspace, id, grace string) (Key, error) {
	body := map[string]string{}
	if grace != "" {
		body["grace"] = grace
	}
	return call[Key](ctx, c, http.MethodPost, in(workspace, "keys", id, "rotate"), body)
}

// RevokeKey ends a key at once.
func (c *Client) RevokeKey(ctx context.Context, workspace, id string) (Key, error) {
	return call[Key](ctx, c, http.MethodPost, in(workspace, "keys", id, "revoke"), nil)
}

// Routes lists the routes of a workspace.
func (c *Client) Routes(ctx context.Context, workspace string) ([]Route, error) {
	return gather(list[Route](ctx, c, in(workspace, "routes"), nil))
}

// Route returns one route.
func (c *Client) Route(ctx context.Context, workspace, name string) (Route, error) {
	return call[Route](ctx, c, http.MethodGet, in(workspace, "routes", name), nil)
}

// PutRoute makes or changes a route.
func (c *Client) PutRoute(ctx context.Context, workspace, name string, r PutRoute) (Route, error) {
	return call[Route](ctx, c, http.MethodPut, in(workspace, "routes", name), r)
}

// DeleteRoute deletes a route.
func (c *Client) DeleteRoute(ctx context.Context, workspace, name string) error {
	return c.Do(ctx, http.MethodDelete, in(workspace, "routes", name), nil, nil, nil)
}

// Limits lists the limits of a workspace.
func (c *Client) Limits(ctx context.Context, workspace string) ([]Limit, error) {
	return gather(list[Limit](ctx, c, in(workspace, "limits"), nil))
}

// Limit returns one limit.
func (c *Client) Limit(ctx context.Context, workspace, name string) (Limit, error) {
	return call[Limit](ctx, c, http.MethodGet, in(workspace, "limits", name), nil)
}

// PutLimit makes or changes a limit.
func (c *Client) PutLimit(ctx context.Context, workspace, name string, l PutLimit) (Limit, error) {
	return call[Limit](ctx, c, http.MethodPut, in(workspace, "limits", name), l)
}

// DeleteLimit deletes a limit.
func (c *Client) DeleteLimit(ctx context.Context, workspace, name string) error {
	return c.Do(ctx, http.MethodDelete, in(workspace, "limits", name), nil, nil, nil)
}
