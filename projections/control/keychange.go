package control

import (
	"context"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/rateguard/rateguard/projections/problem"
)

// keyFields is what a body says of a key; nil: nothing.
type keyFields struct {
	name           *string
	scopes         []string
	routes, models []string
	metadata       map[string]string
	expiresAt      *time.Time
	// Fields that were given as null go back to their default.
	nullScopes, nullRoutes, nullModels, nullMetadata, nullExpiresAt bool
}

// readKeyFields reads the fields that a key is made of and can change.
func readKeyFields(o *object, now time.Time) keyFields {
	var f keyFields
	if name, ok := o.text("name", maxName); ok {
		f.name = &name
	}
	if scopes, ok := o.texts("scopes", len(allScopes()), 64); ok {
		f.scopes = checkScopes(o, scopes)
	}
	if routes, ok := o.texts("routes", maxAllowed, maxID); ok {
		for _, id := range routes {
			if !validID.MatchString(id) {
				o.fail("routes", "%q is no route id", id)
			}
		}
		f.routes = routes
	}
	if models, ok := o.texts("models", maxAllowed, maxModelPattern); ok {
		f.models = models
	}
	f.metadata = readMetadata(o)
	if at, ok := o.instant("expires_at"); ok {
		if !at.After(now) {
			o.fail("expires_at", "must be in the future")
		}
		f.expiresAt = &at
	}
	f.nullScopes, f.nullRoutes, f.nullModels = o.null("scopes"), o.null("routes"), o.null("models")
	f.nullMetadata, f.nullExpiresAt = o.null("metadata"), o.null("expires_at")
	return f
}

func checkScopes(o *object, scopes []string) []string {
	if len(scopes) == 0 {
		o.fail("scopes", "must not be empty: leave it out for a key that can only invoke")
	}
	for _, s := range scopes {
		if !slices.Contains(allScopes(), s) {
			o.fail("scopes", "unknown scope %q", s)
		}
	}
	slices.Sort(scopes)
	return scopes
}

func readMetadata(o *object) map[string]string {
	var given map[string]*string
	if !o.into("metadata", &given, "an object of strings") {
		return nil
	}
	if len(given) > maxMetadata {
		o.fail("metadata", "must have at most %d entries", maxMetadata)
	}
	metadata := make(map[string]string, len(given))
	for _, name := range slices.Sorted(maps.Keys(given)) {
		value := given[name]
		switch {
		case value == nil:
			o.fail("metadata", "must be an object of strings")
		case name == "" || utf8.RuneCountInString(name) > maxMetadataKey || hasControl(name):
			o.fail("metadata", "names must have 1 to %d characters, none of them a control character", maxMetadataKey)
		case utf8.RuneCountInString(*value) > maxMetadataValue || hasControl(*value):
			o.fail("metadata", "values must have at most %d characters, none of them a control character", maxMetadataValue)
		default:
			metadata[name] = *value
		}
	}
	return metadata
}

// apply changes k as the fields say.
func (f keyFields) apply(k *key) {
	set := func(to *[]string, value []string, null bool, none []string) {
		switch {
		case null:
			*to = none
		case value != nil:
			*to = value
		}
	}
	if f.name != nil {
		k.Name = *f.name
	}
	set(&k.Scopes, f.scopes, f.nullScopes, []string{invoke})
	set(&k.Routes, f.routes, f.nullRoutes, []string{})
	set(&k.Models, f.models, f.nullModels, []string{})
	if f.nullMetadata {
		k.Metadata = map[string]string{}
	} else if f.metadata != nil {
		k.Metadata = f.metadata
	}
	if f.nullExpiresAt {
		k.ExpiresAt = nil
	} else if f.expiresAt != nil {
		k.ExpiresAt = f.expiresAt
	}
}

func (s *Server) createKey(ctx context.Context, c *call) (answer, error) {
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	now := s.now()
	fields := readKeyFields(o, now)
	if _, ok := o.take("name"); !ok {
		o.fail("name", "is required")
	}
	if err := o.done(); err != nil {
		return answer{}, err
	}
	k := key{
		WorkspaceID: c.workspace(), Scopes: []string{invoke}, Routes: []string{}, Models: []string{},
		Metadata: map[string]string{}, CreatedAt: now, Version: 1,
	}
	fields.apply(&k)
	if err := refuseMore(c.caller, k.rights()); err != nil {
		return answer{}, err
	}
	secret, err := k.newSecret()
	if err != nil {
		return answer{}, err
	}
	err = s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) error {
		if err := ch.insertKey(ctx, k); err != nil {
			return err
		}
		return ch.record(ctx, action{actor: c.caller.actor(), name: "key.create", object: "keys/" + k.ID, after: k})
	})
	if err != nil {
		return answer{}, err
	}
	return createdAnswer(secret, k), nil
}

func createdAnswer(secret string, k key) answer {
	return answer{
		status: http.StatusCreated, body: createdKey{Key: secret, key: k}, version: k.Version,
		location: "/v1/workspaces/" + k.WorkspaceID + "/keys/" + k.ID,
	}
}

func (s *Server) patchKey(ctx context.Context, c *call) (answer, error) {
	if _, err := readKey(ctx, s.pool, c.workspace(), c.vars["key"], ""); err != nil {
		return answer{}, err
	}
	o, err := readObject(c.http, false)
	if err != nil {
		return answer{}, err
	}
	fields := readKeyFields(o, s.now())
	if o.null("name") {
		o.fail("name", "must not be null")
	}
	if err := o.done(); err != nil {
		return answer{}, err
	}
	cond, err := readCondition(c.http.Header)
	if err != nil {
		return answer{}, err
	}
	k, err := s.changeKey(ctx, c, "key.update", func(k *key) error {
		if err := cond.check(k.Version); err != nil {
			return err
		}
		before := *k
		fields.apply(k)
		before.Name, before.Metadata = k.Name, k.Metadata
		if sameKey(before, *k) {
			return nil // a name or metadata grant nothing
		}
		return refuseMore(c.caller, k.rights())
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: k, version: k.Version}, nil
}

// changeKey changes one key under the lock of its workspace and publishes it if it is another one then.
func (s *Server) changeKey(ctx context.Context, c *call, name string, alter func(*key) error) (key, error) {
	var k key
	err := s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) (err error) {
		if k, err = readKey(ctx, ch.tx, c.workspace(), c.vars["key"], "FOR UPDATE"); err != nil {
			return err
		}
		before := k
		if err := alter(&k); err != nil || sameKey(before, k) {
			return err
		}
		if err := ch.updateKey(ctx, &k); err != nil {
			return err
		}
		return ch.record(ctx, action{actor: c.caller.actor(), name: name, object: "keys/" + k.ID, before: before, after: k})
	})
	return k, err
}

func sameKey(a, b key) bool {
	same := func(a, b *time.Time) bool { return a == nil && b == nil || a != nil && b != nil && a.Equal(*b) }
	return a.Name == b.Name && slices.Equal(a.Scopes, b.Scopes) && slices.Equal(a.Routes, b.Routes) && slices.Equal(a.Models, b.Models) &&
		reflect.DeepEqual(a.Metadata, b.Metadata) && same(a.ExpiresAt, b.ExpiresAt) && same(a.RevokedAt, b.RevokedAt)
}

// revokeKey ends a key for ever. To revoke a revoked key changes nothing and is no error.
func (s *Server) revokeKey(ctx context.Context, c *call) (answer, error) {
	if _, err := readKey(ctx, s.pool, c.workspace(), c.vars["key"], ""); err != nil {
		return answer{}, err
	}
	o, err := readObject(c.http, true)
	if err != nil {
		return answer{}, err
	}
	if err := o.done(); err != nil {
		return answer{}, err
	}
	now := s.now()
	k, err := s.changeKey(ctx, c, "key.revoke", func(k *key) error {
		if k.RevokedAt == nil {
			k.RevokedAt = &now
		}
		return nil
	})
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: k, version: k.Version}, nil
}

// rotateKey makes a key with the same rights; the old one expires after the grace, at once without one.
func (s *Server) rotateKey(ctx context.Context, c *call) (answer, error) {
	if _, err := readKey(ctx, s.pool, c.workspace(), c.vars["key"], ""); err != nil {
		return answer{}, err
	}
	o, err := readObject(c.http, true)
	if err != nil {
		return answer{}, err
	}
	grace, _ := o.duration("grace", 0, maxGrace)
	if err := o.done(); err != nil {
		return answer{}, err
	}
	var secret string
	var fresh key
	err = s.change(ctx, c.workspace(), func(ctx context.Context, ch *change) error {
		old, err := readKey(ctx, ch.tx, c.workspace(), c.vars["key"], "FOR UPDATE")
		if err != nil {
			return err
		}
		if old.RevokedAt != nil || old.ExpiresAt != nil && !old.ExpiresAt.After(ch.now) {
			return problem.New(http.StatusConflict, problem.Conflict, "the key is revoked or has expired; make a new one")
		}
		// The caller is about to see a secret with all rights of the old key.
		if err := refuseMore(c.caller, old.rights()); err != nil {
			return err
		}
		before := old
		fresh = old
		fresh.CreatedAt, fresh.Version = ch.now, 1
		if secret, err = fresh.newSecret(); err != nil {
			return err
		}
		if err := ch.insertKey(ctx, fresh); err != nil {
			return err
		}
		if end := ch.now.Add(grace); old.ExpiresAt == nil || end.Before(*old.ExpiresAt) {
			old.ExpiresAt = &end
			if err := ch.updateKey(ctx, &old); err != nil {
				return err
			}
		}
		return ch.record(ctx, action{actor: c.caller.actor(), name: "key.rotate", object: "keys/" + old.ID, before: before, after: []key{old, fresh}})
	})
	if err != nil {
		return answer{}, err
	}
	return createdAnswer(secret, fresh), nil
}
