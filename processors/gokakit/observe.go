package gokakit

import (
	"fmt"
	"log/slog"

	"github.com/lovoo/goka"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what an operator watches of one group.
type metrics struct {
	inputs      *prometheus.CounterVec
	notes       *prometheus.CounterVec
	deadLetters prometheus.Counter
	refused     prometheus.Counter
	restarts    prometheus.Counter

	published, outboxRestarts prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, group string) (*metrics, error) {
	label := prometheus.Labels{"group": group}
	opts := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Namespace: "rateguard", Subsystem: "processors", Name: name, Help: help, ConstLabels: label}
	}
	m := &metrics{
		inputs:      prometheus.NewCounterVec(opts("inputs_total", "Inputs by what was done with them."), []string{"outcome"}),
		notes:       prometheus.NewCounterVec(opts("notes_total", "What folds found odd, by kind."), []string{"kind"}),
		deadLetters: prometheus.NewCounter(opts("dead_letters_total", "Inputs that could not be read.")),
		refused:     prometheus.NewCounter(opts("table_records_refused_total", "Table records that would have taken a key back.")),
		restarts:    prometheus.NewCounter(opts("restarts_total", "Times the group was built again after an error.")),

		published:      prometheus.NewCounter(opts("outbox_published_total", "Events of the outbox that were published, repeats included.")),
		outboxRestarts: prometheus.NewCounter(opts("outbox_restarts_total", "Times the reader of the outbox was built again after an error.")),
	}
	for _, c := range []prometheus.Collector{m.inputs, m.notes, m.deadLetters, m.refused, m.restarts, m.published, m.outboxRestarts} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics of group %s: %w", group, err)
		}
	}
	return m, nil
}

// gokaLog passes what goka says to slog; goka says a lot in normal operation.
type gokaLog struct{ log *slog.Logger }

var _ goka.Logger = gokaLog{}

// Print implements goka.Logger.
func (l gokaLog) Print(v ...any) { l.log.Debug("goka", slog.String("message", fmt.Sprint(v...))) }

// Println implements goka.Logger.
func (l gokaLog) Println(v ...any) { l.log.Debug("goka", slog.String("message", fmt.Sprint(v...))) }

// Printf implements goka.Logger.
func (l gokaLog) Printf(format string, v ...any) {
	l.log.Debug("goka", slog.String("message", fmt.Sprintf(format, v...)))
}
