package main

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// The shape of the source: what of it prices depend on. Texts and extractors are left out.
type (
	sourceProvider struct {
		ID            string          `json:"id"`
		APIPattern    string          `json:"api_pattern"`
		ModelMatch    json.RawMessage `json:"model_match"`
		ProviderMatch json.RawMessage `json:"provider_match"`
		Fallback      []string        `json:"fallback_model_providers"`
		Models        []sourceModel   `json:"models"`

		Name          json.RawMessage `json:"name"`
		PricingURLs   json.RawMessage `json:"pricing_urls"`
		Description   json.RawMessage `json:"description"`
		PriceComments json.RawMessage `json:"price_comments"`
		Extractors    json.RawMessage `json:"extractors"`
	}
	sourceModel struct {
		ID            string          `json:"id"`
		Match         json.RawMessage `json:"match"`
		ContextWindow int64           `json:"context_window"`
		Prices        json.RawMessage `json:"prices"`

		Name          json.RawMessage `json:"name"`
		Description   json.RawMessage `json:"description"`
		PriceComments json.RawMessage `json:"price_comments"`
		Deprecated    json.RawMessage `json:"deprecated"`
	}
	sourceConditional struct {
		Constraint *sourceConstraint          `json:"constraint"`
		Prices     map[string]json.RawMessage `json:"prices"`
	}
	sourceConstraint struct {
		Type      string `json:"type"`
		StartDate string `json:"start_date"`
		StartTime string `json:"start_time"`
		EndTime   string `json:"end_time"`
	}
	sourceTiers struct {
		Base  json.Number `json:"base"`
		Tiers []struct {
			Start int64       `json:"start"`
			Price json.Number `json:"price"`
		} `json:"tiers"`
	}
)

// decode refuses fields that it does not know: a new release of the data may have added a condition on prices.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("reading source: %w", err)
	}
	return nil
}
