package control

import (
	"errors"
	"time"

	"github.com/rateguard/rateguard/schemas/price"
)

// ratesView is a set of prices as the API shows it, in decimal strings of USD.
type ratesView struct {
	PerMillion map[string]string `json:"usd_per_million,omitempty"`
	PerHour    map[string]string `json:"usd_per_hour,omitempty"`
	PerUnit    map[string]string `json:"usd_per_unit,omitempty"`
}

func (v *ratesView) set(unit string, pico int64) {
	per, _ := price.PerOf(unit)
	to := map[price.Per]*map[string]string{price.PerMillion: &v.PerMillion, price.PerHour: &v.PerHour, price.PerUnit: &v.PerUnit}[per]
	if *to == nil {
		*to = map[string]string{}
	}
	(*to)[unit] = price.FormatRate(unit, pico)
}

// tierView is the prices of calls with more than so many input tokens, where they are others.
type tierView struct {
	AboveInputTokens int64 `json:"above_input_tokens"`
	ratesView
}

// priceView is the price in force for a model.
type priceView struct {
	// Version is what stands as price_version with a request that starts now.
	Version string `json:"version"`
	// Source is "catalogue" or "override".
	Source string `json:"source"`
	ratesView
	Tiers []tierView `json:"tiers,omitempty"`
}

func newPriceView(p price.Price) *priceView {
	v := &priceView{Version: p.Version(), Source: "override"}
	if p.Version() == price.Default().Version() {
		v.Source = "catalogue"
	}
	for _, r := range p.Rates() {
		v.set(r.Unit, r.PicoUSD)
		for _, t := range r.Tiers {
			v.tier(t.AboveInputTokens).set(r.Unit, t.PicoUSD)
		}
	}
	return v
}

// tier returns the tier from so many tokens on, made in its place when missing.
func (v *priceView) tier(above int64) *tierView {
	i := 0
	for ; i < len(v.Tiers) && v.Tiers[i].AboveInputTokens <= above; i++ {
		if v.Tiers[i].AboveInputTokens == above {
			return &v.Tiers[i]
		}
	}
	v.Tiers = append(v.Tiers, tierView{})
	copy(v.Tiers[i+1:], v.Tiers[i:])
	v.Tiers[i] = tierView{AboveInputTokens: above}
	return &v.Tiers[i]
}

// overrideView is an override as the API shows it and takes it.
type overrideView struct {
	EffectiveFrom time.Time `json:"effective_from"`
	ratesView
	// Catalogue says that the model has the catalogue's price again.
	Catalogue bool `json:"catalogue,omitempty"`
	Backdated bool `json:"backdated,omitempty"`
}

func newOverrideViews(list []override) []overrideView {
	views := make([]overrideView, len(list))
	for i, o := range list {
		views[i] = overrideView{EffectiveFrom: o.from(), Catalogue: len(o.Pico) == 0, Backdated: o.Backdated}
		for unit, pico := range o.Pico {
			views[i].set(unit, pico)
		}
	}
	return views
}

// modelView is a model in the list of prices.
type modelView struct {
	Provider string `json:"provider"`
	Model    string `json:"model"`
	// ContextWindow in tokens; absent where it is not known.
	ContextWindow int64 `json:"context_window,omitempty"`
	// Refused says why the catalogue has no price for the model.
	Refused string `json:"refused,omitempty"`
	// Price is null where there is none.
	Price *priceView `json:"price"`
}

// modelDetail is a model with all of its prices.
type modelDetail struct {
	modelView
	// CatalogueModel is the catalogue's id of what the name stands for; empty: the catalogue does not know it.
	CatalogueModel string `json:"catalogue_model,omitempty"`
	// Catalogue is the built-in price of now; null where there is none.
	Catalogue *priceView     `json:"catalogue"`
	Overrides []overrideView `json:"overrides"`
	// Version of the overrides; absent where there never were any.
	Version   int64      `json:"version,omitempty"`
	UpdatedAt *time.Time `json:"updated_at,omitempty"`
}

// newModelView shows what a name costs now by a catalogue. found is false where nobody knows the name.
func newModelView(c *price.Catalogue, provider, model string, now time.Time) (v modelView, found bool) {
	v = modelView{Provider: provider, Model: model}
	p, err := c.Find(price.Query{Provider: provider, Model: model, At: now})
	if unknown, ok := errors.AsType[*price.UnknownModelError](err); ok {
		v.Refused = unknown.Reason
		return v, unknown.Reason != ""
	}
	v.ContextWindow, v.Price = p.ContextWindow(), newPriceView(p)
	return v, true
}

func newModelDetail(c *price.Catalogue, m modelPrice, now time.Time) (d modelDetail, found bool) {
	d.modelView, found = newModelView(c, m.Provider, m.Model, now)
	d.Overrides, d.Version = newOverrideViews(m.Overrides), m.Version
	if m.Version > 0 {
		d.UpdatedAt = &m.UpdatedAt
	}
	p, err := price.Default().Find(price.Query{Provider: m.Provider, Model: m.Model, At: now})
	if err == nil {
		d.Catalogue, d.CatalogueModel = newPriceView(p), p.Model()
	}
	return d, found || m.Version > 0
}
