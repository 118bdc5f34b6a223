package proxy

import (
	"log/slog"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// operator is the key of alerts that are nobody's workspace's.
const operator = "operator"

// storeChanged tells the operator that a shard of Redis does not answer, once, and that it is back.
func (s *Server) storeChanged(shard string, open bool, reason string) {
	now := time.Now()
	alert := &rateguardv1.Alert{
		AlertId: s.spool.ProducerID() + "/store/" + shard, Rule: "store_unavailable", Kind: operator, State: "raised", Severity: "critical",
		Title:          "Redis does not answer: limits and budgets follow their on_store_failure",
		Labels:         map[string]string{"shard": shard, "reason": reason, "producer": s.spool.ProducerID()},
		RaisedAtUnixUs: now.UnixMicro(),
	}
	if !open {
		alert.State, alert.Title = "resolved", "Redis answers again"
		delete(alert.Labels, "reason")
	}
	event := &rateguardv1.Event{Id: call.NewID(now), OccurredAtUnixUs: now.UnixMicro(), WorkspaceId: operator, Body: &rateguardv1.Event_Alert{Alert: alert}}
	value, err := envelope.Encode(event)
	if err == nil {
		err = s.spool.Append(spool.Record{Topic: topics.Alerts, Key: operator, Value: value, Headers: envelope.Headers(event, ""), Unnumbered: true})
	}
	if err != nil {
		s.log.Error("alert is not recorded", slog.String("rule", alert.GetRule()), slog.String("state", alert.GetState()), slog.Any("error", err))
	}
}
