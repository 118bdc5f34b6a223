package requests_test

import (
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/rateguard/rateguard/projections/requests"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

var update = flag.Bool("update", false, "write the goldens")

var at = time.Date(2026, 11, 17, 10, 0, 0, 123000, time.UTC)

func recorded(cost *int64) *rateguardv1.RequestRecorded {
	return &rateguardv1.RequestRecorded{
		RequestId: "01a20ac5", KeyId: "key_1", Route: "openai", Provider: "openai", Model: "gpt-4o", Endpoint: "/v1/chat/completions",
		Decision: rateguardv1.Decision_DECISION_FORWARDED, Status: 200, UpstreamStatus: 200, CostNanoUsd: cost, PriceVersion: "p1", PolicyVersion: 7,
		Context:   &rateguardv1.RequestContext{Method: "POST", Stream: true, ClientIp: "10.0.0.1", Country: "AT", IdempotencyKey: "i", Tags: map[string]string{"b": "2", "a": "1"}},
		Usage:     &rateguardv1.Usage{InputTokens: 10, CacheReadTokens: 2, CacheWriteTokens: 3, OutputTokens: 5, ReasoningTokens: 1},
		LatencyUs: 1500, TtftUs: 1 << 40, OverheadUs: -1, ReservationIds: []string{"01a20ac5/1"}, RequestBytes: 100, ResponseBytes: 200,
		Checks: []*rateguardv1.Check{{Id: "l1", Scope: "key", Kind: "limit", Limit: 5, Used: 1, Remaining: 4, DecidedAtUnixUs: at.UnixMicro()}, {
			Id: "b1", Scope: "model", Kind: "limit", Limit: 60, Used: 60, ResetAfterUs: 60e6, Cost: 3, Denied: true, DecidedAtUnixUs: at.UnixMicro(), Unit: "requests",
			Algorithm: "leaky_bucket", WindowUs: 60e6, Burst: 5, Subject: "gpt-4o", RetryAfterUs: 2, DecidedBy: "redis", ClockOffsetUs: -7, DelayUs: 9,
		}},
		StartedAtUnixUs: at.UnixMicro(),
	}
}

func event(body func(*rateguardv1.Event)) *rateguardv1.Event {
	e := &rateguardv1.Event{Id: "e1", ProducerId: "producer-1", Sequence: 4, OccurredAtUnixUs: at.UnixMicro()}
	body(e)
	return e
}

func TestRowsOfEvents(t *testing.T) {
	cost := int64(2_100_000)
	request := func(c *int64) *rateguardv1.Event {
		return event(func(e *rateguardv1.Event) { e.Body = &rateguardv1.Event_RequestRecorded{RequestRecorded: recorded(c)} })
	}
	tests := []struct {
		golden string
		record runner.Record
	}{
		{"forwarded", runner.Record{Event: request(&cost)}},
		{"unpriced", runner.Record{Event: request(nil)}},
		{"after_close", runner.Record{Event: request(&cost), AfterClose: true}},
		{"closed", runner.Record{Event: event(func(e *rateguardv1.Event) {
			e.Body = &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{
				ProducerId: "gone", Rows: []*rateguardv1.RequestRecorded{recorded(&cost), {RequestId: "bare", StartedAtUnixUs: at.UnixMicro()}},
			}}
		})}},
		{"denials", runner.Record{Event: event(func(e *rateguardv1.Event) {
			e.Body = &rateguardv1.Event_DenialsAggregated{DenialsAggregated: &rateguardv1.DenialsAggregated{
				KeyId: "key_1", LimitId: "b\"1", ErrorCode: "budget_exceeded", WindowStartUnixUs: at.UnixMicro(), Count: 40, Status: 402,
			}}
		})}},
		{"denials_by_no_limit", runner.Record{Event: event(func(e *rateguardv1.Event) {
			e.Body = &rateguardv1.Event_DenialsAggregated{DenialsAggregated: &rateguardv1.DenialsAggregated{
				KeyId: "key_1", ErrorCode: "store_unavailable", WindowStartUnixUs: at.UnixMicro(), Count: 1, Status: 503,
			}}
		})}},
	}
	for _, test := range tests {
		t.Run(test.golden, func(t *testing.T) {
			test.record.Workspace, test.record.Offset = "ws_1", 9
			if err := requests.Check(test.record.Event); err != nil {
				t.Fatalf("checking: %v", err)
			}
			got, err := json.MarshalIndent(requests.Project(test.record), "", "  ")
			if err != nil {
				t.Fatalf("writing the rows: %v", err)
			}
			path := "testdata/" + test.golden + ".json"
			if *update {
				if err := os.WriteFile(path, append(got, '\n'), 0o600); err != nil {
					t.Fatalf("writing the golden: %v", err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatalf("reading the golden: %v", err)
			}
			if string(want) != string(got)+"\n" {
				t.Errorf("rows differ from %s:\n%s", path, got)
			}
		})
	}
}
