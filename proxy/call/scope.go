package call

import rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"

// Scope says which calls a limit or a budget is for, and whose share of it each of them uses.
type Scope struct {
	name       string
	matched    bool
	route, key string
	model      Patterns
}

// NewScope returns the scope of that name ("workspace", "key", "route", "model" or "endpoint") with a match; an empty one matches every call
// and leaves each key, route, model or endpoint a share of its own.
func NewScope(name string, m *rateguardv1.Match) Scope {
	s := Scope{name: name, route: m.GetRoute(), key: m.GetKey()}
	if m.GetModel() != "" {
		s.model = Patterns{m.GetModel()}
	}
	s.matched = s.route != "" || s.key != "" || s.model != nil
	return s
}

// One reports whether all calls of the scope use one share.
func (s *Scope) One() bool { return s.matched || s.name == "workspace" }

// Of reports whether the scope has the call, and whose share that uses: the id of a key, a route, a model or an endpoint, empty where
// there is but one.
func (s *Scope) Of(c *Call) (subject string, ok bool) {
	if s.matched {
		ok = (s.route == "" || s.route == c.RouteID) && (s.key == "" || s.key == c.Key.ID) && (s.model == nil || s.model.Match(c.Asked.Model))
		return "", ok
	}
	switch s.name {
	case "key":
		return c.Key.ID, true
	case "route":
		return c.RouteID, true
	case "model":
		return c.Asked.Model, c.Asked.Model != ""
	case "endpoint":
		return c.Endpoint, true
	}
	return "", true
}
