package control

import (
	"slices"
	"strings"
)

// invoke is the scope of a key that may call the data plane.
const invoke = "invoke"

// resources are what the scopes read:… and write:… name; "apis" are the routes.
var resources = []string{"apis", "keys", "limits", "budgets", "usage", "requests", "alerts", "audit"}

// allScopes returns every scope that a key can have.
func allScopes() []string {
	scopes := []string{invoke}
	for _, r := range resources {
		scopes = append(scopes, "read:"+r, "write:"+r)
	}
	return scopes
}

// holds reports whether scopes include one scope; write:x implies read:x.
func holds(scopes []string, scope string) bool {
	if slices.Contains(scopes, scope) {
		return true
	}
	resource, read := strings.CutPrefix(scope, "read:")
	return read && slices.Contains(scopes, "write:"+resource)
}

// rights are what a key may do: its scopes and its allow-lists of routes and model patterns, where empty means all.
type rights struct {
	scopes, routes, models []string
}

// lacks returns in words the first right of want that have does not include; empty when it includes all.
func (have rights) lacks(want rights) string {
	for _, s := range want.scopes {
		if !holds(have.scopes, s) {
			return "scope " + s
		}
	}
	if len(have.routes) > 0 {
		if len(want.routes) == 0 {
			return "all routes"
		}
		for _, r := range want.routes {
			if !slices.Contains(have.routes, r) {
				return "route " + r
			}
		}
	}
	if len(have.models) > 0 {
		if len(want.models) == 0 {
			return "all models"
		}
		for _, m := range want.models {
			if !includesModel(have.models, m) {
				return "model " + m
			}
		}
	}
	return ""
}

// includesModel reports whether one of the patterns is m, or is a prefix pattern ("gpt-4*") of m, which may be a
// pattern itself. Whether any other pattern includes m is not decided, so it is not granted.
func includesModel(patterns []string, m string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		prefix, star := strings.CutSuffix(p, "*")
		return p == m || star && !strings.Contains(prefix, "*") && strings.HasPrefix(m, prefix)
	})
}
