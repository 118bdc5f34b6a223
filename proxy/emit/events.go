package emit

import (
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Headers of each type of event, made once: finding the name of a body costs more than the rest of a record.
var (
	headersOpened     = headers(&rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{}})
	headersSettled    = headers(&rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{}})
	headersVoided     = headers(&rateguardv1.Event{Body: &rateguardv1.Event_ReservationVoided{}})
	headersExpired    = headers(&rateguardv1.Event{Body: &rateguardv1.Event_ReservationExpired{}})
	headersRow        = headers(&rateguardv1.Event{Body: &rateguardv1.Event_RequestRecorded{}})
	headersLeaseEnded = headers(&rateguardv1.Event{Body: &rateguardv1.Event_LeaseEnded{}})
	headersDenials    = headers(&rateguardv1.Event{Body: &rateguardv1.Event_DenialsAggregated{}})
)

func headers(e *rateguardv1.Event) []envelope.Header {
	e.SchemaVersion = envelope.SchemaVersion
	return envelope.Headers(e, "")
}

// attempt is the number of the one attempt that a request has today.
const attempt = 1

func subject(c *call.Call) *rateguardv1.Subject {
	return &rateguardv1.Subject{
		RequestId: c.ID, Attempt: attempt, KeyId: c.Key.ID, Route: c.RouteID, Provider: provider(c), Model: c.Asked.Model,
		Endpoint: c.Endpoint, OpenedAtUnixUs: c.OpenedAt.UnixMicro(),
		PriceVersion: c.Quote.PriceVersion, PolicyVersion: c.Workspace.Version,
	}
}

func provider(c *call.Call) string {
	if c.Route == nil {
		return ""
	}
	return c.Route.Provider
}

func event(c *call.Call, suffix string, at time.Time) *rateguardv1.Event {
	return &rateguardv1.Event{Id: c.ID + suffix, WorkspaceId: c.Workspace.ID, OccurredAtUnixUs: at.UnixMicro()}
}

func opened(c *call.Call) *rateguardv1.Event {
	o := &rateguardv1.ReservationOpened{
		ReservationId: call.ReservationID(c), Subject: subject(c), Holds: c.Holds, Epoch: c.Epoch, Op: c.Op, Context: c.Context, LeaseId: c.LeaseID,
	}
	if c.Quote.Bounded {
		o.BoundNanoUsd = (*int64)(&c.Quote.Bound)
	}
	if c.Quote.HasUnknown {
		o.UnknownCostNanoUsd = (*int64)(&c.Quote.Unknown)
	}
	e := event(c, "/1/opened", c.OpenedAt)
	e.Body = &rateguardv1.Event_ReservationOpened{ReservationOpened: o}
	return e
}

// end returns the first end of the reservation.
func end(c *call.Call, now time.Time) (*rateguardv1.Event, []envelope.Header) {
	r := &c.Result
	o := &rateguardv1.Outcome{
		ReservationId: call.ReservationID(c), Revision: 1, Kind: r.Kind, Estimated: r.Estimated, Subject: subject(c), Holds: c.Holds, LeaseId: c.LeaseID,
	}
	if r.HasCost {
		o.CostNanoUsd = (*int64)(&r.Cost)
	}
	if r.HasUsage {
		o.Usage = r.Usage.Proto()
	}
	if c.Quote.Bounded {
		o.BoundNanoUsd = (*int64)(&c.Quote.Bound)
	}
	e := event(c, "/1/end", now)
	switch r.Kind {
	case rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED:
		e.Body = &rateguardv1.Event_ReservationVoided{ReservationVoided: &rateguardv1.ReservationVoided{Outcome: o}}
		return e, headersVoided
	case rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED:
		e.Body = &rateguardv1.Event_ReservationExpired{ReservationExpired: &rateguardv1.ReservationExpired{Outcome: o}}
		return e, headersExpired
	case rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, rateguardv1.OutcomeKind_OUTCOME_KIND_UNSPECIFIED:
	}
	o.Kind = rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED
	e.Body = &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: o}}
	return e, headersSettled
}

// row returns what stands of the request in the list of requests.
func (e *Emitter) row(c *call.Call, now time.Time) *rateguardv1.Event {
	r := &c.Result
	latency := now.Sub(c.Start)
	row := &rateguardv1.RequestRecorded{
		RequestId: c.ID, KeyId: c.Key.ID, Route: c.RouteID, Provider: provider(c), Model: c.Asked.Model, Endpoint: c.Endpoint,
		Decision: rateguardv1.Decision_DECISION_DENIED, ErrorCode: string(r.ErrorCode),
		Status: uint32(r.Status), UpstreamStatus: uint32(r.UpstreamStatus), //nolint:gosec // HTTP statuses
		Context: c.Context, Estimated: r.Estimated, PriceVersion: c.Quote.PriceVersion, PolicyVersion: c.Workspace.Version,
		LatencyUs: latency.Microseconds(), OverheadUs: max(0, latency-r.Waited).Microseconds(), Checks: c.Checks,
		RequestBytes: int64(len(c.Body)), ResponseBytes: r.ResponseBytes, StartedAtUnixUs: c.Start.UnixMicro(),
	}
	if !r.FirstByte.IsZero() {
		row.TtftUs = max(1, r.FirstByte.Sub(c.Start).Microseconds())
	}
	if c.Opened {
		row.Decision = rateguardv1.Decision_DECISION_FORWARDED
		row.ReservationIds = []string{call.ReservationID(c)}
		if r.HasCost {
			row.CostNanoUsd = (*int64)(&r.Cost)
		}
		if r.HasUsage {
			row.Usage = r.Usage.Proto()
		}
	} else {
		row.CostNanoUsd = new(int64) // what was not forwarded cost nothing
	}
	out := event(c, "/row", c.Start)
	out.Body = &rateguardv1.Event_RequestRecorded{RequestRecorded: row}
	return out
}
