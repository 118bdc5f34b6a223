package projections_test

import (
	"testing"
)

// verify compares every store with the oracle.
func (r *rig) verify(want want) {
	r.t.Helper()
	r.verifyRequests(want)
	r.verifyCorrections(want)
	ctx := r.t.Context()
	var rows, posted int64
	if err := r.pg.QueryRow(ctx, "SELECT count(*), coalesce(sum(delta_nano), 0)::bigint FROM ledger").Scan(&rows, &posted); err != nil {
		r.t.Fatalf("reading the ledger: %v", err)
	}
	equal(r.t, "ledger rows", rows, want.ledger)
	equal(r.t, "ledger sum", posted, want.posted)
	for _, scope := range []string{"total", "month", "budget"} {
		var posted, reserved, open int64
		err := r.pg.QueryRow(ctx, `SELECT coalesce(sum(posted_nano), 0)::bigint, coalesce(sum(reserved_nano), 0)::bigint, coalesce(sum(open_count), 0)::bigint
 FROM balances WHERE scope = $1`, scope).Scan(&posted, &reserved, &open)
		if err != nil {
			r.t.Fatalf("reading balances: %v", err)
		}
		equal(r.t, "posted in scope "+scope, posted, want.posted)
		equal(r.t, "reserved in scope "+scope, reserved, want.reserved)
		equal(r.t, "open in scope "+scope, open, want.open)
	}
}

// verifyCorrections compares the table of corrections with the oracle, and what both tables together say of costs with the ledger's sum.
func (r *rig) verifyCorrections(want want) {
	r.t.Helper()
	ctx := r.t.Context()
	var rows, lineages, revisions uint64
	err := r.ch.QueryRow(ctx, "SELECT count(), uniqExact(_topic_id, _partition, _offset, _idx), uniqExact(workspace, reservation_id, revision) FROM corrections").
		Scan(&rows, &lineages, &revisions)
	if err != nil {
		r.t.Fatalf("reading corrections: %v", err)
	}
	equal(r.t, "corrections", int64(rows), want.corrections)
	equal(r.t, "lineages of corrections", int64(lineages), want.corrections)
	equal(r.t, "revisions of corrections", int64(revisions), want.corrections)
	var cost int64
	err = r.ch.QueryRow(ctx, `SELECT (SELECT ifNull(sum(cost_nano), 0) FROM requests WHERE (workspace, id) NOT IN (SELECT workspace, request_id FROM corrections WHERE apart))
 + (SELECT sum(delta_nano) FROM corrections)`).Scan(&cost)
	if err != nil {
		r.t.Fatalf("reading corrected costs: %v", err)
	}
	equal(r.t, "cost of requests as corrected", cost, want.posted)
}

func (r *rig) verifyRequests(want want) {
	r.t.Helper()
	ctx := r.t.Context()
	var rows, ids, lineages uint64
	var cost, input int64
	err := r.ch.QueryRow(ctx, `SELECT count(), uniqExact(id), uniqExact(_topic_id, _partition, _offset, _idx), ifNull(sum(cost_nano), 0), sum(input_tokens)
 FROM requests`).Scan(&rows, &ids, &lineages, &cost, &input)
	if err != nil {
		r.t.Fatalf("reading requests: %v", err)
	}
	equal(r.t, "requests", int64(rows), want.requests)
	equal(r.t, "ids of requests", int64(ids), want.requests)
	equal(r.t, "lineages of requests", int64(lineages), want.requests)
	equal(r.t, "cost of requests", cost, want.cost)
	equal(r.t, "input tokens of requests", input, want.input)
	// The rollup has to say the same; force_optimize_projection fails where it is not used.
	var rolled, rolledCost int64
	err = r.ch.QueryRow(ctx, `SELECT toInt64(sum(r)), ifNull(sum(c), 0) FROM (
 SELECT model, sum(requests) AS r, sum(cost_nano) AS c FROM requests GROUP BY model
 SETTINGS force_optimize_projection = 1)`).Scan(&rolled, &rolledCost)
	if err != nil {
		r.t.Fatalf("reading the rollup: %v", err)
	}
	equal(r.t, "requests in the rollup", rolled, want.requests)
	equal(r.t, "cost in the rollup", rolledCost, want.cost)
}

func equal(t *testing.T, what string, got, want int64) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %d, want %d", what, got, want)
	}
}
