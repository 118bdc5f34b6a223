package price

import (
	"regexp"
	"time"
)

// Catalogue finds prices. It never changes; With makes another one. Safe for concurrent use.
type Catalogue struct {
	base      string // version without overrides
	version   string
	providers []*provider
	byID      map[string]*provider
	override  map[overrideKey]*history
	lookups   *cache
}

type provider struct {
	id         string
	api        *regexp.Regexp
	match      *clause
	modelMatch *clause
	fallback   []*provider
	models     []model
}

type model struct {
	id       string
	match    clause
	context  int64
	minAudio int64
	prices   []conditional
	refused  string
}

type conditional struct {
	when  condition
	rates *rates
}

// condition says when a price applies.
type condition struct {
	kind     conditionKind
	from     int64            // Unix seconds
	interval [2]time.Duration // since midnight UTC, half open
}

type conditionKind uint8

const (
	always conditionKind = iota
	fromDay
	daily
)

func (c *condition) holds(at time.Time) bool {
	switch c.kind {
	case fromDay:
		return at.Unix() >= c.from
	case daily:
		t, start, end := timeOfDay(at.UTC()), c.interval[0], c.interval[1]
		if end < start {
			return t >= start || t < end
		}
		return start <= t && t < end
	default:
		return true
	}
}

func timeOfDay(t time.Time) time.Duration {
	h, m, s := t.Clock()
	return time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Second +
		time.Duration(t.Nanosecond())
}

// at returns the prices at an instant: the last whose condition holds, else the first.
func (m *model) at(at time.Time) *rates {
	for i := len(m.prices) - 1; i >= 0; i-- {
		if m.prices[i].when.holds(at) {
			return m.prices[i].rates
		}
	}
	return m.prices[0].rates
}

// Version names the catalogue, its source and its overrides. Equal versions give equal prices.
func (c *Catalogue) Version() string { return c.version }

// Query asks for the price of a model.
type Query struct {
	// Provider is an id of the catalogue or another name of a provider; empty: the provider is found by the model.
	Provider string
	// Model is the name as the client wrote it: an id, an alias or a dated variant.
	Model string
	// At is the instant whose price is asked for, in any zone.
	At time.Time
}

// Find returns the price of a model. Errors: *UnknownModelError (errors.Is ErrUnknownModel), ErrNoInstant.
// A repeated query of the same provider and model costs a map lookup.
func (c *Catalogue) Find(q Query) (Price, error) {
	if q.At.IsZero() {
		return Price{}, ErrNoInstant
	}
	found, ok := c.lookups.get(q.Provider, q.Model)
	if !ok {
		found = c.lookup(q.Provider, q.Model)
		c.lookups.put(q.Provider, q.Model, found)
	}
	m := found.model
	if found.override != nil {
		if o := found.override.at(q.At); o != nil {
			p := Price{provider: found.provider, model: found.override.model, version: c.base + o.version, rates: o.rates}
			if m != nil {
				p.context, p.minAudio = m.context, m.minAudio
			}
			return p, nil
		}
	}
	switch {
	case m == nil:
		return Price{}, &UnknownModelError{Provider: q.Provider, Model: q.Model}
	case m.refused != "":
		return Price{}, &UnknownModelError{Provider: q.Provider, Model: q.Model, Reason: m.refused}
	}
	return Price{
		provider: found.provider, model: m.id, version: c.base,
		context: m.context, minAudio: m.minAudio, rates: m.at(q.At),
	}, nil
}

// Entry is one model of the catalogue.
type Entry struct {
	Provider string
	Model    string
	// ContextWindow in tokens; 0: unknown.
	ContextWindow int64
	// Refused says why the model has no price; empty where it has one.
	Refused string
}

// Entries returns all models in the order in which they are matched, overrides aside.
func (c *Catalogue) Entries() []Entry {
	var list []Entry
	for _, p := range c.providers {
		for i := range p.models {
			m := &p.models[i]
			list = append(list, Entry{Provider: p.id, Model: m.id, ContextWindow: m.context, Refused: m.refused})
		}
	}
	return list
}

// ProviderFor returns the catalogue's provider of calls to baseURL in a dialect ("openai", "anthropic", "gemini",
// "http"): by the URL, else by the dialect; empty where neither says. See Catalogue.ProviderFor.
func ProviderFor(dialect, baseURL string) string { return Default().ProviderFor(dialect, baseURL) }

// ProviderFor is the function of that name over this catalogue.
func (c *Catalogue) ProviderFor(dialect, baseURL string) string {
	for _, p := range c.providers {
		if p.api.MatchString(baseURL) {
			return p.id
		}
	}
	switch dialect {
	case "openai", "anthropic":
		return dialect
	case "gemini":
		return "google"
	default:
		return ""
	}
}
