// Package catalogue is the shape of the generated catalogue file. The generator writes it
// and package price reads it, so it stands apart from both.
package catalogue

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

// Rate is a price in pico-USD a unit: the base, then pairs of start and price for tiers. A tier is the price
// of all units of a call whose input is more than start tokens. It is a plain list because the file has
// thousands of them and is read at start.
type Rate []int64

// Base returns the price below all tiers.
func (r Rate) Base() int64 { return r[0] }

// Tiers returns the tiers in the order of the list.
func (r Rate) Tiers() []Tier {
	var list []Tier
	for i := 1; i < len(r); i += 2 {
		list = append(list, Tier{Start: r[i], Price: r[i+1]})
	}
	return list
}

// Tier is one step of a price.
type Tier struct {
	Start int64
	Price int64
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
