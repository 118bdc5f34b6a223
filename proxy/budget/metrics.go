package budget

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	admitted, exceeded, contended, unbounded prometheus.Counter
	local, overruns, overrun, fitted         prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "rateguard_proxy_budget_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	return metrics{
		admitted:  counter("admitted_total", "Requests for which budgets were reserved."),
		exceeded:  counter("exceeded_total", "Requests refused because a budget is spent."),
		contended: counter("contended_total", "Requests refused because open requests hold the rest of a budget."),
		unbounded: counter("unbounded_total", "Requests refused because a hard budget applies and their cost has no bound."),
		local:     counter("unreserved_total", "Requests under soft budgets that were served while Redis could not reserve; the log counts them."),
		overruns:  counter("overruns_total", "Requests that cost more than they had reserved."),
		overrun:   counter("overrun_nano_usd_total", "What they cost above it."),
		fitted:    counter("fitted_total", "Requests whose maximum of output tokens was lowered to what a budget had room for."),
	}
}

type leaseMetrics struct{ asks, granted, returned, requests prometheus.Counter }

func newLeaseMetrics(reg prometheus.Registerer) leaseMetrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "rateguard_proxy_budget_leases_" + name, Help: help})
		reg.MustRegister(c)
		return c
	}
	return leaseMetrics{
		asks:     counter("asks_total", "Calls to the store that asked for a lease of budgets."),
		granted:  counter("nano_usd_total", "What this proxy got of budgets to spend without the store."),
		returned: counter("returned_nano_usd_total", "What it gave back of that."),
		requests: counter("requests_total", "Requests whose budgets were decided by a lease."),
	}
}
