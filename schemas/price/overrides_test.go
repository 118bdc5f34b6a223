package price_test

import (
	"errors"
	"testing"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
)

func history(provider, model string, version uint64, steps ...*rateguardv1.PriceOverride) *rateguardv1.PriceHistory {
	return &rateguardv1.PriceHistory{Provider: provider, Model: model, Version: version, Overrides: steps}
}

func from(at time.Time, pico map[string]int64) *rateguardv1.PriceOverride {
	return &rateguardv1.PriceOverride{EffectiveFromUnixUs: at.UnixMicro(), PicoUsd: pico}
}

func with(t *testing.T, histories ...*rateguardv1.PriceHistory) *price.Catalogue {
	t.Helper()
	c, err := price.Default().With(histories)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func costAt(t *testing.T, c *price.Catalogue, provider, model string, at time.Time) string {
	t.Helper()
	p, err := c.Find(price.Query{Provider: provider, Model: model, At: at})
	if err != nil {
		return err.Error()
	}
	cost, err := p.Cost(price.Usage{InputTokens: 1_000_000, CacheReadTokens: 500_000})
	if err != nil {
		return err.Error()
	}
	return cost.String()
}

func TestOverridesTakeEffectAtTheirInstants(t *testing.T) {
	// Oldest first is not relied on.
	c := with(t, history("openai", "gpt-4o", 1,
		from(noon.Add(2*time.Hour), nil),
		from(noon, map[string]int64{"input_tokens": 4_000_000}),
		from(noon.Add(time.Hour), map[string]int64{"input_tokens": 4_000_000, "cache_read_tokens": 0}),
	))
	for _, s := range []struct {
		name string
		at   time.Time
		want string
	}{
		{"before: the catalogue", noon.Add(-time.Microsecond), "1.875"},
		{"from its instant: all prices are the override's", noon, "4"},
		{"the next one", noon.Add(time.Hour), "2"},
		{"an empty one gives the model back", noon.Add(2 * time.Hour), "1.875"},
	} {
		for _, name := range []string{"gpt-4o", "GPT-4o", "gpt-4o-2024-08-06"} {
			if got := costAt(t, c, "openai", name, s.at); got != s.want {
				t.Errorf("%s, %s: got %s, want %s", s.name, name, got, s.want)
			}
		}
	}
	if got := costAt(t, price.Default(), "openai", "gpt-4o", noon); got != "1.875" {
		t.Errorf("the built-in catalogue changed: %s", got)
	}
	if got := costAt(t, c, "openai", "gpt-4o-mini", noon); got != "0.1125" {
		t.Errorf("another model changed: %s", got)
	}
}

func TestOverridesNameModelsThatTheCatalogueLacks(t *testing.T) {
	two := map[string]int64{"input_tokens": 2_000_000}
	c := with(t,
		history("acme", "Own-Model", 1, from(noon, two)),
		history("openrouter", "google/gemini-2.5-flash-lite", 1, from(noon, two)), // refused by the catalogue
		history("openai", "gpt-4o-2024-08-06", 1, from(noon, two)),                // one dated variant only
		history("gemini", "gemini-2.5-flash", 1, from(noon, two)),                 // a provider's other name
	)
	for _, q := range []struct{ provider, model, want string }{
		{"acme", "own-model", "2"},
		{"ACME", "OWN-MODEL", "2"},
		{"acme", "other", `model "other" of provider "acme" has no known price`},
		{"openrouter", "google/gemini-2.5-flash-lite", "2"},
		{"openai", "gpt-4o-2024-08-06", "2"},
		{"openai", "gpt-4o", "1.875"},
		{"google", "gemini-2.5-flash", "2"},
		{"azure", "gpt-4o-2024-08-06", "1.875"}, // resold at the catalogue's price: the override is openai's
	} {
		if got := costAt(t, c, q.provider, q.model, noon); got != q.want {
			t.Errorf("%s %s: got %s, want %s", q.provider, q.model, got, q.want)
		}
	}
	if got := costAt(t, c, "acme", "own-model", noon.Add(-time.Second)); got != `model "own-model" of provider "acme" has no known price` {
		t.Errorf("before its first price: %s", got)
	}
	if p, err := c.Find(price.Query{Provider: "google", Model: "gemini-2.0-flash", At: noon}); err != nil || p.Version() != price.Default().Version() {
		t.Errorf("version of a price without an override: %q, %v; want %q", p.Version(), err, price.Default().Version())
	}
}

func backdated(at time.Time, pico map[string]int64) *rateguardv1.PriceOverride {
	o := from(at, pico)
	o.Backdated = true
	return o
}

func TestBackdatedOverridesHoldOnlyWhereCostsAreRestated(t *testing.T) {
	histories := []*rateguardv1.PriceHistory{history("openai", "gpt-4o", 7,
		backdated(noon, map[string]int64{"input_tokens": 3_000_000}),
		from(noon, map[string]int64{"input_tokens": 4_000_000}),
		backdated(noon.Add(-time.Hour), map[string]int64{"input_tokens": 1_000_000}),
		backdated(noon.Add(time.Hour), nil),
	)}
	charged := with(t, histories...)
	restated, err := price.Default().Restated(histories)
	if err != nil {
		t.Fatal(err)
	}
	const base = "genai-prices-0.1.8+91a9f7d8"
	for _, s := range []struct {
		name               string
		at                 time.Time
		charged, version   string
		restated, version2 string
	}{
		{"before all", noon.Add(-2 * time.Hour), "1.875", base, "1.875", base},
		{"known later", noon.Add(-time.Minute), "1.875", base, "1", base + "+override.7.backdated"},
		{"corrected at the same instant", noon, "4", base + "+override.7", "3", base + "+override.7.backdated"},
		{"given back later", noon.Add(time.Hour), "4", base + "+override.7", "1.875", base},
	} {
		if got := costAt(t, charged, "openai", "gpt-4o", s.at) + " " + versionAt(t, charged, s.at); got != s.charged+" "+s.version {
			t.Errorf("%s, charged: got %s, want %s %s", s.name, got, s.charged, s.version)
		}
		if got := costAt(t, restated, "openai", "gpt-4o", s.at) + " " + versionAt(t, restated, s.at); got != s.restated+" "+s.version2 {
			t.Errorf("%s, restated: got %s, want %s %s", s.name, got, s.restated, s.version2)
		}
	}
	if charged.Version() == restated.Version() {
		t.Error("two catalogues with different prices have one version")
	}
}

func versionAt(t *testing.T, c *price.Catalogue, at time.Time) string {
	t.Helper()
	p, err := c.Find(price.Query{Provider: "openai", Model: "gpt-4o", At: at})
	if err != nil {
		t.Fatal(err)
	}
	return p.Version()
}

func TestCanonicalNamesAreThoseOfTheCatalogue(t *testing.T) {
	for _, test := range [][4]string{
		{" OpenAI ", "GPT-4o", "openai", "gpt-4o"},
		{"gemini", "gemini-2.5-flash", "google", "gemini-2.5-flash"},
		{"acme", "Own/Model", "acme", "own/model"},
	} {
		if p, m := price.Default().Canonical(test[0], test[1]); p != test[2] || m != test[3] {
			t.Errorf("%q %q: got %q %q", test[0], test[1], p, m)
		}
	}
}

func TestVersionFollowsTheOverrides(t *testing.T) {
	a := history("openai", "gpt-4o", 1, from(noon, map[string]int64{"input_tokens": 1, "output_tokens": 2}))
	b := history("openai", "gpt-4o-mini", 1, from(noon, map[string]int64{"input_tokens": 1}))
	newer := history("openai", "gpt-4o", 2, from(noon, map[string]int64{"input_tokens": 3}))
	base := price.Default().Version()
	if with(t).Version() != base {
		t.Errorf("no overrides give version %s", with(t).Version())
	}
	if with(t, a, b).Version() != with(t, b, a).Version() {
		t.Error("the order of overrides changes the version")
	}
	if with(t, a, b).Version() == with(t, a).Version() || with(t, a).Version() == base || with(t, a).Version() == with(t, newer).Version() {
		t.Error("different overrides have the same version")
	}
	for _, order := range [][]*rateguardv1.PriceHistory{{a, newer}, {newer, a}} {
		c := with(t, order...)
		if c.Version() != with(t, newer).Version() || costAt(t, c, "openai", "gpt-4o", noon) != "0.000003" {
			t.Error("an older version of a history wins")
		}
	}
	again, err := with(t, a).With([]*rateguardv1.PriceHistory{b})
	if err != nil || again.Version() != with(t, b).Version() || costAt(t, again, "openai", "gpt-4o", noon) != "1.875" {
		t.Errorf("overrides stack: %v", err)
	}
}

func TestBadOverridesAreRefusedTogether(t *testing.T) {
	for name, h := range map[string]*rateguardv1.PriceHistory{
		"unknown unit":             history("openai", "gpt-4o", 1, from(noon, map[string]int64{"input_mtok": 1})),
		"negative":                 history("openai", "gpt-4o", 1, from(noon, map[string]int64{"input_tokens": -1})),
		"a part without its total": history("openai", "gpt-4o", 1, from(noon, map[string]int64{"cache_read_tokens": 1})),
		"no price for what is both": history("openai", "gpt-4o", 1,
			from(noon, map[string]int64{"input_tokens": 1, "cache_read_tokens": 1, "input_audio_tokens": 1})),
		"no overlap is registered": history("openai", "gpt-4o", 1,
			from(noon, map[string]int64{"input_tokens": 1, "cache_write_tokens": 1, "input_image_tokens": 1})),
		"no model": history("openai", "", 1, from(noon, map[string]int64{"input_tokens": 1})),
	} {
		good := history("openai", "gpt-4o-mini", 1, from(noon, map[string]int64{"input_tokens": 1}))
		if c, err := price.Default().With([]*rateguardv1.PriceHistory{h, good}); c != nil || !errors.Is(err, price.ErrInvalidOverride) {
			t.Errorf("%s: got %v, %v; want ErrInvalidOverride", name, c, err)
		}
	}
}
