package call

import (
	"net/url"
	"slices"
	"strings"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
)

// Key is one API key as the request path needs it. It never changes once it is published.
type Key struct {
	ID          string
	WorkspaceID string
	// Invoke says that the key may call routes: it has no scopes, or "invoke" among them.
	Invoke bool
	// Routes and Models are allow-lists; empty: all.
	Routes []string
	Models Patterns
	// ExpiresAt and RevokedAt are zero when the key never expires and is not revoked.
	ExpiresAt time.Time
	RevokedAt time.Time
}

// AllowsRoute reports whether the key may call the route.
func (k *Key) AllowsRoute(id string) bool {
	return len(k.Routes) == 0 || slices.Contains(k.Routes, id)
}

// AllowsModel reports whether the key may use the model. A key with a list may not make a call that names none.
func (k *Key) AllowsModel(model string) bool {
	return len(k.Models) == 0 || k.Models.Match(model)
}

// Workspace is the policy of one workspace at one version. It never changes once it is published.
type Workspace struct {
	ID      string
	Version uint64
	Deleted bool
	Routes  map[string]*Route
	// BudgetExceededStatus is 402, 429 or 400.
	BudgetExceededStatus int
	UnknownOutcome       rateguardv1.UnknownOutcome
	Document             *rateguardv1.WorkspacePolicy
}

// Route is one upstream of a workspace.
type Route struct {
	ID      string
	Dialect Dialect
	// Provider is the provider's id in the price catalogue.
	Provider string
	BaseURL  *url.URL
	// Credential goes upstream in the provider's form; empty: none.
	Credential string
	// Broken says why the route cannot be used, for example a credential that does not open; empty: it can.
	Broken      string
	Timeout     time.Duration
	IdleTimeout time.Duration
	// PerRequest is the fixed cost of a request, valid when HasPerRequest.
	HasPerRequest bool
	PerRequest    money.Nano
}

// Patterns are glob patterns: * stands for any run of characters, ? for one.
type Patterns []string

// Match reports whether one of the patterns matches the whole of s.
func (p Patterns) Match(s string) bool {
	for _, pattern := range p {
		if glob(pattern, s) {
			return true
		}
	}
	return false
}

// glob never backtracks further than the last star, so that a hostile pattern costs len(p)·len(s) at most.
func glob(p, s string) bool {
	if !strings.ContainsAny(p, "*?") {
		return p == s
	}
	i, j, star, mark := 0, 0, -1, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == s[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(p[i:], "*") == ""
}
