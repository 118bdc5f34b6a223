package price

import (
	_ "embed" // the generated catalogue and its licence
	"encoding/json"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/rateguard/rateguard/schemas/price/internal/catalogue"
)

//go:generate go run ./internal/gencatalogue -source source/genai-prices-0.1.8.json -sha256 91a9f7d8b0186e09e8fb05d76b882c464970a6d5ee12cb33c96bea078a37eea2 -version genai-prices-0.1.8 -out catalogue.json

//go:embed catalogue.json
var embedded []byte

//go:embed source/genai-prices-0.1.8.LICENSE
var licence string

// Notice returns the licence of the data that the built-in catalogue was made from. Distributions show it.
func Notice() string { return licence }

var defaultCatalogue = sync.OnceValue(func() *Catalogue {
	c, err := load(embedded)
	if err != nil {
		// The file is generated, committed and tested: this build is broken.
		panic("loading the embedded price catalogue: " + err.Error()) //nolint:forbidigo // impossible
	}
	return c
})

// Default returns the catalogue that this release was built with. Its first call takes some 15 ms, so servers make it at start.
// The result is safe for concurrent use.
func Default() *Catalogue { return defaultCatalogue() }

func load(file []byte) (*Catalogue, error) {
	var f catalogue.File
	if err := json.Unmarshal(file, &f); err != nil {
		return nil, fmt.Errorf("reading catalogue: %w", err)
	}
	c := &Catalogue{
		base:    f.Version + "+" + f.SourceSHA256[:min(8, len(f.SourceSHA256))],
		byID:    make(map[string]*provider, len(f.Providers)),
		lookups: newCache(),
	}
	for i := range f.Providers {
		p, err := newProvider(&f.Providers[i])
		if err != nil {
			return nil, fmt.Errorf("reading provider %s: %w", f.Providers[i].ID, err)
		}
		c.providers = append(c.providers, p)
		c.byID[p.id] = p
	}
	for i, p := range c.providers {
		for _, id := range f.Providers[i].Fallback {
			other, ok := c.byID[id]
			if !ok {
				return nil, fmt.Errorf("reading provider %s: fallback %s is unknown", p.id, id)
			}
			p.fallback = append(p.fallback, other)
		}
	}
	c.version = c.base
	return c, nil
}

func newProvider(f *catalogue.Provider) (*provider, error) {
	api, err := regexp.Compile("^(?:" + f.API + ")")
	if err != nil {
		return nil, fmt.Errorf("compiling API pattern: %w", err)
	}
	p := &provider{id: f.ID, api: api, models: make([]model, len(f.Models))}
	if p.match, err = newOptionalClause(f.Match); err != nil {
		return nil, err
	}
	if p.modelMatch, err = newOptionalClause(f.ModelMatch); err != nil {
		return nil, err
	}
	for i := range f.Models {
		if err := p.models[i].read(&f.Models[i]); err != nil {
			return nil, fmt.Errorf("reading model %s: %w", f.Models[i].ID, err)
		}
	}
	return p, nil
}

func newOptionalClause(m *catalogue.Match) (*clause, error) {
	if m == nil {
		return nil, nil //nolint:nilnil // no clause is a valid result
	}
	c, err := newClause(*m)
	return &c, err
}

func (m *model) read(f *catalogue.Model) error {
	var err error
	m.id, m.context, m.minAudio, m.refused = f.ID, f.Context, f.MinAudioMS, f.Refused
	if m.match, err = newClause(f.Match); err != nil {
		return err
	}
	for _, c := range f.Prices {
		var when condition
		if c.From != "" {
			from, err := time.Parse(time.DateOnly, c.From)
			if err != nil {
				return fmt.Errorf("reading start date: %w", err)
			}
			when.kind, when.from = fromDay, from.Unix()
		}
		if c.Daily != nil {
			when.kind = daily
			for i, text := range c.Daily {
				t, err := time.Parse(time.TimeOnly, text)
				if err != nil {
					return fmt.Errorf("reading time of day: %w", err)
				}
				when.interval[i] = timeOfDay(t)
			}
		}
		r, err := newRates(c.Rates)
		if err != nil {
			return err
		}
		m.prices = append(m.prices, conditional{when, r})
	}
	if len(m.prices) == 0 && m.refused == "" {
		return fmt.Errorf("model %s has neither prices nor a reason", m.id)
	}
	return nil
}
