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
	reasonLate  = "a later end of the same reservation"
	reasonTaken = "a reservation that was taken from the lease came later"
)

// Keys returns the reservations and leases whose newest rows Project has to be given.
func Keys(rec runner.Record) []outcome.Key {
	if o := lateTaking(rec); o != nil {
		return []outcome.Key{outcome.KeyOf(rec.Workspace, o.GetReservationId()), outcome.KeyOf(rec.Workspace, o.GetLeaseId())}
	}
	list, _, _ := outcome.Of(rec.Event)
	keys := make([]outcome.Key, len(list))
	for i, o := range list {
		keys[i] = outcome.KeyOf(rec.Workspace, o.GetReservationId())
	}
	return keys
}

// lateTaking returns the opening of a reservation whose lease may be charged; nil for any other record. Leases are charged by the closing of their
// producer alone.
func lateTaking(rec runner.Record) *rateguardv1.ReservationOpened {
	o := rec.Event.GetReservationOpened()
	if !rec.AfterClose || o.GetLeaseId() == "" || len(o.GetHolds()) == 0 {
		return nil
	}
	return o
}

// Project returns the rows of one record and notes them in last, which has the newest row of each reservation. An end for a reservation that has
// one is a correction, or nothing when it says the same: there is never a second cost. A lease is no request: it has a row only where something is charged for it.
func Project(last map[outcome.Key]Row, rec runner.Record) []Row {
	if o := lateTaking(rec); o != nil {
		return uncharge(last, rec, o)
	}
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
		case ended && same(before, row):
			continue
		case ended:
			row.Revision = max(row.Revision, before.Revision+1)
			row.Reason = reasonLate
		case o.GetLease() && outcome.Value(row.CostNano) == 0:
			continue
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

// uncharge returns the next revision of a lease that was charged, as a reservation that was taken from it has come to light, which will tell its
// own cost.
func uncharge(last map[outcome.Key]Row, rec runner.Record, o *rateguardv1.ReservationOpened) []Row {
	if _, ended := last[outcome.KeyOf(rec.Workspace, o.GetReservationId())]; ended {
		return nil // the closing knew it
	}
	key := outcome.KeyOf(rec.Workspace, o.GetLeaseId())
	row := last[key]
	taken := min(o.GetHolds()[0].GetAmountNanoUsd(), outcome.Value(row.CostNano))
	if taken == 0 {
		return nil
	}
	left := *row.CostNano - taken
	row.Revision++
	row.CostNano, row.DeltaNano, row.Reason = &left, -taken, reasonTaken
	row.OccurredAt, row.ProducerID, row.Offset, row.Index = outcome.OccurredAt(rec.Event), postgres.Text(rec.Event.GetProducerId()), rec.Offset, 0
	last[key] = row
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
