package price_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/schemas/price"
)

func TestVersionNamesTheSource(t *testing.T) {
	if got, want := price.Default().Version(), "genai-prices-0.1.8+91a9f7d8"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLicenceOfTheDataIsShipped(t *testing.T) {
	if got := price.Notice(); !strings.Contains(got, "MIT License") || !strings.Contains(got, "Copyright (c) Pydantic") {
		t.Errorf("got %q", got)
	}
}

func TestProviderFor(t *testing.T) {
	for _, c := range []struct{ dialect, url, want string }{
		{"openai", "https://api.openai.com", "openai"},
		{"openai", "https://api.deepseek.com/v1", "deepseek"},
		{"openai", "https://openrouter.ai/api", "openrouter"},
		{"openai", "https://api.groq.com/openai", "groq"},
		{"openai", "https://acme.openai.azure.com/openai/deployments/x", "azure"},
		{"openai", "https://api.x.ai", "x-ai"},
		{"anthropic", "https://api.anthropic.com", "anthropic"},
		{"anthropic", "https://bedrock-runtime.us-east-1.amazonaws.com", "aws"},
		{"gemini", "https://generativelanguage.googleapis.com", "google"},
		{"http", "https://api.cohere.com", "cohere"},
		{"openai", "http://127.0.0.1:8090", "openai"},
		{"anthropic", "http://127.0.0.1:8090", "anthropic"},
		{"gemini", "http://127.0.0.1:8090", "google"},
		{"http", "http://127.0.0.1:8090", ""},
		{"openai", "http://127.0.0.1/?https://api.groq.com", "openai"},
		{"http", "", ""},
	} {
		if got := price.ProviderFor(c.dialect, c.url); got != c.want {
			t.Errorf("ProviderFor(%q, %q) = %q, want %q", c.dialect, c.url, got, c.want)
		}
	}
}

func TestUnknownModelIsATypedError(t *testing.T) {
	for range 2 { // the second answer comes from the cache
		_, err := price.Default().Find(price.Query{Provider: "openai", Model: "gpt-99-imaginary", At: noon})
		var unknown *price.UnknownModelError
		if !errors.As(err, &unknown) || !errors.Is(err, price.ErrUnknownModel) {
			t.Fatalf("got %v, want *UnknownModelError", err)
		}
		if want := (&price.UnknownModelError{Provider: "openai", Model: "gpt-99-imaginary"}); !cmp.Equal(unknown, want) {
			t.Errorf("got %+v, want %+v", unknown, want)
		}
	}
}

func TestQueryWithoutInstantIsRefused(t *testing.T) {
	if _, err := price.Default().Find(price.Query{Provider: "openai", Model: "gpt-4o"}); !errors.Is(err, price.ErrNoInstant) {
		t.Errorf("got %v, want ErrNoInstant", err)
	}
}

func TestPriceTellsWhatItIs(t *testing.T) {
	p := find(t, "openai", "GPT-4o-2024-08-06")
	got := []string{p.Provider(), p.Model(), p.Version(), fmt.Sprint(p.ContextWindow())}
	if want := []string{"openai", "gpt-4o", price.Default().Version(), "128000"}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	rates := []price.Rate{
		{Unit: "cache_read_tokens", PicoUSD: 1_250_000},
		{Unit: "input_tokens", PicoUSD: 2_500_000},
		{Unit: "output_tokens", PicoUSD: 10_000_000},
		{Unit: "web_searches", PicoUSD: 10_000_000_000},
		{Unit: "storage_searches", PicoUSD: 2_500_000_000},
	}
	if diff := cmp.Diff(rates, p.Rates()); diff != "" {
		t.Errorf("rates (-want +got):\n%s", diff)
	}
}

func TestTiersAreShown(t *testing.T) {
	want := price.Rate{Unit: "input_tokens", PicoUSD: 3_000_000, Tiers: []price.Tier{{AboveInputTokens: 200_000, PicoUSD: 6_000_000}}}
	for _, r := range find(t, "anthropic", "claude-sonnet-4-5").Rates() {
		if r.Unit == want.Unit {
			if diff := cmp.Diff(want, r); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
}

// Names come from clients: a flood of them must neither grow the cache for ever nor push wrong answers out of it.
func TestFloodOfNames(t *testing.T) {
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5_000 {
				name := fmt.Sprintf("junk-%d-%d", g, i)
				if _, err := price.Default().Find(price.Query{Provider: "openai", Model: name, At: noon}); !errors.Is(err, price.ErrUnknownModel) {
					t.Errorf("%s: %v", name, err)
				}
				p, err := price.Default().Find(price.Query{Provider: "openai", Model: "gpt-4o-mini", At: noon})
				if err != nil || p.Model() != "gpt-4o-mini" {
					t.Errorf("got %s, %v", p.Model(), err)
				}
			}
		})
	}
	wg.Wait()
	long := strings.Repeat("x", 1<<20)
	if _, err := price.Default().Find(price.Query{Provider: "openai", Model: long, At: noon}); !errors.Is(err, price.ErrUnknownModel) {
		t.Error(err)
	}
}

func TestRepeatedFindDoesNotAllocate(t *testing.T) {
	q := price.Query{Provider: "openrouter", Model: "z-ai/glm-4.5", At: noon}
	if n := testing.AllocsPerRun(1000, func() {
		p, err := price.Default().Find(q)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Cost(price.Usage{InputTokens: 1000, OutputTokens: 100}); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Bound(price.Declared{InputTokens: 1000, MaxOutputTokens: 100}); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFind(b *testing.B) {
	q := price.Query{Provider: "openai", Model: "gpt-4o-mini", At: time.Unix(1_800_000_000, 0)}
	for b.Loop() {
		if _, err := price.Default().Find(q); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFindUnknown(b *testing.B) {
	names := make([]string, 100_000)
	for i := range names {
		names[i] = fmt.Sprintf("junk-%d", i)
	}
	i := 0
	for b.Loop() {
		i++
		_, _ = price.Default().Find(price.Query{Provider: "openrouter", Model: names[i%len(names)], At: noon})
	}
}

func BenchmarkCost(b *testing.B) {
	p := find(b, "anthropic", "claude-sonnet-4-5")
	u := price.Usage{InputTokens: 12_345, CacheReadTokens: 10_000, CacheWriteTokens: 1_000, OutputTokens: 678}
	for b.Loop() {
		if _, err := p.Cost(u); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBound(b *testing.B) {
	p := find(b, "anthropic", "claude-sonnet-4-5")
	d := price.Declared{InputTokens: 12_345, MaxOutputTokens: 678}
	for b.Loop() {
		if _, err := p.Bound(d); err != nil {
			b.Fatal(err)
		}
	}
}
