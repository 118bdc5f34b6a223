package runner

import (
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the numbers of all projections of a process, labelled by projection.
type Metrics struct {
	lag         *prometheus.GaugeVec
	asOf        *prometheus.GaugeVec
	rows        *prometheus.CounterVec
	batches     *prometheus.HistogramVec
	repeats     *prometheus.CounterVec
	missing     *prometheus.CounterVec
	deadLetters *prometheus.CounterVec
	generations *prometheus.CounterVec
	sessions    *prometheus.CounterVec
	damaged     *prometheus.CounterVec
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	by := []string{"projection"}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rateguard_projection_" + name, Help: help}, append(by, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "rateguard_projection_" + name, Help: help}, by)
	}
	m := &Metrics{
		lag:  gauge("lag_records", "Records in the owned partitions that are not applied yet."),
		asOf: gauge("as_of_timestamp_seconds", "Time of the newest applied record."),
		rows: counter("rows_total", "Rows written."),
		batches: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rateguard_projection_batch_seconds", Help: "Time to write one batch and move its checkpoint.",
			Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10},
		}, by),
		repeats:     counter("repeats_total", "Records dropped because their producer's sequence had been applied."),
		missing:     counter("missing_sequences_total", "Sequences of producers that did not come; each is an alarm."),
		deadLetters: counter("dead_letters_total", "Records that could not be applied and went to the dead letters."),
		generations: counter("generations_total", "Generations begun; more than one says that a store was wiped."),
		sessions:    counter("sessions_ended_total", "Sessions ended by an error.", "reason"),
		damaged:     counter("damaged_ranges_total", "Pending ranges that were found half-written or lost with the log's start."),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.lag, m.asOf, m.rows, m.batches, m.repeats, m.missing, m.deadLetters, m.generations,
		m.sessions, m.damaged,
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

func (m *Metrics) generation(projection string) { m.generations.WithLabelValues(projection).Inc() }

func (m *Metrics) sessionEnded(projection string, err error) {
	reason := "error"
	switch {
	case errors.Is(err, ErrFenced):
		reason = "fenced"
	case errors.Is(err, ErrLogLost):
		reason = "log_lost"
	}
	m.sessions.WithLabelValues(projection, reason).Inc()
}

func (m *Metrics) written(projection string, rows int64, asOf time.Time, took time.Duration) {
	m.rows.WithLabelValues(projection).Add(float64(rows))
	if !asOf.IsZero() {
		m.asOf.WithLabelValues(projection).Set(float64(asOf.UnixMicro()) / 1e6)
	}
	m.batches.WithLabelValues(projection).Observe(took.Seconds())
}
