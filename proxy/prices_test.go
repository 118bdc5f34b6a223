package proxy_test

import (
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/policy"
	"github.com/rateguard/rateguard/proxy/quote"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/price"
	"github.com/rateguard/rateguard/topics"
)

// TestPublishedPricesActFromTheirInstant takes prices as the topic brings them: each call is quoted by the one of its start, and its
// price version says which it was.
func TestPublishedPricesActFromTheirInstant(t *testing.T) {
	view := policy.NewView([32]byte{}, slog.New(slog.DiscardHandler))
	q := quote.New(view, prometheus.NewRegistry(), call.HandlerFunc(func(*call.Call) error { return nil }))
	noon := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	publish := func(version uint64, overrides ...*rateguardv1.PriceOverride) {
		t.Helper()
		b, err := envelope.Encode(&rateguardv1.Event{Id: "x", Body: &rateguardv1.Event_PriceHistory{PriceHistory: &rateguardv1.PriceHistory{
			Provider: "openai", Model: "gpt-4o", Version: version, Overrides: overrides,
		}}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := view.Apply(topics.Prices.Name, "openai/gpt-4o", b, 1); err != nil {
			t.Fatal(err)
		}
	}
	quoted := func(at time.Time) string {
		t.Helper()
		c := &call.Call{
			Request: httptest.NewRequestWithContext(t.Context(), "POST", "/v1/chat/completions", nil), Start: at,
			Workspace: &call.Workspace{}, Route: &call.Route{Dialect: call.OpenAI, Provider: "openai"}, Asked: call.Asked{Model: "gpt-4o"},
		}
		if err := q.Serve(c); err != nil {
			t.Fatal(err)
		}
		cost, err := c.Quote.Price.Cost(price.Usage{InputTokens: 1_000_000})
		if err != nil {
			t.Fatal(err)
		}
		return cost.String() + " " + c.Quote.PriceVersion
	}
	want := func(what string, at time.Time, text string) {
		t.Helper()
		if got := quoted(at); got != text {
			t.Errorf("%s: got %s, want %s", what, got, text)
		}
	}
	base := price.Default().Version()
	one, two := map[string]int64{"input_tokens": 1_000_000}, map[string]int64{"input_tokens": 2_000_000}
	at := func(t time.Time, pico map[string]int64, backdated bool) *rateguardv1.PriceOverride {
		return &rateguardv1.PriceOverride{EffectiveFromUnixUs: t.UnixMicro(), PicoUsd: pico, Backdated: backdated}
	}
	want("nothing published", noon, "2.5 "+base)
	publish(1, at(noon, one, false))
	want("published, not in force", noon.Add(-time.Microsecond), "2.5 "+base)
	want("in force", noon, "1 "+base+"+override.1")
	publish(2, at(noon, one, false), at(noon.Add(time.Hour), two, false), at(noon.Add(time.Minute), two, true))
	want("a backdated one is not charged", noon.Add(2*time.Minute), "1 "+base+"+override.2")
	want("the next one", noon.Add(time.Hour), "2 "+base+"+override.2")
	publish(1, at(noon, two, false))
	want("an older version comes late", noon, "1 "+base+"+override.2")
}
