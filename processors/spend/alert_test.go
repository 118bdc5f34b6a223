package spend_test

import (
	"maps"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/processors/spend"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

var november = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// settled is an end of 8.25 USD under a hard budget of 10 USD with the thresholds.
func settled(change func(o *rateguardv1.Outcome, h *rateguardv1.Hold), thresholds ...uint32) *rateguardv1.Event {
	h := &rateguardv1.Hold{
		BudgetId: "monthly", BudgetGeneration: 3, PeriodStartUnixUs: november.UnixMicro(), AmountNanoUsd: 8_250_000_000,
		LimitNanoUsd: 10_000_000_000, AlertPermille: thresholds, Hard: true,
	}
	o := &rateguardv1.Outcome{CostNanoUsd: proto.Int64(8_250_000_000), Holds: []*rateguardv1.Hold{h}}
	change(o, h)
	return &rateguardv1.Event{
		ProducerId: "p", Sequence: 1, OccurredAtUnixUs: november.Add(time.Hour).UnixMicro(),
		Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: o}},
	}
}

func TestWhatAnAlertSays(t *testing.T) {
	labels := func(more map[string]string) map[string]string {
		all := map[string]string{
			"budget": "monthly", "generation": "3", "balance": "", "period_start": "2026-11-01T00:00:00Z", "limit_usd": "10", "posted_usd": "8.25",
		}
		maps.Copy(all, more)
		return all
	}
	asIs := func(*rateguardv1.Outcome, *rateguardv1.Hold) {}
	for name, test := range map[string]struct {
		event                 *rateguardv1.Event
		kind, severity, title string
		labels                map[string]string
	}{
		"half": {
			settled(asIs, 500), "budget_threshold", "info", "Budget monthly has reached 50% of its limit: 8.25 of 10 USD spent in the period from 2026-11-01T00:00:00Z",
			labels(map[string]string{"threshold": "0.5"}),
		},
		"fractions of a percent": {
			settled(asIs, 805), "budget_threshold", "warning", "Budget monthly has reached 80.5% of its limit: 8.25 of 10 USD spent in the period from 2026-11-01T00:00:00Z",
			labels(map[string]string{"threshold": "0.805"}),
		},
		"a balance, in total": {
			settled(func(_ *rateguardv1.Outcome, h *rateguardv1.Hold) {
				h.Balance, h.PeriodStartUnixUs, h.LimitNanoUsd = "key_1", 0, 8_250_000_000
			}, 1000),
			"budget_threshold", "critical", "Budget monthly (key_1) has reached 100% of its limit: 8.25 of 8.25 USD spent",
			labels(map[string]string{"threshold": "1", "balance": "key_1", "period_start": "", "limit_usd": "8.25"}),
		},
		"an overrun": {
			settled(func(o *rateguardv1.Outcome, _ *rateguardv1.Hold) { o.CostNanoUsd = proto.Int64(10_000_000_001) }),
			"budget_overrun", "critical",
			"Budget monthly is above its hard limit: 10.000000001 of 10 USD spent in the period from 2026-11-01T00:00:00Z; a call cost more than was reserved for it",
			labels(map[string]string{"posted_usd": "10.000000001", "cause": "cost_above_bound"}),
		},
		"an overrun of unknown cause": {
			settled(func(o *rateguardv1.Outcome, h *rateguardv1.Hold) {
				o.CostNanoUsd, h.AmountNanoUsd = proto.Int64(11_000_000_000), 11_000_000_000
			}),
			"budget_overrun", "critical", "Budget monthly is above its hard limit: 11 of 10 USD spent in the period from 2026-11-01T00:00:00Z",
			labels(map[string]string{"posted_usd": "11"}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			did := spend.Graph().Fold(nil, group.Input{Key: "ws_1", Event: test.event})
			if len(did.Outputs) != 1 || did.Outputs[0].Topic.Name != topics.Alerts.Name {
				t.Fatalf("outputs: %v", did.Outputs)
			}
			e := did.Outputs[0].Event
			a := e.GetAlert()
			if e.GetWorkspaceId() != "ws_1" || e.GetOccurredAtUnixUs() != test.event.GetOccurredAtUnixUs() || a.GetRaisedAtUnixUs() != e.GetOccurredAtUnixUs() ||
				a.GetRule() != "budget:monthly" || a.GetState() != "raised" {
				t.Errorf("event: %v", e)
			}
			if a.GetKind() != test.kind || a.GetSeverity() != test.severity || a.GetTitle() != test.title {
				t.Errorf("got  %s, %s, %q\nwant %s, %s, %q", a.GetKind(), a.GetSeverity(), a.GetTitle(), test.kind, test.severity, test.title)
			}
			if !maps.Equal(a.GetLabels(), test.labels) {
				t.Errorf("labels: got %v, want %v", a.GetLabels(), test.labels)
			}
		})
	}
}

// A replay counts at other positions: what an alert is about decides its id, and nothing else does.
func TestAnAlertsIDSaysWhatItIsAbout(t *testing.T) {
	id := func(workspace string, e *rateguardv1.Event) string {
		return spend.Graph().Fold(nil, group.Input{Key: workspace, Event: e}).Outputs[0].Event.GetAlert().GetAlertId()
	}
	asIs := func(*rateguardv1.Outcome, *rateguardv1.Hold) {}
	first := id("ws_1", settled(asIs, 500))
	again := settled(func(o *rateguardv1.Outcome, _ *rateguardv1.Hold) { o.CostNanoUsd = proto.Int64(9_000_000_000) }, 500)
	again.ProducerId, again.OccurredAtUnixUs = "q", 1
	if got := id("ws_1", again); got != first {
		t.Errorf("the same threshold: got %s, want %s", got, first)
	}
	seen := map[string]string{first: "first"}
	for name, other := range map[string]string{
		"threshold":  id("ws_1", settled(asIs, 800)),
		"workspace":  id("ws_2", settled(asIs, 500)),
		"budget":     id("ws_1", settled(func(_ *rateguardv1.Outcome, h *rateguardv1.Hold) { h.BudgetId = "other" }, 500)),
		"generation": id("ws_1", settled(func(_ *rateguardv1.Outcome, h *rateguardv1.Hold) { h.BudgetGeneration = 4 }, 500)),
		"balance":    id("ws_1", settled(func(_ *rateguardv1.Outcome, h *rateguardv1.Hold) { h.Balance = "key_1" }, 500)),
		"period":     id("ws_1", settled(func(_ *rateguardv1.Outcome, h *rateguardv1.Hold) { h.PeriodStartUnixUs = 1 }, 500)),
	} {
		if seen[other] != "" {
			t.Errorf("%s has the id of %s", name, seen[other])
		}
		seen[other] = name
	}
}
