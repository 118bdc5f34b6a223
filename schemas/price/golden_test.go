package price_test

import (
	"encoding/json"
	"errors"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
)

// vector is one answer of the independent calculator; testdata/golden.py writes them.
type vector struct {
	Name     string          `json:"name"`
	Provider string          `json:"provider"`
	Model    string          `json:"model"`
	At       time.Time       `json:"at"`
	Usage    json.RawMessage `json:"usage"`
	Error    string          `json:"error"`
	Matched  string          `json:"matched"`
	Nano     int64           `json:"nano_usd"`
}

func readUsage(t *testing.T, raw json.RawMessage) price.Usage {
	t.Helper()
	var u rateguardv1.Usage
	if err := (protojson.UnmarshalOptions{}).Unmarshal(raw, &u); err != nil {
		t.Fatalf("reading usage %s: %v", raw, err)
	}
	return price.UsageFromProto(&u)
}

func readJSON(t *testing.T, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func TestCostEqualsIndependentCalculator(t *testing.T) {
	var vectors []vector
	readJSON(t, "testdata/golden.json", &vectors)
	priced, providers := 0, map[string]bool{}
	for _, v := range vectors {
		p, err := price.Default().Find(price.Query{Provider: v.Provider, Model: v.Model, At: v.At})
		if v.Error == "unknown_model" {
			if !errors.Is(err, price.ErrUnknownModel) {
				t.Errorf("%s: got %v, want ErrUnknownModel", v.Name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		cost, err := p.Cost(readUsage(t, v.Usage))
		if v.Error == "invalid_usage" {
			if !errors.Is(err, price.ErrInvalidUsage) {
				t.Errorf("%s: got %v, want ErrInvalidUsage", v.Name, err)
			}
			continue
		}
		if err != nil || int64(cost) != v.Nano || p.Model() != v.Matched {
			t.Errorf("%s: got %d of %s (%v), want %d of %s", v.Name, cost, p.Model(), err, v.Nano, v.Matched)
		}
		priced++
		providers[p.Provider()] = true
	}
	if priced < 400 || len(providers) < 40 {
		t.Errorf("%d vectors over %d providers were priced, want at least 400 over 40", priced, len(providers))
	}
}

// refused are the models whose source prices are no whole number of pico-USD. A longer list is a worse catalogue.
var refused = map[[2]string]bool{
	{"huggingface_together", "Qwen/Qwen3-VL-8B-Instruct"}: true,
	{"openrouter", "google/gemini-2.5-flash-image"}:       true,
	{"openrouter", "google/gemini-2.5-flash-lite"}:        true,
	{"openrouter", "google/gemini-3-flash-preview"}:       true,
	{"openrouter", "google/gemini-3.1-flash-lite"}:        true,
	{"openrouter", "google/gemini-3.5-flash"}:             true,
	{"openrouter", "~google/gemini-flash-latest"}:         true,
}

func TestEveryModelCostsWhatTheIndependentCalculatorSays(t *testing.T) {
	var sweep struct {
		Head struct {
			At    time.Time       `json:"at"`
			Usage json.RawMessage `json:"usage"`
		} `json:"head"`
		Models [][4]any `json:"models"`
	}
	readJSON(t, "testdata/sweep.json", &sweep)
	usage := readUsage(t, sweep.Head.Usage)
	seenRefused := 0
	for _, m := range sweep.Models {
		provider, id, matched, nano := m[0].(string), m[1].(string), m[2].(string), int64(m[3].(float64))
		p, err := price.Default().Find(price.Query{Provider: provider, Model: id, At: sweep.Head.At})
		if refused[[2]string{provider, matched}] {
			seenRefused++
			var unknown *price.UnknownModelError
			if !errors.As(err, &unknown) || unknown.Reason == "" {
				t.Errorf("%s %s: got %v, want a refusal with its reason", provider, id, err)
			}
			continue
		}
		if matched == "" {
			if !errors.Is(err, price.ErrUnknownModel) {
				t.Errorf("%s %s: got %v, want ErrUnknownModel", provider, id, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", provider, id, err)
			continue
		}
		cost, err := p.Cost(usage)
		if err != nil || int64(cost) != nano || p.Model() != matched {
			t.Errorf("%s %s: got %d of %s (%v), want %d of %s", provider, id, cost, p.Model(), err, nano, matched)
		}
	}
	if len(sweep.Models) != len(price.Default().Entries()) || seenRefused < len(refused) {
		t.Errorf("swept %d models and %d refused ones, want %d and %d",
			len(sweep.Models), seenRefused, len(price.Default().Entries()), len(refused))
	}
	for _, e := range price.Default().Entries() {
		if (e.Refused != "") != refused[[2]string{e.Provider, e.Model}] {
			t.Errorf("%s %s: refused %q is not as listed", e.Provider, e.Model, e.Refused)
		}
	}
}
