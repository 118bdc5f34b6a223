package closing

import (
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// ends makes an end for every reservation of the workspace that has none.
func (w *workspace) ends() []*rateguardv1.Outcome {
	var ends []*rateguardv1.Outcome
	for _, id := range sorted(w.calls) {
		ends = append(ends, w.calls[id].ends(w)...)
	}
	return ends
}

// lease ends what is left of a lease. Where openings may be missing nobody knows what was taken of it, so that all of it is charged.
func (w *workspace) lease(o *rateguardv1.ReservationOpened) *rateguardv1.Outcome {
	out := &rateguardv1.Outcome{
		ReservationId: o.GetReservationId(), Revision: 1, Subject: o.GetSubject(), Lease: true,
		Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED, CostNanoUsd: new(int64),
	}
	for _, h := range o.GetHolds() {
		left := proto.CloneOf(h)
		left.AmountNanoUsd -= w.taken[o.GetReservationId()]
		out.Holds = append(out.Holds, left)
		if !w.complete && left.GetAmountNanoUsd() > 0 {
			out.Kind, out.Estimated, out.CostNanoUsd = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, true, proto.Int64(left.GetAmountNanoUsd())
		}
	}
	return out
}

// ends of one request: what its row says where there is one, else the cost of an unknown outcome.
func (c *call) ends(w *workspace) []*rateguardv1.Outcome {
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
		case a.opened != nil || a.unshipped:
			open = append(open, id)
		}
	}
	ends := make([]*rateguardv1.Outcome, 0, len(open))
	for i, id := range open {
		a := c.attempts[id]
		if a.unshipped {
			ends = append(ends, unshipped(a.held))
			continue
		}
		o := a.opened
		if o.GetLease() {
			ends = append(ends, w.lease(o))
			continue
		}
		out := &rateguardv1.Outcome{
			ReservationId: id, Revision: 1, Subject: o.GetSubject(), Holds: o.GetHolds(), BoundNanoUsd: o.BoundNanoUsd, LeaseId: o.GetLeaseId(),
			Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, CostNanoUsd: o.UnknownCostNanoUsd, Estimated: true,
		}
		if a.held != nil && a.held.Settled { // it had ended, and only the log was not told
			out.Kind, out.CostNanoUsd = rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, &a.held.CostNano
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

// rows makes a row for every forwarded request of the workspace that has none. What surfaced behind an accepted closing has no end yet, and waits for that: from a row
// without a cost, its end would cost nothing.
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
	if c.row != nil || !c.anyOpened() || c.anyOpen() {
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
		if a.opened != nil || a.unshipped {
			return true
		}
	}
	return false
}

func (c *call) anyOpen() bool {
	for _, a := range c.attempts {
		if a.end == nil && (a.opened != nil || a.unshipped) {
			return true
		}
	}
	return false
}

// unshipped makes the end of a reservation that stands nowhere but in Redis: its cost where Redis kept one, else all that it holds. No sum has its
// amounts as reserved, so that its holds say none.
func unshipped(e *lua.Entry) *rateguardv1.Outcome {
	request, attempt, _ := strings.Cut(e.ID, "/")
	n, _ := strconv.ParseUint(attempt, 10, 32) // what is no number is the attempt 0
	out := &rateguardv1.Outcome{
		ReservationId: e.ID, Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, Estimated: true,
		Subject: &rateguardv1.Subject{RequestId: request, Attempt: uint32(n), OpenedAtUnixUs: madeAt(request)}, Lease: e.Lease,
	}
	cost := e.CostNano
	if e.Settled {
		out.Kind = rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED
	}
	for _, a := range e.Amounts {
		b, err := keyspace.ParseField(a.Field)
		if err != nil {
			continue // not written by us
		}
		out.Holds = append(out.Holds, &rateguardv1.Hold{
			BudgetId: b.Budget, BudgetGeneration: b.Generation, Balance: b.Balance, PeriodStartUnixUs: b.StartUS,
		})
		if !e.Settled {
			cost = max(cost, a.Nano)
		}
	}
	out.CostNanoUsd = &cost
	return out
}

// madeAt returns when a request's id was made, in µs: it is a UUIDv7.
func madeAt(id string) int64 {
	u, err := uuid.Parse(id)
	if err != nil {
		return 0
	}
	sec, nsec := u.Time().UnixTime()
	return time.Unix(sec, nsec).UnixMicro()
}
