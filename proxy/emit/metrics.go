package emit

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
)

// metrics count requests. Labels are bounded: no workspace, no key, no model.
type metrics struct {
	requests *prometheus.CounterVec
	served   prometheus.Counter // of requests: 200 without an error, which is found at once
	latency  prometheus.Histogram
	overhead prometheus.Histogram
	refused  prometheus.Counter
	beyond   prometheus.Counter
	estimate prometheus.Counter
	counted  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rateguard_proxy_requests_total", Help: "Authenticated requests by status and error code.",
		}, []string{"status", "code"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rateguard_proxy_latency_seconds", Help: "Start of a request to its end.", Buckets: prometheus.ExponentialBuckets(0.0005, 4, 10),
		}),
		overhead: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rateguard_proxy_overhead_seconds", Help: "Part of the latency not spent waiting for the upstream.",
			Buckets: prometheus.ExponentialBuckets(0.00002, 4, 10),
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_proxy_log_refusals_total", Help: "Requests refused because the event log did not take them.",
		}),
		beyond: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_proxy_cost_beyond_bound_total", Help: "Requests that the provider billed above their reserved bound.",
		}),
		estimate: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_proxy_estimated_costs_total", Help: "Forwarded requests whose cost is our own count.",
		}),
		counted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_proxy_denials_counted_total", Help: "Denied requests that were too many for a row each and were counted.",
		}),
	}
	m.served = m.requests.WithLabelValues("200", "")
	reg.MustRegister(m.requests, m.latency, m.overhead, m.refused, m.beyond, m.estimate, m.counted)
	return m
}

func (m *metrics) observe(c *call.Call, now time.Time) {
	r := &c.Result
	latency := now.Sub(c.Start)
	if r.Status == http.StatusOK && r.ErrorCode == "" {
		m.served.Inc()
	} else {
		m.requests.WithLabelValues(statusText(r.Status), string(r.ErrorCode)).Inc()
	}
	m.latency.Observe(latency.Seconds())
	m.overhead.Observe(max(0, latency-r.Waited).Seconds())
	if c.Opened && r.Estimated {
		m.estimate.Inc()
	}
	if r.HasCost && c.Quote.Bounded && r.Cost > c.Quote.Bound {
		m.beyond.Inc()
	}
}

func statusText(status int) string {
	if status == 0 {
		return "none"
	}
	if status < 100 || status > 599 {
		return "other"
	}
	return strconv.Itoa(status)
}
