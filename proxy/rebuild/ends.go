package rebuild

import (
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// ends makes an end for every reservation of the workspace that has none.
func (w *workspace) ends() []*rateguardv1.Outcome {
	var ends []*rateguardv1.Outcome
	for _, id := range sorted(w.calls) {
		ends = append(ends, w.calls[id].ends()...)
	}
	return ends
}

// ends of one request: what its row says where there is one, else the cost of an unknown outcome.
func (c *call) ends() []*rateguardv1.Outcome {
	row := c.row
	if row == nil {
		row = c.refused
	}
	var open []string
	known, priced := int64(0), row.GetCostNanoUsd()
	for _, id := range sorted(c.attempts) {
		switch a := c.attempts[id]; {
		case a.end != nil:
			known += a.end.GetCostNanoUsd()
		case a.opened != nil:
			open = append(open, id)
		}
	}
	ends := make([]*rateguardv1.Outcome, 0, len(open))
	for i, id := range open {
		o := c.attempts[id].opened
		out := &rateguardv1.Outcome{
			ReservationId: id, Revision: 1, Subject: o.GetSubject(), Holds: o.GetHolds(), BoundNanoUsd: o.BoundNanoUsd,
			Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, CostNanoUsd: o.UnknownCostNanoUsd, Estimated: true,
		}
		if row != nil {
			// The row's cost is that of all attempts: the last open one takes what the others leave.
			var cost int64
			out.Kind, out.Estimated = rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, row.GetEstimated()
			if i == len(open)-1 {
				cost, out.Usage = max(0, priced-known), row.GetUsage()
			}
			out.CostNanoUsd = &cost
			if row.CostNanoUsd == nil {
				out.CostNanoUsd = nil
			}
		}
		ends = append(ends, out)
	}
	return ends
}

// rows makes a row for every forwarded request of the workspace that has none. All reservations have their ends by then.
func (w *workspace) rows() []*rateguardv1.RequestRecorded {
	var rows []*rateguardv1.RequestRecorded
	for _, id := range sorted(w.calls) {
		if c := w.calls[id]; c.row == nil && 0 < c.ended && c.ended < w.shown {
			continue // the topic had it, before the first that it still has
		}
		if row := w.calls[id].missingRow(id); row != nil {
			rows = append(rows, row)
		}
	}
	return rows
}

func (c *call) missingRow(id string) *rateguardv1.RequestRecorded {
	if c.row != nil || !c.anyOpened() {
		return nil // a late end of a request whose life was complete is a correction, no request of its own
	}
	if c.refused != nil {
		return c.refused
	}
	row := &rateguardv1.RequestRecorded{RequestId: id, Decision: rateguardv1.Decision_DECISION_FORWARDED}
	var cost int64
	priced := false
	for _, rid := range sorted(c.attempts) {
		a := c.attempts[rid]
		subject := a.opened.GetSubject()
		if subject == nil {
			subject = a.end.GetSubject()
		}
		row.ReservationIds = append(row.ReservationIds, rid)
		row.KeyId, row.Route, row.Provider = subject.GetKeyId(), subject.GetRoute(), subject.GetProvider()
		row.Model, row.Endpoint = subject.GetModel(), subject.GetEndpoint()
		row.PriceVersion, row.PolicyVersion = subject.GetPriceVersion(), subject.GetPolicyVersion()
		if at := subject.GetOpenedAtUnixUs(); row.StartedAtUnixUs == 0 || at < row.StartedAtUnixUs {
			row.StartedAtUnixUs = at
		}
		if a.opened != nil {
			row.Context = a.opened.GetContext()
		}
		if a.end != nil {
			row.Estimated = row.Estimated || a.end.GetEstimated()
			if a.end.GetUsage() != nil {
				row.Usage = a.end.GetUsage()
			}
			if a.end.CostNanoUsd != nil {
				cost, priced = cost+a.end.GetCostNanoUsd(), true
			}
		}
	}
	if priced {
		row.CostNanoUsd = &cost
	}
	return row
}

func (c *call) anyOpened() bool {
	for _, a := range c.attempts {
		if a.opened != nil {
			return true
		}
	}
	return false
}
