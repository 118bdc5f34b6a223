// Package auth says who is calling: it finds the API key in the request, looks its SHA-256 up in
// memory and hands the key and its workspace's policy on. It needs no network. What the key may do is
// decided behind it, where a refusal is recorded; a stranger leaves nothing but a metric.
package auth

import (
	"crypto/sha256"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
)

// View finds keys and workspaces in memory; it never blocks.
type View interface {
	// Key returns the key with that SHA-256, nil when there is none.
	Key(sum [sha256.Size]byte) *call.Key
	// Workspace returns the policy of a workspace, nil when there is none.
	Workspace(id string) *call.Workspace
}

// Auth is the step; make it with New.
type Auth struct {
	view     View
	next     call.Handler
	failures map[call.Code]prometheus.Counter
}

// New returns the step in front of next. It refuses with invalid_api_key, api_key_expired and api_key_revoked.
func New(view View, reg prometheus.Registerer, next call.Handler) *Auth {
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rateguard_proxy_auth_failures_total",
		Help: "Requests refused because nobody known sent them.",
	}, []string{"code"})
	reg.MustRegister(failures)
	a := &Auth{view: view, next: next, failures: make(map[call.Code]prometheus.Counter)}
	for _, code := range []call.Code{call.InvalidAPIKey, call.APIKeyExpired, call.APIKeyRevoked} {
		a.failures[code] = failures.WithLabelValues(string(code))
	}
	return a
}

// Serve fills Key and Workspace.
func (a *Auth) Serve(c *call.Call) error {
	secret := credential(c.Request)
	if secret == "" && c.Dialect == call.Gemini {
		secret = queryKey(c.Request.URL.RawQuery)
		c.KeyInQuery = secret != ""
	}
	if secret == "" {
		return a.refuse(&call.Error{Code: call.InvalidAPIKey, Message: "No API key was sent."})
	}
	key := a.view.Key(sha256.Sum256([]byte(secret)))
	if key == nil {
		return a.refuse(call.Fail(call.InvalidAPIKey, nil))
	}
	if !key.RevokedAt.IsZero() {
		return a.refuse(call.Fail(call.APIKeyRevoked, nil))
	}
	if expired(key, c.Start) {
		return a.refuse(call.Fail(call.APIKeyExpired, nil))
	}
	ws := a.view.Workspace(key.WorkspaceID)
	if ws == nil || ws.Deleted {
		return a.refuse(call.Fail(call.InvalidAPIKey, nil))
	}
	c.Key, c.Workspace = key, ws
	return a.next.Serve(c)
}

func (a *Auth) refuse(e *call.Error) error {
	a.failures[e.Code].Inc()
	return e
}

func expired(k *call.Key, now time.Time) bool {
	return !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt)
}

// credential returns the API key of a request, from wherever the SDKs put it. The order matters only where a
// client sends several: then the dedicated headers lose to Authorization.
func credential(r *http.Request) string {
	if v := first(r.Header["Authorization"]); v != "" {
		if scheme, token, ok := strings.Cut(v, " "); ok && strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token)
		}
	}
	for _, name := range []string{"X-Api-Key", "Api-Key", "X-Goog-Api-Key"} {
		if v := first(r.Header[name]); v != "" {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// queryKey reads ?key=, which the REST clients of Gemini use. Forward strips it.
func queryKey(raw string) string {
	for pair := range strings.SplitSeq(raw, "&") {
		if name, value, ok := strings.Cut(pair, "="); ok && name == "key" {
			if v, err := url.QueryUnescape(value); err == nil {
				return v
			}
		}
	}
	return ""
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}
