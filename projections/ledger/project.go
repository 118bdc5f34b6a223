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
	TopicID                                 uuid.UUID
	Partition                               int32
	Offset                                  int64
	Index                                   int32
}

// Last is what the projection has to know of a reservation: its newest row.
type Last struct {
	Revision  int32
	Kind      string
	CostNano  *int64
	Estimated bool
}

// Reasons of corrections that this projection makes itself.
const reasonLate = "a later end of the same reservation"

// Keys returns the reservations whose last rows Project has to be given.
func Keys(rec runner.Record) []outcome.Key {
	list, _, _ := outcome.Of(rec.Event)
	keys := make([]outcome.Key, len(list))
	for i, o := range list {
		keys[i] = outcome.KeyOf(rec.Workspace, o.GetReservationId())
	}
	return keys
}

// Project returns the rows of one record and notes them in last. An end for a reservation that has
// one is a correction, or nothing when it says the same: there is never a second cost.
func Project(last map[outcome.Key]Last, rec runner.Record) []Row {
	list, correction, reason := outcome.Of(rec.Event)
	var rows []Row
	for i, o := range list {
		key := outcome.KeyOf(rec.Workspace, o.GetReservationId())
		row := rowOf(rec, key, o)
		row.Index = int32(i)
		before, ended := last[key]
		row.Revision = outcome.Revision(o)
		if ended {
			if same(before, row) {
				continue
			}
			row.Revision = max(row.Revision, before.Revision+1)
			row.Reason = reasonLate
		}
		if correction {
			row.Reason = postgres.Text(reason)
		}
		row.DeltaNano = outcome.Value(row.CostNano) - outcome.Value(before.CostNano)
		last[key] = Last{Revision: row.Revision, Kind: row.Kind, CostNano: row.CostNano, Estimated: row.Estimated}
		rows = append(rows, row)
	}
	return rows
}

func same(before Last, row Row) bool {
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
