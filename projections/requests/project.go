// Package requests projects the topic of requests into the analytics table: one row a request. Rows
// carry where in the log they come from; sums by hour are kept by the table itself.
package requests

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Row is one row of the table; the comments of the columns are in its migration.
type Row struct {
	Workspace                                                                  string
	Time                                                                       time.Time
	ID                                                                         string
	Requests                                                                   uint64
	KeyID, Route, Provider, Model, Endpoint, Method                            string
	Status, UpstreamStatus                                                     uint16
	Decision, ErrorCode                                                        string
	Stream                                                                     bool
	InputTokens, CachedTokens, CacheWriteTokens, OutputTokens, ReasoningTokens int64
	CostNano                                                                   *int64
	Estimated                                                                  bool
	PriceVersion                                                               string
	PolicyVersion                                                              uint64
	LatencyUS, TTFTUS, OverheadUS                                              uint32
	RequestBytes, ResponseBytes                                                uint64
	ClientIP, Country, IdempotencyKey                                          string
	Tags                                                                       map[string]string
	ReservationIDs                                                             []string
	Checks                                                                     string
	ProducerID                                                                 string
	Generation                                                                 string
	TopicID                                                                    uuid.UUID
	Partition                                                                  int32
	Offset                                                                     int64
	Index                                                                      uint32
}

// columns are the table's columns in the order of Row.values.
var columns = []string{
	"workspace", "time", "id", "requests", "key_id", "route", "provider", "model", "endpoint", "method",
	"status", "upstream_status", "decision", "error_code", "stream",
	"input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens",
	"cost_nano", "estimated", "price_version", "policy_version", "latency_us", "ttft_us", "overhead_us",
	"request_bytes", "response_bytes", "client_ip", "country", "idempotency_key", "tags", "reservation_ids", "checks", "producer_id",
	"_generation", "_topic_id", "_partition", "_offset", "_idx",
}

func (r *Row) values() []any {
	return []any{
		r.Workspace, r.Time, r.ID, r.Requests, r.KeyID, r.Route, r.Provider, r.Model, r.Endpoint, r.Method,
		r.Status, r.UpstreamStatus, r.Decision, r.ErrorCode, r.Stream,
		r.InputTokens, r.CachedTokens, r.CacheWriteTokens, r.OutputTokens, r.ReasoningTokens,
		r.CostNano, r.Estimated, r.PriceVersion, r.PolicyVersion, r.LatencyUS, r.TTFTUS, r.OverheadUS,
		r.RequestBytes, r.ResponseBytes, r.ClientIP, r.Country, r.IdempotencyKey, r.Tags, r.ReservationIDs, r.Checks, r.ProducerID,
		r.Generation, r.TopicID, r.Partition, r.Offset, r.Index,
	}
}

// Times outside of these bounds are no times of requests; each would open a partition of the table.
var (
	earliest = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

// Check returns why an event cannot be a row, nil when it can or has none.
func Check(e *rateguardv1.Event) error {
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_RequestRecorded:
		return checkRequest(e, body.RequestRecorded)
	case *rateguardv1.Event_ProducerClosed:
		for i, r := range body.ProducerClosed.GetRows() {
			if err := checkRequest(e, r); err != nil {
				return fmt.Errorf("row %d: %w", i, err)
			}
		}
	case *rateguardv1.Event_DenialsAggregated:
		d := body.DenialsAggregated
		if d.GetCount() <= 0 {
			return fmt.Errorf("denials: count %d", d.GetCount())
		}
		if e.GetId() == "" {
			return errors.New("denials: event has no id")
		}
		return checkTime(d.GetWindowStartUnixUs())
	}
	return nil
}

func checkRequest(e *rateguardv1.Event, r *rateguardv1.RequestRecorded) error {
	if r.GetRequestId() == "" {
		return errors.New("request has no id")
	}
	if r.CostNanoUsd != nil && r.GetCostNanoUsd() < 0 {
		return fmt.Errorf("request %s: negative cost", r.GetRequestId())
	}
	if err := checkTime(startOf(e, r)); err != nil {
		return fmt.Errorf("request %s: %w", r.GetRequestId(), err)
	}
	return nil
}

func checkTime(us int64) error {
	if t := time.UnixMicro(us); t.Before(earliest) || !t.Before(latest) {
		return fmt.Errorf("time %d µs is out of range", us)
	}
	return nil
}

// Span numbers the month of an event, which is a partition of the table.
func Span(e *rateguardv1.Event) int {
	us := e.GetOccurredAtUnixUs()
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_RequestRecorded:
		us = startOf(e, body.RequestRecorded)
	case *rateguardv1.Event_DenialsAggregated:
		us = body.DenialsAggregated.GetWindowStartUnixUs()
	}
	t := time.UnixMicro(us).UTC()
	return t.Year()*12 + int(t.Month())
}

// startOf returns when a request began.
func startOf(e *rateguardv1.Event, r *rateguardv1.RequestRecorded) int64 {
	if us := r.GetStartedAtUnixUs(); us != 0 {
		return us
	}
	return e.GetOccurredAtUnixUs()
}

// Project returns the rows of one record, without the batch's part of their lineage. Records of a producer that was
// closed before have none: the closing brought their rows.
func Project(rec runner.Record) []Row {
	e := rec.Event
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_RequestRecorded:
		if rec.AfterClose {
			return nil
		}
		return []Row{requestRow(rec, e.GetProducerId(), body.RequestRecorded, 0)}
	case *rateguardv1.Event_ProducerClosed:
		rows := make([]Row, 0, len(body.ProducerClosed.GetRows()))
		for i, r := range body.ProducerClosed.GetRows() {
			rows = append(rows, requestRow(rec, body.ProducerClosed.GetProducerId(), r, i))
		}
		return rows
	case *rateguardv1.Event_DenialsAggregated:
		if rec.AfterClose {
			return nil
		}
		d := body.DenialsAggregated
		return []Row{{
			Workspace: rec.Workspace, Time: time.UnixMicro(d.GetWindowStartUnixUs()).UTC(), ID: e.GetId(),
			Requests: uint64(d.GetCount()), //nolint:gosec // checked to be positive
			KeyID:    d.GetKeyId(), Decision: "denied", ErrorCode: d.GetErrorCode(), Status: clamp16(d.GetStatus()),
			CostNano: new(int64), // what was not forwarded cost nothing
			Checks:   refusal(d.GetLimitId()), ProducerID: e.GetProducerId(),
			Offset: rec.Offset, Tags: map[string]string{}, ReservationIDs: []string{},
		}}
	}
	return nil
}

func requestRow(rec runner.Record, producer string, r *rateguardv1.RequestRecorded, index int) Row {
	c, u := r.GetContext(), r.GetUsage()
	row := Row{
		Workspace: rec.Workspace, Time: time.UnixMicro(startOf(rec.Event, r)).UTC(), ID: r.GetRequestId(), Requests: 1,
		KeyID: r.GetKeyId(), Route: r.GetRoute(), Provider: r.GetProvider(), Model: r.GetModel(), Endpoint: r.GetEndpoint(),
		Method: c.GetMethod(), Status: clamp16(r.GetStatus()), UpstreamStatus: clamp16(r.GetUpstreamStatus()),
		Decision: decision(r.GetDecision()), ErrorCode: r.GetErrorCode(), Stream: c.GetStream(),
		InputTokens: u.GetInputTokens(), CachedTokens: u.GetCacheReadTokens(), CacheWriteTokens: u.GetCacheWriteTokens(),
		OutputTokens: u.GetOutputTokens(), ReasoningTokens: u.GetReasoningTokens(),
		CostNano: r.CostNanoUsd, Estimated: r.GetEstimated(), PriceVersion: r.GetPriceVersion(), PolicyVersion: r.GetPolicyVersion(),
		LatencyUS: clamp32(r.GetLatencyUs()), TTFTUS: clamp32(r.GetTtftUs()), OverheadUS: clamp32(r.GetOverheadUs()),
		RequestBytes: uint64(max(r.GetRequestBytes(), 0)), ResponseBytes: uint64(max(r.GetResponseBytes(), 0)),
		ClientIP: c.GetClientIp(), Country: c.GetCountry(), IdempotencyKey: c.GetIdempotencyKey(),
		Tags: c.GetTags(), ReservationIDs: r.GetReservationIds(), Checks: checks(r.GetChecks()), ProducerID: producer,
		Offset: rec.Offset, Index: uint32(index), //nolint:gosec // rows of one record
	}
	if row.Tags == nil {
		row.Tags = map[string]string{}
	}
	if row.ReservationIDs == nil {
		row.ReservationIDs = []string{}
	}
	return row
}

func decision(d rateguardv1.Decision) string {
	switch d {
	case rateguardv1.Decision_DECISION_FORWARDED:
		return "forwarded"
	case rateguardv1.Decision_DECISION_DENIED:
		return "denied"
	default:
		return ""
	}
}

func clamp16(v uint32) uint16 { return uint16(min(v, math.MaxUint16)) }

func clamp32(v int64) uint32 { return uint32(min(max(v, 0), math.MaxUint32)) }
