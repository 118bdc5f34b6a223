package projections_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/projections/clickhouse"
)

// benchRows is the size of the table: a month of 2 requests a second.
const benchRows = 5_000_000

// BenchmarkMonthByModelAndEndpoint measures the sum of a month by model and endpoint, with the rollup and without:
// go test -run '^$' -bench Month -benchtime 10x ./projections/ (in tests).
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
	const (
		quantiles = ", quantilesTDigestState(0.5, 0.95, 0.99)(latency_us) AS s4"
		merged    = ", quantilesTDigestMerge(0.5, 0.95, 0.99)(s4)"
	)
	for _, test := range []struct{ name, state, merge string }{{"sums", "", ""}, {"percentiles", quantiles, merged}} {
		for _, use := range []int{1, 0} {
			b.Run(fmt.Sprintf("%s/projection=%d", test.name, use), func(b *testing.B) {
				sql := monthSQL(test.state, test.merge, use)
				for b.Loop() {
					rows, err := conn.Query(ctx, sql)
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
}

// monthSQL asks as the usage API does for a span with odd bounds: whole hours, and an edge at each side.
func monthSQL(state, merge string, use int) string {
	const sums = "sum(requests) AS s0, sum(cost_nano) AS s1, sum(input_tokens) AS s2, sum(output_tokens) AS s3"
	piece := func(bucket, from, to string) string {
		return fmt.Sprintf(`SELECT model AS g0, endpoint AS g1, %s%s FROM requests WHERE workspace = 'ws_1'
 AND %[3]s >= toDateTime64('%[4]s', 6, 'UTC') AND %[3]s < toDateTime64('%[5]s', 6, 'UTC') GROUP BY g0, g1`, sums, state, bucket, from, to)
	}
	pieces := []string{
		piece("toStartOfHour(time)", "2026-11-01 01:00:00", "2026-11-29 21:00:00"),
		piece("time", "2026-11-01 00:20:00", "2026-11-01 01:00:00"), piece("time", "2026-11-29 21:00:00", "2026-11-29 21:20:00"),
	}
	return fmt.Sprintf(`SELECT g0, g1, sum(s0), sum(s1), sum(s2), sum(s3)%s FROM (%s) GROUP BY g0, g1 ORDER BY g0, g1
 SETTINGS optimize_use_projections = %d`, merge, strings.Join(pieces, " UNION ALL "), use)
}
