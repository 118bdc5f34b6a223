package control

import "github.com/rateguard/rateguard/projections/control/drift"

// newAuditor returns what compares the budgets of all stores while this process relays.
func (s *Server) newAuditor() *drift.Auditor {
	return drift.New(drift.Config{
		Kafka: s.cfg.Kafka, Pool: s.pool, Redis: s.mirror, Interval: s.cfg.ReconcileInterval, Log: s.log, Metrics: s.drift,
	})
}
