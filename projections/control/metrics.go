package control

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the control role.
type metrics struct {
	requests    *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	published   *prometheus.CounterVec
	failures    prometheus.Counter
	depth       prometheus.Gauge
	leader      prometheus.Gauge
	republished *prometheus.CounterVec
	unknownKeys prometheus.Gauge
	extended    prometheus.Counter
}

// newMetrics registers the metrics; reg may be nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rateguard_control_requests_total", Help: "Requests to the admin and analytics API.",
		}, []string{"endpoint", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rateguard_control_request_seconds", Help: "Time that requests to the admin and analytics API took.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"endpoint"}),
		published: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rateguard_outbox_published_total", Help: "Outbox records that the brokers acknowledged.",
		}, []string{"topic"}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_outbox_failures_total", Help: "Attempts to publish outbox records that failed and are repeated.",
		}),
		depth: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rateguard_outbox_depth", Help: "Outbox records that wait for the brokers, as the leading relay last saw them.",
		}),
		leader: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rateguard_relay_leader", Help: "1 while this process relays the outbox.",
		}),
		republished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rateguard_config_republished_total", Help: "Documents that differed between topic and PostgreSQL and were published again.",
		}, []string{"topic"}),
		unknownKeys: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rateguard_config_unknown_documents", Help: "Documents in the topics that PostgreSQL does not know: a restored or foreign database.",
		}),
		extended: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_control_periods_extended_total", Help: "Policies that were published again because the periods of their budgets came to their end.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.requests, m.seconds, m.published, m.failures, m.depth, m.leader, m.republished, m.unknownKeys, m.extended)
	}
	return m
}
