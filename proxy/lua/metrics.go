package lua

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reg      prometheus.Registerer
	open     *prometheus.GaugeVec
	failures *prometheus.CounterVec
	seconds  prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reg: reg,
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rateguard_store_open", Help: "1 while the breaker of a Redis server is open and nothing is decided there.",
		}, []string{"shard"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rateguard_store_failures_total", Help: "Script calls that ended without an answer, by reason.",
		}, []string{"reason"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rateguard_store_seconds", Help: "Time of a script call that was answered, waiting for a connection included.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1},
		}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range m.all() {
		if err := reg.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("registering store metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.open, m.failures, m.seconds}
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all() {
		m.reg.Unregister(c)
	}
}

// done counts one call.
func (m *metrics) done(d time.Duration, err error) {
	if err == nil {
		m.seconds.Observe(d.Seconds())
		return
	}
	reason := "bug"
	var u *UnavailableError
	if errors.As(err, &u) {
		reason = string(u.Reason)
	}
	m.failures.WithLabelValues(reason).Inc()
}

func (m *metrics) set(shard string, open bool) {
	v := 0.0
	if open {
		v = 1
	}
	m.open.WithLabelValues(shard).Set(v)
}
