package control

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/control/drift"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// newAuditor returns what compares the budgets of all stores while this process relays.
func (s *Server) newAuditor() *drift.Auditor {
	return drift.New(drift.Config{
		Kafka: s.cfg.Kafka, Pool: s.pool, Redis: s.mirror, Interval: s.cfg.ReconcileInterval, Publish: s.publishAlert, Log: s.log, Metrics: s.drift,
	})
}

// publishAlert puts an alert of a workspace into the outbox.
func (s *Server) publishAlert(ctx context.Context, tx pgx.Tx, ws string, alert *rateguardv1.Alert) error {
	c := change{tx: tx, server: s, ws: workspace{ID: ws}, now: s.now()}
	return c.publish(ctx, topics.Alerts, ws, &rateguardv1.Event{Body: &rateguardv1.Event_Alert{Alert: alert}})
}
