package spool

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the numbers an operator watches. Without a registerer they are counted all the same.
type metrics struct {
	reg              prometheus.Registerer
	all              []prometheus.Collector
	fsync            prometheus.Histogram
	fsyncErrors      prometheus.Counter
	refusals         *prometheus.CounterVec
	quarantined      prometheus.Counter
	quarantinedCount atomic.Int64
	sessions         prometheus.Counter
}

func newMetrics(s *Spool, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		reg: reg,
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rateguard_spool_fsync_seconds", Help: "Time of one group's fsync.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2, 16),
		}),
		fsyncErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_spool_fsync_errors_total", Help: "Fsyncs that returned an error.",
		}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rateguard_spool_refused_total", Help: "Appends that were refused, by reason.",
		}, []string{"reason"}),
		quarantined: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_spool_quarantined_total", Help: "Records that a broker refused for good.",
		}),
		sessions: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_spool_ship_restarts_total", Help: "Times that shipping began again after an error.",
		}),
	}
	gauge := func(name, help string, get func(Stats) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return get(s.Stats()) })
	}
	m.all = []prometheus.Collector{
		m.fsync, m.fsyncErrors, m.refusals, m.quarantined, m.sessions,
		gauge("rateguard_spool_depth_records", "Records not yet shipped.", func(st Stats) float64 { return float64(st.Depth) }),
		gauge("rateguard_spool_pending_bytes", "Bytes not yet shipped.", func(st Stats) float64 { return float64(st.Bytes) }),
		gauge("rateguard_spool_disk_bytes", "Bytes of all segments.", func(st Stats) float64 { return float64(st.DiskBytes) }),
		gauge("rateguard_spool_oldest_seconds", "Age of the oldest record not yet shipped.", func(st Stats) float64 { return st.OldestAge.Seconds() }),
		gauge("rateguard_spool_unshipped_nano_usd", "Cost of the ends not yet shipped, in nano-USD.", func(st Stats) float64 { return float64(st.UnshippedNanoUSD) }),
		gauge("rateguard_spool_low_watermark_seconds", "How far back this producer has to be read by whoever closes it.", func(st Stats) float64 { return st.WatermarkAge.Seconds() }),
		gauge("rateguard_spool_open_reservations", "Reservations whose end has room kept.", func(st Stats) float64 { return float64(st.OpenReservations) }),
	}
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, fmt.Errorf("registering spool metrics: %w", err)
		}
	}
	return m, nil
}

// unregister lets a later spool of the same process register its own.
func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

func (m *metrics) synced(took time.Duration, err error) {
	m.fsync.Observe(took.Seconds())
	if err != nil {
		m.fsyncErrors.Inc()
	}
}

func (m *metrics) refused(err error) {
	reason := "error"
	switch {
	case errors.Is(err, ErrFull):
		reason = "full"
	case errors.Is(err, ErrTooLarge):
		reason = "too_large"
	case errors.Is(err, ErrClosed):
		reason = "closed"
	}
	m.refusals.WithLabelValues(reason).Inc()
}
