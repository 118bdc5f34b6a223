package rebuild

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reg              prometheus.Registerer
	closed, failures prometheus.Counter
	restarted, ended prometheus.Counter
	read             prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "rateguard_rebuild_" + name, Help: help})
	}
	m := &metrics{
		reg:       reg,
		closed:    counter("closed_total", "Gone producers that this process closed."),
		failures:  counter("failures_total", "Attempts to close a producer that ended in an error."),
		restarted: counter("restarts_total", "Closings that began again because the producer's mark had moved."),
		ended:     counter("ended_reservations_total", "Ends written for reservations of gone producers, those of closings that began again included."),
		read:      counter("records_read_total", "Numbered records of gone producers that were read to close them."),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range m.all() {
		if err := reg.Register(c); err != nil {
			m.unregister()
			return nil, fmt.Errorf("registering rebuild metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.closed, m.failures, m.restarted, m.ended, m.read}
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all() {
		m.reg.Unregister(c)
	}
}
