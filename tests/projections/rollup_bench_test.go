package projections_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/projections/clickhouse"
)

// benchRows is the size of the table: a month of 2 requests a second.
const benchRows = 5_000_000

// BenchmarkMonthByModelAndEndpoint measures the sum of a month by model and endpoint, with the rollup and without.
func BenchmarkMonthByModelAndEndpoint(b *testing.B) {
	ctx := context.WithoutCancel(b.Context())
	if err := shared.start(ctx); err != nil {
		b.Fatalf("starting the engines: %v", err)
	}
	conn, err := clickhouse.Open(shared.clickhouse.URL())
	if err != nil {
		b.Fatalf("opening ClickHouse: %v", err)
	}
	defer func() { _ = conn.Close() }()
	generation := uuid.NewString()
	if err := clickhouse.Requests(conn).Create(ctx, generation); err != nil {
		b.Fatalf("creating the table: %v", err)
	}
	// In twenty inserts, so that the table has several parts as a live one does; rows come in the order of time.
	for i := range 20 {
		err := conn.Exec(ctx, fmt.Sprintf(`INSERT INTO requests (workspace, time, id, key_id, route, provider, model, endpoint, status, decision,
 input_tokens, output_tokens, cost_nano, latency_us, _generation)
SELECT concat('ws_', toString(number %% 5)), toDateTime64('2026-11-01 00:00:00', 6, 'UTC') + toIntervalMillisecond(number * 500),
 toString(generateUUIDv4()), concat('key_', toString(number %% 20)), 'openai', 'openai', concat('model-', toString(number %% 7)),
 '/v1/chat/completions', if(number %% 50 = 0, 500, 200), 'forwarded', number %% 1000, number %% 300, number %% 100000, number %% 900000, '%s'
FROM numbers(%d, %d)`, generation, i*benchRows/20, benchRows/20))
		if err != nil {
			b.Fatalf("filling the table: %v", err)
		}
	}
	for _, test := range []struct {
		sums string
		use  int
	}{
		{"sum(requests), sum(cost_nano), sum(input_tokens), sum(output_tokens)", 1},
		{"sum(requests), sum(cost_nano), sum(input_tokens), sum(output_tokens)", 0},
		{"quantilesTDigest(0.5, 0.95, 0.99)(latency_us)", 1},
		{"quantilesTDigest(0.5, 0.95, 0.99)(latency_us)", 0},
	} {
		sums, use := test.sums, test.use
		b.Run(fmt.Sprintf("%.9s/projection=%d", sums, use), func(b *testing.B) {
			for b.Loop() {
				rows, err := conn.Query(ctx, fmt.Sprintf(`SELECT model, endpoint, %s
 FROM requests WHERE workspace = 'ws_1' AND toStartOfHour(time) >= toDateTime('2026-11-01 00:00:00', 'UTC')
  AND toStartOfHour(time) < toDateTime('2026-12-01 00:00:00', 'UTC') GROUP BY model, endpoint
 SETTINGS optimize_use_projections = %d, force_optimize_projection = %d`, sums, use, use))
				if err != nil {
					b.Fatalf("querying: %v", err)
				}
				n := 0
				for rows.Next() {
					n++
				}
				if err := rows.Err(); err != nil || n == 0 {
					b.Fatalf("querying: %d rows, %v", n, err)
				}
				_ = rows.Close()
			}
		})
	}
}
