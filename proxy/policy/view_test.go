package policy_test

import (
	"crypto/sha256"
	"log/slog"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
	"github.com/rateguard/rateguard/topics"
)

func newView() *policy.View {
	return policy.NewView([32]byte{1}, slog.New(slog.DiscardHandler))
}

func encode(tb testing.TB, e *rateguardv1.Event) []byte {
	tb.Helper()
	b, err := envelope.Encode(e)
	if err != nil {
		tb.Fatalf("encoding: %v", err)
	}
	return b
}

// keyRecord is a version of key_1 whose secret is text.
func keyRecord(tb testing.TB, version uint64, text string) []byte {
	tb.Helper()
	sum := sha256.Sum256([]byte(text))
	return encode(tb, &rateguardv1.Event{Body: &rateguardv1.Event_KeyRecord{KeyRecord: &rateguardv1.KeyRecord{
		KeyId: "key_1", WorkspaceId: "ws_1", Sha256: sum[:], Version: version,
	}}})
}

func policyRecord(tb testing.TB, version uint64) []byte {
	tb.Helper()
	return encode(tb, &rateguardv1.Event{Body: &rateguardv1.Event_WorkspacePolicy{WorkspacePolicy: &rateguardv1.WorkspacePolicy{
		WorkspaceId: "ws_1", Version: version,
	}}})
}

// A relay that was slow, or ran twice, must not bring an old policy back; a record that cannot be read changes nothing.
func TestTheLargerVersionStays(t *testing.T) {
	one, two := policyRecord(t, 1), policyRecord(t, 2)
	for name, test := range map[string]struct {
		records [][]byte
		want    uint64 // 0: no workspace
		changed []bool
		failed  int
	}{
		"in order":                {[][]byte{one, two}, 2, []bool{true, true}, 0},
		"late":                    {[][]byte{two, one}, 2, []bool{true, false}, 0},
		"twice":                   {[][]byte{two, two}, 2, []bool{true, false}, 0},
		"deleted":                 {[][]byte{two, nil}, 0, []bool{true, true}, 0},
		"deleted and made again":  {[][]byte{two, nil, one}, 1, []bool{true, true, true}, 0},
		"deleted, never there":    {[][]byte{nil}, 0, []bool{false}, 0},
		"one that cannot be read": {[][]byte{one, {0xff}, two}, 2, []bool{true, false, true}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			v := newView()
			failed := 0
			for i, b := range test.records {
				changed, err := v.Apply(topics.Policies.Name, "ws_1", b, 1)
				if err != nil {
					failed++
				}
				if changed != test.changed[i] {
					t.Errorf("record %d: changed is %v, want %v", i, changed, test.changed[i])
				}
			}
			var got uint64
			if w := v.Workspace("ws_1"); w != nil {
				got = w.Version
			}
			if got != test.want || failed != test.failed {
				t.Errorf("got version %d with %d failures, want %d with %d", got, failed, test.want, test.failed)
			}
		})
	}
}

func TestAKeyIsFoundByItsSecretOfNow(t *testing.T) {
	v := newView()
	known := func(text string) bool { return v.Key(sha256.Sum256([]byte(text))) != nil }
	step := func(b []byte, before, after bool) {
		t.Helper()
		if _, err := v.Apply(topics.Keys.Name, "key_1", b, 1); err != nil {
			t.Fatalf("applying: %v", err)
		}
		if known("before") != before || known("after") != after {
			t.Errorf("known: before %v, after %v; want %v, %v", known("before"), known("after"), before, after)
		}
	}
	step(keyRecord(t, 1, "before"), true, false)
	step(keyRecord(t, 2, "after"), false, true)
	step(keyRecord(t, 1, "before"), false, true)
	step(nil, false, false)
}

// An override that is not valid is left out and takes no other with it; a deleted one gives the catalogue's price back.
func TestPriceOverrides(t *testing.T) {
	v := newView()
	apply := func(model string, pico map[string]int64) {
		t.Helper()
		var b []byte
		if pico != nil {
			b = encode(t, &rateguardv1.Event{Body: &rateguardv1.Event_PriceHistory{PriceHistory: &rateguardv1.PriceHistory{
				Provider: "openai", Model: model, Version: 1,
				Overrides: []*rateguardv1.PriceOverride{{EffectiveFromUnixUs: 1, PicoUsd: pico}},
			}}})
		}
		if _, err := v.Apply(topics.Prices.Name, "openai/"+model, b, 1); err != nil {
			t.Fatalf("applying: %v", err)
		}
	}
	costs := func(want map[string]string) {
		t.Helper()
		for model, usd := range want {
			p, err := v.Prices().Find(price.Query{Provider: "openai", Model: model, At: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)})
			if err != nil {
				t.Fatalf("%s: %v", model, err)
			}
			if cost, err := p.Cost(price.Usage{InputTokens: 1_000_000}); err != nil || cost.String() != usd {
				t.Errorf("%s: got %s, %v; want %s", model, cost, err, usd)
			}
		}
	}
	costs(map[string]string{"gpt-4o": "2.5", "gpt-4o-mini": "0.15"})
	apply("gpt-4o", map[string]int64{"input_tokens": 4_000_000})
	apply("gpt-4o-mini", map[string]int64{"no_such_unit": 1})
	costs(map[string]string{"gpt-4o": "4", "gpt-4o-mini": "0.15"})
	apply("gpt-4o", nil)
	costs(map[string]string{"gpt-4o": "2.5", "gpt-4o-mini": "0.15"})
}
