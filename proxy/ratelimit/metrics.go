package ratelimit

import "github.com/prometheus/client_golang/prometheus"

// metrics are what an operator watches; the store has its own.
type metrics struct {
	admitted, denied, unsettled       prometheus.Counter
	local, localDenied, refusedClosed prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "rateguard_proxy_limits_" + name + "_total", Help: help})
		reg.MustRegister(c)
		return c
	}
	return metrics{
		admitted:      counter("admitted", "Requests that all their limits let through."),
		denied:        counter("denied", "Requests that a limit refused."),
		unsettled:     counter("unsettled", "Requests whose unused part could not be given back at their end; it leaks out by itself."),
		local:         counter("local", "Requests let through by this proxy's share of their limits while the store was away."),
		localDenied:   counter("local_denied", "Requests refused by this proxy's share of their limits while the store was away."),
		refusedClosed: counter("closed", "Requests refused because the store was away and one of their limits is closed then."),
	}
}
