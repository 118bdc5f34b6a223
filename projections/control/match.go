package control

import (
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// match says which calls a limit or budget counts; an empty field matches all.
type match struct {
	Route string `json:"route,omitempty"`
	Model string `json:"model,omitempty"`
	Key   string `json:"key,omitempty"`
}

// document returns the match as the policy holds it; nil: everything.
func (m match) document() *rateguardv1.Match {
	if m == (match{}) {
		return nil
	}
	return &rateguardv1.Match{Route: m.Route, Model: m.Model, Key: m.Key}
}

func readMatch(o *object) match {
	var m match
	c, ok := o.child("match")
	if !ok {
		return m
	}
	if m.Route, ok = c.text("route", maxID); ok && !validID.MatchString(m.Route) {
		c.fail("route", "%q is no route id", m.Route)
	}
	m.Model, _ = c.text("model", maxModelPattern)
	m.Key, _ = c.text("key", maxName)
	c.unknown()
	return m
}
