// Package ledger projects the topic of costs into the ledger: every outcome of every reservation, append-only. A
// reservation has one cost; what comes later for it is a correction.
package ledger

import (
	"time"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/projections/outcome"
	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
)

// Row is one row of the ledger; the comments of the columns are in its migration.
type Row struct {
	outcome.Key
	Revision                                int32
	RequestID                               string
	Attempt                                 int32
	KeyID, Route, Provider, Model, Endpoint string
	Kind                                    string
	CostNano                                *int64
	DeltaNano                               int64
	BoundNano                               *int64
	Estimated                               bool
	Usage                                   *rateguardv1.Usage
	PriceVersion                            string
	PolicyVersion                           int64
	Holds                                   []outcome.Hold
	Reason                                  string
	OpenedAt, OccurredAt                    time.Time
	ProducerID                              string
	Apart                                   bool
	TopicID                                 uuid.UUID
	Partition                               int32
	Offset                                  int64
	Index                                   int32
}

// Reasons of corrections that this projection makes itself.
const (
	reasonLate     = "a later end of the same reservation"
	reasonTaken    = "a reservation that was taken from the lease ended later"
	reasonReturned = "the rest of the lease was given back later"
)

const (
	// kindVoided is the kind of what costs nothing.
	kindVoided = "voided"
	// indexOfLease is where the revision of a lease stands in a record: behind the row of the one reservation that the record ends.
	indexOfLease = 1
)

// Keys returns the reservations and leases whose newest rows Project has to be given.
func Keys(rec runner.Record) []outcome.Key {
	list, _, _ := outcome.Of(rec.Event)
	keys := make([]outcome.Key, 0, len(list))
	for _, o := range list {
		keys = append(keys, outcome.KeyOf(rec.Workspace, o.GetReservationId()))
		if mayUncharge(rec, o) {
			keys = append(keys, outcome.KeyOf(rec.Workspace, o.GetLeaseId()))
		}
	}
	return keys
}

// mayUncharge reports whether an outcome names a lease that may be charged: leases are charged by the closing of their producer alone, so that it stands behind one.
func mayUncharge(rec runner.Record, o *rateguardv1.Outcome) bool {
	return o.GetLeaseId() != "" && rec.Event.GetProducerClosed() == nil && (rec.AfterClose || o.GetOpenedBy() != "")
}

// Project returns the rows of one record and notes them in last, which has the newest row of each reservation. An end for a reservation that has
// one is a correction, or nothing when it says the same: there is never a second cost. A lease is no request: it has a row only where something is charged for it.
func Project(last map[outcome.Key]Row, rec runner.Record) []Row {
	list, correction, reason := outcome.Of(rec.Event)
	var rows []Row
	for i, o := range list {
		key := outcome.KeyOf(rec.Workspace, o.GetReservationId())
		row := rowOf(rec, key, o)
		row.Index = int32(i)
		before, ended := last[key]
		row.Revision = outcome.Revision(o)
		row.Apart = rec.AfterClose || rec.Event.GetProducerClosed() != nil
		if ended {
			row.Apart = before.Apart
		}
		switch {
		case ended && o.GetLease() && rec.Event.GetLeaseEnded() != nil:
			rows = append(rows, lessen(last, rec, before, o, reasonReturned)...)
			continue
		case ended && same(before, row):
			continue
		case ended:
			row.Revision = max(row.Revision, before.Revision+1)
			row.Reason = reasonLate
		case o.GetLease() && outcome.Value(row.CostNano) == 0:
			continue
		case mayUncharge(rec, o):
			// A reservation that was taken from a lease which is charged tells its own cost now.
			rows = append(rows, lessen(last, rec, last[outcome.KeyOf(rec.Workspace, o.GetLeaseId())], o, reasonTaken)...)
		}
		if correction {
			row.Reason = postgres.Text(reason)
		}
		row.DeltaNano = outcome.Value(row.CostNano) - outcome.Value(before.CostNano)
		last[key] = row
		rows = append(rows, row)
	}
	return rows
}

// lessen returns the next revision of a lease that is charged less what an outcome holds of each budget; none where nothing is charged for it. It is no estimate once
// nothing is left.
func lessen(last map[outcome.Key]Row, rec runner.Record, row Row, o *rateguardv1.Outcome, reason string) []Row {
	taken := min(spend.HeldOfEach(o), outcome.Value(row.CostNano))
	if taken == 0 {
		return nil
	}
	left := *row.CostNano - taken
	row.Revision++
	row.CostNano, row.DeltaNano, row.Reason = &left, -taken, reason
	if left == 0 {
		row.Kind, row.Estimated = kindVoided, false
	}
	row.OccurredAt, row.ProducerID = outcome.OccurredAt(rec.Event), postgres.Text(rec.Event.GetProducerId())
	row.Offset, row.Index = rec.Offset, indexOfLease
	last[row.Key] = row
	return []Row{row}
}

func same(before, row Row) bool {
	return before.Kind == row.Kind && before.Estimated == row.Estimated &&
		(before.CostNano == nil) == (row.CostNano == nil) && outcome.Value(before.CostNano) == outcome.Value(row.CostNano)
}

func rowOf(rec runner.Record, key outcome.Key, o *rateguardv1.Outcome) Row {
	e, s := rec.Event, o.GetSubject()
	row := Row{
		Key: key, RequestID: postgres.Text(s.GetRequestId()), Attempt: outcome.Attempt(s), KeyID: postgres.Text(s.GetKeyId()),
		Route: postgres.Text(s.GetRoute()), Provider: postgres.Text(s.GetProvider()), Model: postgres.Text(s.GetModel()),
		Endpoint: postgres.Text(s.GetEndpoint()), Kind: outcome.Kind(o), CostNano: outcome.Cost(o), BoundNano: o.BoundNanoUsd,
		Estimated: o.GetEstimated(), Usage: o.GetUsage(), PriceVersion: postgres.Text(s.GetPriceVersion()),
		PolicyVersion: outcome.Signed(s.GetPolicyVersion()), Holds: outcome.Holds(o.GetHolds()),
		OpenedAt: outcome.OpenedAt(e, s), OccurredAt: outcome.OccurredAt(e), ProducerID: postgres.Text(e.GetProducerId()), Offset: rec.Offset,
	}
	if closed := e.GetProducerClosed(); closed != nil {
		row.ProducerID = postgres.Text(closed.GetProducerId())
	}
	return row
}
