package drift

import "github.com/prometheus/client_golang/prometheus"

// Metrics are those of an Auditor. They outlive it: another one is made with each election.
type Metrics struct {
	drift       *prometheus.GaugeVec
	comparisons *prometheus.CounterVec
	persistent  *prometheus.GaugeVec
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		drift: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rateguard_control_budget_drift_nano_usd",
			Help: "Largest difference of a budget's posted amount between a store and the spend table at comparable offsets; of redis_entries: between Redis' balances and its own reservations.",
		}, []string{"store"}),
		comparisons: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rateguard_control_budget_comparisons_total", Help: "Comparisons of a workspace's budgets: equal, differs, or incomparable because a store is behind or away.",
		}, []string{"store", "result"}),
		persistent: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rateguard_control_budget_drift_workspaces", Help: "Workspaces whose budgets differed twice in a row in a store: somebody has to look.",
		}, []string{"store"}),
	}
	if reg != nil {
		reg.MustRegister(m.drift, m.comparisons, m.persistent)
	}
	return m
}
