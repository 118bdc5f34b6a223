package price

import (
	"strings"
	"sync"
	"time"
)

// found is the result of a lookup, good for any instant.
type found struct {
	provider string
	model    *model // nil: unknown
	override *history
}

// lookup resolves a provider's name and a model's name by the rules of the price source.
func (c *Catalogue) lookup(providerName, modelName string) found {
	modelName = strings.ToLower(modelName)
	p, id, modelName := c.resolve(providerName, modelName)
	f := found{provider: id}
	if p != nil {
		f.model = p.find(modelName)
	}
	f.override = c.override[overrideKey{id, modelName}]
	if f.override == nil && f.model != nil {
		f.override = c.override[overrideKey{id, strings.ToLower(f.model.id)}]
	}
	return f
}

// resolve finds the provider. A router's name ("litellm") says nothing: the provider then stands before the model's name, or the
// model tells it.
func (c *Catalogue) resolve(providerName, modelName string) (*provider, string, string) {
	name := strings.ToLower(strings.TrimSpace(providerName))
	router := name == "litellm"
	if prefix, rest, ok := strings.Cut(modelName, "/"); router && ok && prefix != "" {
		if p := c.providerNamed(prefix); p != nil {
			return p, p.id, rest
		}
	}
	if name != "" {
		if p := c.providerNamed(name); p != nil {
			return p, p.id, modelName
		}
		if !router {
			return nil, name, modelName
		}
	}
	for _, p := range c.providers {
		if p.modelMatch != nil && p.modelMatch.matches(modelName) {
			return p, p.id, modelName
		}
	}
	return nil, name, modelName
}

func (c *Catalogue) providerNamed(name string) *provider {
	name = strings.ToLower(strings.TrimSpace(name))
	if p, ok := c.byID[name]; ok {
		return p
	}
	for _, p := range c.providers {
		if p.match != nil && p.match.matches(name) {
			return p
		}
	}
	return nil
}

// find returns the first model that the name means, here or at the providers whose models are resold.
func (p *provider) find(name string) *model {
	if m := p.findExact(name); m != nil {
		return m
	}
	if dashed := dashDates(name); dashed != name {
		return p.findExact(dashed)
	}
	return nil
}

func (p *provider) findExact(name string) *model {
	if m := p.own(name); m != nil {
		return m
	}
	for _, other := range p.fallback {
		if m := other.own(name); m != nil {
			return m
		}
	}
	return nil
}

func (p *provider) own(name string) *model {
	for i := range p.models {
		if p.models[i].match.matches(name) {
			return &p.models[i]
		}
	}
	return nil
}

// dashDates writes compact dates of a name ("-20251211") as "-2025-12-11", where a part of the name ends with them.
func dashDates(name string) string {
	const compact = len("-20251211")
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		end := i + compact
		if name[i] == '-' && end <= len(name) && (end == len(name) || name[end] == '-' || name[end] == ':') {
			if t, err := time.Parse("-20060102", name[i:end]); err == nil && strings.HasPrefix(name[i:], "-20") {
				b.WriteString(t.Format("-2006-01-02"))
				i = end - 1
				continue
			}
		}
		b.WriteByte(name[i])
	}
	return b.String()
}

// cache remembers lookups. Names come from clients, so it is bounded: when the young half is full it
// becomes the old half, and what was not asked for since is forgotten.
type cache struct {
	mu    sync.RWMutex // guards young and old
	young map[cacheKey]found
	old   map[cacheKey]found
}

type cacheKey struct{ provider, model string }

const (
	cacheHalf = 2048
	// cacheName is the longest name that is worth remembering.
	cacheName = 200
)

func newCache() *cache {
	return &cache{young: make(map[cacheKey]found)}
}

func (c *cache) get(provider, model string) (found, bool) {
	key := cacheKey{provider, model}
	c.mu.RLock()
	f, ok := c.young[key]
	old := false
	if !ok {
		f, old = c.old[key]
	}
	c.mu.RUnlock()
	if old {
		c.put(provider, model, f)
	}
	return f, ok || old
}

func (c *cache) put(provider, model string, f found) {
	if len(provider) > cacheName || len(model) > cacheName {
		return
	}
	// A name may be a slice of a request's whole body.
	key := cacheKey{strings.Clone(provider), strings.Clone(model)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= cacheHalf {
		c.old, c.young = c.young, make(map[cacheKey]found)
	}
	c.young[key] = f
}
