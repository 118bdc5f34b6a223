package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/schemas/price/internal/catalogue"
)

const (
	sourceFile = "../../source/genai-prices-0.1.8.json"
	sourceSum  = "91a9f7d8b0186e09e8fb05d76b882c464970a6d5ee12cb33c96bea078a37eea2"
)

func generate(t *testing.T, source, sum string) (string, error) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "catalogue.json")
	err := run([]string{"-source", source, "-sha256", sum, "-version", "genai-prices-0.1.8", "-out", out}, io.Discard)
	b, _ := os.ReadFile(out)
	return string(b), err
}

func TestCommittedCatalogueIsWhatTheGeneratorWrites(t *testing.T) {
	got, err := generate(t, sourceFile, sourceSum)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("../../catalogue.json")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Error("catalogue.json is not up to date: run go generate ./price")
	}
}

func TestOtherSourceIsRefused(t *testing.T) {
	changed := filepath.Join(t.TempDir(), "source.json")
	b, err := os.ReadFile(sourceFile)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(changed, append(b, ' '), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := generate(t, changed, sourceSum); err == nil || out != "" {
		t.Errorf("a changed source gave %d bytes, %v", len(out), err)
	}
}

func fromText(t *testing.T, text string) (string, error) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "source.json")
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(text))
	return generate(t, source, hex.EncodeToString(sum[:]))
}

func provider(model string) string {
	return `[{"id":"p","api_pattern":"https://p","models":[` + model + `]}]`
}

func TestInexactPriceMakesTheModelUnpriced(t *testing.T) {
	for _, prices := range []string{
		`{"input_mtok":0.0000001}`,
		`{"input_mtok":1,"output_mtok":1.0000000000000002}`,
		`{"input_mtok":{"base":1,"tiers":[{"start":5,"price":1e-7}]}}`,
		`{"requests_kcount":1e-10}`,
		`{"audio_hours":1e-13}`,
		`[{"prices":{"input_mtok":1}},{"constraint":{"type":"start_date","start_date":"2026-01-01"},"prices":{"input_mtok":1e-7}}]`,
	} {
		out, err := fromText(t, provider(`{"id":"m","match":{"equals":"m"},"prices":`+prices+`}`))
		if err != nil {
			t.Errorf("%s: %v", prices, err)
			continue
		}
		var f catalogue.File
		if err := json.Unmarshal([]byte(out), &f); err != nil {
			t.Fatal(err)
		}
		if m := f.Providers[0].Models[0]; m.Refused == "" || m.Prices != nil {
			t.Errorf("%s became %+v", prices, m)
		}
	}
}

func TestConversionIsExact(t *testing.T) {
	out, err := fromText(t, provider(`{"id":"m","match":{"or":[{"equals":"M"},{"regex":"^(?!a(?:b|[)]))c$"}]},"context_window":7,"prices":[
		{"prices":{"input_mtok":{"base":0.15,"tiers":[{"start":10,"price":2.5e-1}]},"output_mtok":0.000001}},
		{"constraint":{"type":"time_of_date","start_time":"23:00:00Z","end_time":"01:30:00Z"},"prices":{"requests_kcount":12}},
		{"constraint":{"type":"start_date","start_date":"2026-03-13"},"prices":{"audio_hours":0.111}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"id":"m","match":{"or":[{"eq":"m"},{"and":[{"not":{"re":"^(?:a(?:b|[)]))"}},{"re":"^(?:c$)"}]}]},"context":7,` +
		`"prices":[{"rates":{"input_tokens":[150000,10,250000],"output_tokens":[1]}},` +
		`{"daily":["23:00:00","01:30:00"],"rates":{"requests":[12000000000]}},` +
		`{"from":"2026-03-13","rates":{"audio_hours":[111000000000]}}]}`
	if !strings.Contains(out, want) {
		t.Errorf("got %s\nwant %s", out, want)
	}
}

func TestUnknownThingsAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"price key":    provider(`{"id":"m","match":{"equals":"m"},"prices":{"input_furlongs":1}}`),
		"constraint":   provider(`{"id":"m","match":{"equals":"m"},"prices":[{"constraint":{"type":"moon"},"prices":{}}]}`),
		"field":        provider(`{"id":"m","match":{"equals":"m"},"discount":0.5,"prices":{}}`),
		"tier field":   provider(`{"id":"m","match":{"equals":"m"},"prices":{"input_mtok":{"base":1,"tiers":[],"upto":5}}}`),
		"negative":     provider(`{"id":"m","match":{"equals":"m"},"prices":{"input_mtok":-1}}`),
		"too large":    provider(`{"id":"m","match":{"equals":"m"},"prices":{"input_mtok":1e15}}`),
		"tier order":   provider(`{"id":"m","match":{"equals":"m"},"prices":{"input_mtok":{"base":1,"tiers":[{"start":5,"price":1},{"start":5,"price":2}]}}}`),
		"local time":   provider(`{"id":"m","match":{"equals":"m"},"prices":[{"constraint":{"type":"time_of_date","start_time":"01:00:00","end_time":"02:00:00"},"prices":{}}]}`),
		"clause":       provider(`{"id":"m","match":{"sounds_like":"m"},"prices":{}}`),
		"two clauses":  provider(`{"id":"m","match":{"equals":"m","contains":"n"},"prices":{}}`),
		"look-behind":  provider(`{"id":"m","match":{"regex":"(?<=a)b"},"prices":{}}`),
		"open group":   provider(`{"id":"m","match":{"regex":"^(?!a"},"prices":{}}`),
		"no prices":    provider(`{"id":"m","match":{"equals":"m"},"prices":[]}`),
		"no JSON":      `[`,
		"API pattern":  `[{"id":"p","api_pattern":"(","models":[]}]`,
		"whisper rule": `[{"id":"p","api_pattern":"x","fallback_model_providers":["groq"],"models":[]}]`,
	} {
		if out, err := fromText(t, text); err == nil {
			t.Errorf("%s: accepted as %s", name, out)
		}
	}
}
