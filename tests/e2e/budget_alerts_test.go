package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/topics"
)

// From the policy to the topic that other systems read: every threshold that calls reach is told, once.
func TestABudgetTellsOfItsThresholds(t *testing.T) {
	t.Parallel()
	s := harness.New(t)
	tenant := s.Tenant(t)
	setBudget(t, s, tenant, "soft", adminclient.PutBudget{USD: "0.01", Period: "total", Enforcement: "soft", AlertAt: []float64{0.5, 0.8, 1}})
	log, err := kgo.NewClient(kgo.SeedBrokers(s.Config().Kafka.Seeds()...), kgo.ConsumeTopics(topics.Alerts.Name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	alerts := map[string]*rateguardv1.Alert{}
	events := map[string]bool{}
	read := func() {
		ctx, cancel := context.WithTimeout(t.Context(), harness.InForceWithin/10)
		defer cancel()
		log.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			e, err := envelope.Decode(r.Value)
			if err != nil || string(r.Key) != tenant.ID || events[e.GetId()] {
				return
			}
			events[e.GetId()] = true
			threshold := e.GetAlert().GetLabels()["threshold"]
			if alerts[threshold] != nil {
				t.Errorf("told again: %v", e)
			}
			alerts[threshold] = e.GetAlert()
		})
	}
	harness.Eventually(t, 30*harness.InForceWithin, func() error { // a call is 0.002
		status, err := get(t, s.ProxyURL+"/http/x", tenant.Key)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("answer %d", status)
		}
		if err != nil {
			return err
		}
		if read(); len(alerts) < 3 {
			return fmt.Errorf("alerts: %v", alerts)
		}
		return nil
	})
	for threshold, severity := range map[string]string{"0.5": "info", "0.8": "warning", "1": "critical"} {
		if a := alerts[threshold]; a.GetSeverity() != severity || a.GetRule() != "budget:soft" || a.GetKind() != "budget_threshold" || a.GetLabels()["limit_usd"] != "0.01" {
			t.Errorf("threshold %s: %v", threshold, a)
		}
	}
}
