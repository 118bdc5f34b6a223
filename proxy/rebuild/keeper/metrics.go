package keeper

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	rounds, installed, reconciled, unreconciled, torn, failures prometheus.Counter
	waiting                                                     prometheus.Gauge
	closed                                                      prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "rateguard_keeper_" + name, Help: help})
	}
	m := metrics{
		rounds:       counter("rounds_total", "Rounds after which budgets were installed in Redis."),
		installed:    counter("installed_total", "Workspaces whose budgets were installed."),
		reconciled:   counter("steps_total", "Steps of the log that were brought into Redis."),
		unreconciled: counter("step_failures_total", "Steps of the log that Redis did not take at first."),
		torn:         counter("incomplete_total", "Workspaces whose budgets stay closed because the log does not show all of their reservations."),
		failures:     counter("failures_total", "Readings of the log that began anew."),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rateguard_keeper_seals_missing", Help: "Producers whose seal a round is waiting for.",
		}),
		closed: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rateguard_keeper_closed_seconds", Help: "Time from the start of a round until budgets could be used again.",
			Buckets: []float64{.05, .1, .2, .5, 1, 2, 5, 10, 30, 60},
		}),
	}
	if reg != nil {
		reg.MustRegister(m.rounds, m.installed, m.reconciled, m.unreconciled, m.torn, m.failures, m.waiting, m.closed)
	}
	return m
}
