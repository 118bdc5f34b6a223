package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/tests/harness"
)

// A price that becomes known later changes what was charged, once, in every store that keeps sums, in usage and in the request.
func TestAPriceThatIsKnownLaterCorrectsTheCost(t *testing.T) {
	t.Parallel()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	const model = "gpt-4.1-mini" // of no other test: its prices are everybody's
	got := send(t, s, request{
		key: tenant.Key, method: http.MethodPost, path: "/v1/chat/completions",
		body: `{"model":"` + model + `","messages":[{"role":"user","content":"hello"}]}`, header: map[string]string{"Content-Type": "application/json"},
	})
	if got.status != http.StatusOK {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	row := tenant.Request(got.id())
	began := row.Time.Add(-time.Hour).UTC().Truncate(time.Second)
	_, err := s.Admin.PutPrice(t.Context(), "openai", model, []adminclient.PriceOverride{{
		EffectiveFrom: began, Backdated: true, Rates: adminclient.Rates{PerMillion: map[string]string{"input_tokens": "7", "output_tokens": "11"}},
	}})
	if err != nil {
		t.Fatalf("setting a price: %v", err)
	}
	before, after := harness.Nano(t, row.CostUSD), row.InputTokens*7000+row.OutputTokens*11000
	q := adminclient.RepriceQuery{From: began, Workspace: tenant.ID, DryRun: true, Reason: "a late price list"}
	want := adminclient.RepriceCounts{
		Requests: 1, Changed: 1, CostUSD: money.Nano(before).String(), NewCostUSD: money.Nano(after).String(), DifferenceUSD: money.Nano(after - before).String(),
	}
	harness.Eventually(t, harness.VisibleWithin, func() error { // the ledger may be behind the analytics
		dry, err := s.Admin.StartReprice(t.Context(), q)
		if err == nil && dry.RepriceCounts != want {
			err = fmt.Errorf("the dry run says %+v, want %+v", dry.RepriceCounts, want)
		}
		return err
	})
	q.DryRun = false
	run, err := s.Admin.StartReprice(t.Context(), q)
	if err != nil {
		t.Fatalf("starting a reprice: %v", err)
	}
	harness.Eventually(t, 20*time.Second, func() error {
		if run, err = s.Admin.Reprice(t.Context(), run.ID); err == nil && !run.Ended() {
			err = errors.New("it is " + run.State)
		}
		return err
	})
	if run.State != "done" || run.RepriceCounts != want {
		t.Errorf("the run: %+v", run)
	}
	r := reader{t: t, system: s, workspace: tenant.ID}
	harness.Eventually(t, 20*time.Second, func() error {
		if err := errors.Join(r.readPostgres(), r.readSpend()); err != nil {
			return err
		}
		if r.posted != after || r.spend.GetPostedNanoUsd() != after || len(r.ledger[got.id()]) != 2 {
			return fmt.Errorf("balances have %d, the spend table %d, want %d; ledger: %v", r.posted, r.spend.GetPostedNanoUsd(), after, r.ledger)
		}
		return nil
	})
	version := row.PriceVersion + "+override.1.backdated"
	harness.Eventually(t, harness.VisibleWithin, func() error { // the analytics are behind the ledger
		now, err := s.Admin.Request(t.Context(), tenant.ID, got.id())
		if err != nil {
			return err
		}
		usage, err := s.Admin.Usage(t.Context(), tenant.ID, adminclient.UsageQuery{GroupBy: []string{"model"}})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(usage.Data, func(x adminclient.UsageRow) bool { return x.Model == model })
		if !now.Corrected || now.CostUSD == nil || *now.CostUSD != want.NewCostUSD || now.PriceVersion != version || i < 0 || usage.Data[i].CostUSD != want.NewCostUSD {
			return fmt.Errorf("the request is %+v, usage %+v", now, usage.Data)
		}
		return nil
	})
	doc, err := s.Admin.Explain(t.Context(), tenant.ID, got.id())
	if err != nil {
		t.Fatal(err)
	}
	var e adminclient.Explanation
	if err := json.Unmarshal(doc, &e); err != nil {
		t.Fatal(err)
	}
	outcomes := e.Reservations[0].Outcomes
	if len(outcomes) != 2 || outcomes[1].Reason != run.ID+": a late price list" || outcomes[1].PriceVersion != version {
		t.Errorf("outcomes: %+v", outcomes)
	}
	q.DryRun = true
	again, err := s.Admin.StartReprice(t.Context(), q)
	if err != nil || again.Changed != 0 || again.DifferenceUSD != "0" || again.CostUSD != want.NewCostUSD {
		t.Errorf("again: %+v, %v", again, err)
	}
}
