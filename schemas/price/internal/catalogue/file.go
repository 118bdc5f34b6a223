// Package catalogue is the shape of the generated catalogue file. The generator writes it
// and package price reads it, so it stands apart from both.
package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
)

// File is the whole catalogue.
type File struct {
	// Version names the source and its release.
	Version string `json:"version"`
	// SourceSHA256 is the checksum of the file that the catalogue was made from, in hex.
	SourceSHA256 string     `json:"source_sha256"`
	Providers    []Provider `json:"providers"`
}

// Provider is one seller of models.
type Provider struct {
	ID string `json:"id"`
	// API matches the start of its base URLs; RE2.
	API string `json:"api"`
	// Match recognises other names of the provider, ModelMatch its models where a call names no provider.
	Match      *Match `json:"match,omitempty"`
	ModelMatch *Match `json:"model_match,omitempty"`
	// Fallback lists providers whose models this one resells at their prices.
	Fallback []string `json:"fallback,omitempty"`
	Models   []Model  `json:"models"`
}

// Model is one model with all its prices, or with the reason why it has none.
type Model struct {
	ID    string `json:"id"`
	Match Match  `json:"match"`
	// Context is the context window in tokens; 0: unknown.
	Context int64 `json:"context,omitempty"`
	// MinAudioMS is the least billed length of audio in milliseconds.
	MinAudioMS int64 `json:"min_audio_ms,omitempty"`
	// Prices: the last one whose condition holds applies, else the first.
	Prices []Conditional `json:"prices,omitempty"`
	// Refused says which price could not be converted. Such a model still matches, so that no later one takes its place.
	Refused string `json:"refused,omitempty"`
}

// Conditional is a set of prices and when it applies; no condition: always.
type Conditional struct {
	// From is the first UTC day, as 2006-01-02.
	From string `json:"from,omitempty"`
	// Daily is a half-open interval of UTC times of day, as 15:04:05; it may span midnight.
	Daily *[2]string `json:"daily,omitempty"`
	// Rates are by unit name; empty: free of charge.
	Rates map[string]Rate `json:"rates"`
}

// Rate is a price in pico-USD a unit, by tiers.
type Rate struct {
	Base  int64
	Tiers []Tier
}

// Tier is the price of all units of a call whose input is more than Start tokens.
type Tier struct {
	Start int64
	Price int64
}

// MarshalJSON writes a number, or [base, start, price, …] where there are tiers.
func (r Rate) MarshalJSON() ([]byte, error) {
	if len(r.Tiers) == 0 {
		return json.Marshal(r.Base)
	}
	list := []int64{r.Base}
	for _, t := range r.Tiers {
		list = append(list, t.Start, t.Price)
	}
	return json.Marshal(list)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (r *Rate) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] != '[' {
		return json.Unmarshal(b, &r.Base)
	}
	var list []int64
	if err := json.Unmarshal(b, &list); err != nil {
		return fmt.Errorf("reading tiers: %w", err)
	}
	if len(list)%2 == 0 {
		return errors.New("reading tiers: not a base and pairs of start and price")
	}
	r.Base = list[0]
	for i := 1; i < len(list); i += 2 {
		r.Tiers = append(r.Tiers, Tier{list[i], list[i+1]})
	}
	return nil
}

// Match is one clause over a lower-cased name; exactly one field is set.
type Match struct {
	Equals     *string `json:"eq,omitempty"`
	StartsWith *string `json:"prefix,omitempty"`
	EndsWith   *string `json:"suffix,omitempty"`
	Contains   *string `json:"contains,omitempty"`
	// Regexp is RE2 and may match anywhere.
	Regexp *string `json:"re,omitempty"`
	Or     []Match `json:"or,omitempty"`
	And    []Match `json:"and,omitempty"`
	Not    *Match  `json:"not,omitempty"`
}
