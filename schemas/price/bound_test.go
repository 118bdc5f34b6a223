package price_test

import (
	"errors"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/price"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func find(t testing.TB, provider, model string) price.Price {
	t.Helper()
	p, err := price.Default().Find(price.Query{Provider: provider, Model: model, At: noon})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// prices returns every price of the whole catalogue, at instants on all sides of the conditions.
func prices(t testing.TB) []price.Price {
	t.Helper()
	var list []price.Price
	for _, e := range price.Default().Entries() {
		for _, at := range []time.Time{
			noon, noon.Add(-10 * time.Hour), noon.AddDate(-1, 0, 0), noon.AddDate(-3, 0, 0),
		} {
			p, err := price.Default().Find(price.Query{Provider: e.Provider, Model: e.Model, At: at})
			if err == nil {
				list = append(list, p)
			} else if !errors.Is(err, price.ErrUnknownModel) {
				t.Fatal(err)
			}
		}
	}
	return list
}

func count(t *rapid.T, name string, most int64) int64 {
	if most <= 0 {
		return 0
	}
	return rapid.OneOf(rapid.Just(most), rapid.Just(int64(0)), rapid.Int64Range(0, most)).Draw(t, name)
}

func drawDeclared(t *rapid.T) price.Declared {
	tokens := rapid.OneOf(rapid.Int64Range(0, 2_000_000), rapid.SampledFrom([]int64{
		0, 1, 31_999, 32_000, 32_001, 127_999, 128_000, 128_001, 199_999, 200_000, 200_001, 256_000, 256_001, 271_999, 272_000, 272_001,
	}))
	flag := func(name string) bool { return rapid.Bool().Draw(t, name) }
	few := rapid.Int64Range(0, 50)
	return price.Declared{
		InputTokens: tokens.Draw(t, "input"), HiddenInput: flag("hidden"),
		MaxOutputTokens: tokens.Draw(t, "max output"), ExtraOutputTokens: rapid.OneOf(rapid.Just(int64(0)), tokens).Draw(t, "extra output"), N: rapid.Int64Range(0, 4).Draw(t, "n"),
		TextOnlyInput: flag("text in"), TextOnlyOutput: flag("text out"),
		NoCacheWrite: flag("no write"), NoCacheWrite1h: flag("no 1h write"),
		Requests: rapid.Int64Range(0, 3).Draw(t, "requests"), WebSearches: rapid.OneOf(rapid.Just(int64(0)), few).Draw(t, "web"), StorageSearches: few.Draw(t, "storage"),
		AudioMilliseconds: rapid.Int64Range(0, 10_000_000).Draw(t, "audio"),
		DocumentPages:     few.Draw(t, "pages"), TextMessages: few.Draw(t, "messages"),
	}
}

// drawUsage draws a usage that keeps to the declaration and to itself. Where nothing is declared, the context window holds.
func drawUsage(t *rapid.T, p price.Price, d price.Declared) price.Usage {
	most := d.InputTokens
	if d.HiddenInput {
		most = max(most, p.ContextWindow())
	}
	each := d.MaxOutputTokens
	if each == 0 {
		each = p.ContextWindow()
	}
	var u price.Usage
	u.InputTokens = count(t, "input tokens", most)
	u.OutputTokens = count(t, "output tokens", each*max(d.N, 1)+d.ExtraOutputTokens)

	// Audio, image and video share the input; so do reads and writes of the cache. The overlap of both is drawn so
	// that what is left of each stays positive.
	media := count(t, "media", u.InputTokens)
	cached := count(t, "cached", u.InputTokens-media)
	if d.TextOnlyInput {
		media = 0
	}
	u.InputAudioTokens = count(t, "audio", media)
	u.InputImageTokens = count(t, "image", media-u.InputAudioTokens)
	u.InputVideoTokens = media - u.InputAudioTokens - u.InputImageTokens
	u.CacheAudioReadTokens = count(t, "cached audio", u.InputAudioTokens)
	u.CacheImageReadTokens = count(t, "cached image", u.InputImageTokens)
	if !d.NoCacheWrite {
		u.CacheWriteTokens = count(t, "written", cached)
		if !d.NoCacheWrite1h {
			u.CacheWrite1hTokens = count(t, "written 1h", u.CacheWriteTokens)
		}
	}
	u.CacheReadTokens = cached - u.CacheWriteTokens + u.CacheAudioReadTokens + u.CacheImageReadTokens

	rest := u.OutputTokens
	take := func(name string) int64 {
		n := count(t, name, rest)
		rest -= n
		return n
	}
	u.ReasoningTokens, u.CitationTokens = take("reasoning"), take("citations")
	if !d.TextOnlyOutput {
		u.OutputAudioTokens, u.OutputImageTokens, u.OutputVideoTokens = take("audio out"), take("image out"), take("video out")
	}
	u.AudioMilliseconds = count(t, "audio ms", d.AudioMilliseconds)
	u.Requests = count(t, "requests used", max(d.Requests, 1))
	u.WebSearches, u.StorageSearches = count(t, "web used", d.WebSearches), count(t, "storage used", d.StorageSearches)
	u.DocumentPages = count(t, "pages used", d.DocumentPages)
	u.AnnotatedDocumentPages = count(t, "annotated", u.DocumentPages)
	u.TextMessages = count(t, "messages used", d.TextMessages)
	return u
}

func TestBoundHoldsForTheWholeCatalogue(t *testing.T) {
	all := prices(t)
	bounded := 0
	rapid.Check(t, func(t *rapid.T) {
		d := drawDeclared(t)
		// A usage is drawn for one model; every other model with the same or a larger window must bound it too.
		u := drawUsage(t, rapid.SampledFrom(all).Draw(t, "model"), d)
		for _, p := range all {
			if !keeps(p, d, u) {
				continue
			}
			bound, err := p.Bound(d)
			if errors.Is(err, price.ErrUnbounded) {
				continue
			}
			cost, costErr := p.Cost(u)
			if err != nil || costErr != nil {
				t.Fatalf("%s %s: bound %v, cost %v", p.Provider(), p.Model(), err, costErr)
			}
			bounded++
			if cost > bound {
				t.Fatalf("%s %s costs %s, bound %s; %+v for %+v", p.Provider(), p.Model(), cost, bound, u, d)
			}
		}
	})
	if bounded < 10_000 {
		t.Errorf("only %d bounds were compared", bounded)
	}
}

// keeps reports whether a usage drawn for another model's window keeps to the declaration here as well.
func keeps(p price.Price, d price.Declared, u price.Usage) bool {
	most := d.InputTokens
	if d.HiddenInput {
		most = max(most, p.ContextWindow())
	}
	each := d.MaxOutputTokens
	if each == 0 {
		each = p.ContextWindow()
	}
	return u.InputTokens <= most && (u.OutputTokens <= each*max(d.N, 1)+d.ExtraOutputTokens || each == 0)
}

func TestBound(t *testing.T) {
	for _, c := range []struct {
		name, provider, model string
		declared              price.Declared
		want                  string
		err                   error
	}{
		{"input and output", "openai", "gpt-4o", price.Declared{InputTokens: 1000, MaxOutputTokens: 100}, "0.0035", nil},
		{"choices multiply the output", "openai", "gpt-4o", price.Declared{InputTokens: 1000, MaxOutputTokens: 100, N: 3}, "0.0055", nil},
		{"no maximum: the context window", "openai", "gpt-4o", price.Declared{InputTokens: 1000}, "1.2825", nil},
		{"hidden input: the context window", "openai", "gpt-4o", price.Declared{InputTokens: 1, HiddenInput: true, MaxOutputTokens: 100}, "0.321", nil},
		{
			"cache writes of an hour are the dearest input", "anthropic", "claude-sonnet-4-5",
			price.Declared{InputTokens: 1000, MaxOutputTokens: 1},
			"0.006015", nil,
		},
		{
			"only short cache writes", "anthropic", "claude-sonnet-4-5",
			price.Declared{InputTokens: 1000, MaxOutputTokens: 1, NoCacheWrite1h: true},
			"0.003765", nil,
		},
		{
			"no cache writes", "anthropic", "claude-sonnet-4-5",
			price.Declared{InputTokens: 1000, MaxOutputTokens: 1, NoCacheWrite: true},
			"0.003015", nil,
		},
		{
			"searches", "anthropic", "claude-sonnet-4-5",
			price.Declared{InputTokens: 1000, MaxOutputTokens: 1, NoCacheWrite: true, WebSearches: 5},
			"0.053015", nil,
		},
		{
			"searches without limit", "anthropic", "claude-sonnet-4-5",
			price.Declared{InputTokens: 1000, MaxOutputTokens: 1, WebSearches: price.Unknown},
			"0", price.ErrUnbounded,
		},
		{
			"searches that have no price", "groq", "llama-3.3-70b-versatile",
			price.Declared{InputTokens: 1000, MaxOutputTokens: 1000, WebSearches: 1},
			"0", price.ErrUnbounded,
		},
		{"searches of a model that is free", "openai", "omni-moderation-latest", price.Declared{WebSearches: price.Unknown}, "0", price.ErrUnbounded},
		{"searches that the price of the request has", "perplexity", "sonar", price.Declared{MaxOutputTokens: 1, WebSearches: price.Unknown}, "0.012001", nil},
		{"output beside the maximum", "openai", "gpt-4o", price.Declared{MaxOutputTokens: 100, N: 2, ExtraOutputTokens: 50}, "0.0025", nil},
		{"extra output overflows", "openai", "gpt-4o", price.Declared{MaxOutputTokens: math.MaxInt64, ExtraOutputTokens: math.MaxInt64}, "0", money.ErrOverflow},
		{"negative extra output", "openai", "gpt-4o", price.Declared{ExtraOutputTokens: -1}, "0", price.ErrInvalidDeclaration},
		{"requests", "perplexity", "sonar", price.Declared{MaxOutputTokens: 1}, "0.012001", nil},
		{"embeddings have no output", "openai", "text-embedding-3-small", price.Declared{InputTokens: 1000}, "0.00002", nil},
		{"rounds up", "openai", "text-embedding-3-small", price.Declared{InputTokens: 1}, "0.00000002", nil},
		{"audio without length", "openai", "whisper-1", price.Declared{InputTokens: 1000}, "0", price.ErrUnbounded},
		{"audio of unknown length", "openai", "whisper-1", price.Declared{AudioMilliseconds: price.Unknown}, "0", price.ErrUnbounded},
		{"audio", "openai", "whisper-1", price.Declared{AudioMilliseconds: 1000}, "0.0001", nil},
		{"least billed audio", "groq", "whisper-large-v3", price.Declared{AudioMilliseconds: 1}, "0.000308334", nil},
		{"pages not declared", "mistral", "mistral-ocr-latest", price.Declared{InputTokens: 1000}, "0", price.ErrUnbounded},
		{"neither window nor maximum", "google", "gemini-2.5-pro", price.Declared{InputTokens: 1}, "0", price.ErrUnbounded},
		{"neither window nor input", "google", "gemini-2.5-pro", price.Declared{HiddenInput: true, MaxOutputTokens: 1}, "0", price.ErrUnbounded},
		{"free", "openai", "omni-moderation-latest", price.Declared{HiddenInput: true}, "0", nil},
		{"negative input", "openai", "gpt-4o", price.Declared{InputTokens: -1}, "0", price.ErrInvalidDeclaration},
		{"negative choices", "openai", "gpt-4o", price.Declared{N: -1}, "0", price.ErrInvalidDeclaration},
		{"negative searches", "openai", "gpt-4o", price.Declared{WebSearches: -2}, "0", price.ErrInvalidDeclaration},
		{"product overflows", "openai", "gpt-4o", price.Declared{MaxOutputTokens: math.MaxInt64, N: 2}, "0", money.ErrOverflow},
		{"sum overflows", "openai", "gpt-4o", price.Declared{MaxOutputTokens: math.MaxInt64}, "0", money.ErrOverflow},
	} {
		got, err := find(t, c.provider, c.model).Bound(c.declared)
		if got.String() != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %s, %v; want %s, %v", c.name, got, err, c.want, c.err)
		}
	}
}
