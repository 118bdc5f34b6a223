package query_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
)

type requestList struct {
	Data []requestRow `json:"data"`
	Next *string      `json:"next"`
}

type requestRow struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	CostUSD *string   `json:"cost_usd"`
	Latency float64   `json:"latency_ms"`
	TTFT    *float64  `json:"ttft_ms"`
}

// TestTheLogIsPagedNewestFirst has several rows at one instant, so that a cursor by time alone would lose some.
func TestTheLogIsPagedNewestFirst(t *testing.T) {
	r := newRig(t)
	var want []string
	for i := range 9 {
		x := newRow(r.mine, noon.Add(time.Duration(i/3)*time.Second))
		r.insert(x)
		want = append(want, x.at.Format(time.RFC3339)+" "+x.id)
	}
	slices.Sort(want)
	slices.Reverse(want)
	var got []string
	cursor := ""
	for {
		var page requestList
		r.get(r.mine, "/requests?limit=2&"+between(noon, noon.Add(time.Hour))+cursor, http.StatusOK, &page)
		for _, x := range page.Data {
			got = append(got, x.Time.Format(time.RFC3339)+" "+x.ID)
		}
		if page.Next == nil {
			break
		}
		cursor = "&cursor=" + *page.Next
	}
	if !slices.Equal(got, want) {
		t.Errorf("log: got %v, want %v", got, want)
	}
}

func TestFilters(t *testing.T) {
	r := newRig(t)
	denied := newRow(r.mine, noon)
	denied.status, denied.denied, denied.route, denied.key = 429, true, "http", "key_b"
	odd := newRow(r.mine, noon)
	odd.model, odd.status = `a'b\n{x:String}"`, 500
	plain := newRow(r.mine, noon.Add(time.Minute))
	r.insert(denied, odd, plain, newRow(r.theirs, noon))
	for query, want := range map[string][]string{
		"":                                    {denied.id, odd.id, plain.id},
		"decision=denied":                     {denied.id},
		"decision=forwarded":                  {odd.id, plain.id},
		"route=http":                          {denied.id},
		"key=key_b":                           {denied.id},
		"status=500":                          {odd.id},
		"status=4xx":                          {denied.id},
		"status=5XX&route=http":               {},
		"endpoint=/v1/embeddings":             {},
		"model=" + url.QueryEscape(odd.model): {odd.id},
		"model=" + url.QueryEscape("' OR 1=1 --"): {},
	} {
		var got requestList
		r.get(r.mine, "/requests?"+between(noon, noon.Add(time.Hour))+"&"+query, http.StatusOK, &got)
		ids := []string{}
		for _, x := range got.Data {
			ids = append(ids, x.ID)
		}
		slices.Sort(ids)
		slices.Sort(want)
		if !slices.Equal(ids, want) {
			t.Errorf("%s: got %v, want %v", query, ids, want)
		}
	}
}

func TestOneRequest(t *testing.T) {
	r := newRig(t)
	cost := int64(123_456_789_012_345_678)
	x := newRow(r.mine, noon)
	x.cost, x.latency = &cost, 12345
	unpriced := newRow(r.mine, noon)
	unpriced.cost = nil
	theirs := newRow(r.theirs, noon)
	r.insert(x, unpriced, theirs)
	var got requestRow
	r.get(r.mine, "/requests/"+x.id, http.StatusOK, &got)
	if got.CostUSD == nil || *got.CostUSD != "123456789.012345678" || got.Latency != 12.345 || got.TTFT != nil || !got.Time.Equal(noon) {
		t.Errorf("row: %+v", got)
	}
	got = requestRow{}
	r.get(r.mine, "/requests/"+unpriced.id, http.StatusOK, &got)
	if got.CostUSD != nil {
		t.Errorf("cost without a price: got %s", *got.CostUSD)
	}
	for _, id := range []string{theirs.id, uuid.NewString(), "x", "%27"} {
		r.get(r.mine, "/requests/"+id, http.StatusNotFound, nil)
		r.get(r.mine, "/requests/"+id+"/explain", http.StatusNotFound, nil)
	}
}

func TestExplainShowsTheLifeOfReservations(t *testing.T) {
	r := newRig(t)
	x := newRow(r.mine, noon)
	x.reservations = []string{x.id + "/1", x.id + "/2"}
	x.checks = `[{"id":"per-minute","limit":60,"used":3}]`
	r.insert(x)
	ledger := func(attempt, revision int, kind string, cost any, reason string) {
		const insert = `INSERT INTO ledger (workspace, reservation_id, revision, request_id, attempt, key_id, route, provider, model, endpoint, kind, cost_nano,
 delta_nano, bound_nano, estimated, usage, price_version, policy_version, holds, reason, opened_at, occurred_at, producer_id, topic_id, log_partition, log_offset, log_idx)
 VALUES ($1, $2, $3, $4, $5, 'k', 'r', 'p', 'm', 'e', $6, $7, 0, 2000000000, false, '{}', 'p1', 1, '[]', $8, $9, $9, 'x', $10, 0, 0, 0)`
		_, err := r.sql.Exec(t.Context(), insert, r.mine, fmt.Sprint(x.id, "/", attempt), revision, x.id, attempt, kind, cost, reason, noon, uuid.New())
		if err != nil {
			t.Fatal(err)
		}
	}
	ledger(1, 1, "voided", 0, "")
	ledger(2, 1, "settled", 1_000_000_001, "")
	ledger(2, 2, "settled", 999_999_999, "repriced")
	var got struct {
		Checks        []map[string]any `json:"checks"`
		PolicyVersion int              `json:"policy_version"`
		Reservations  []struct {
			ID       string `json:"id"`
			BoundUSD string `json:"bound_usd"`
			Outcomes []struct {
				Revision int    `json:"revision"`
				Kind     string `json:"kind"`
				CostUSD  string `json:"cost_usd"`
				Reason   string `json:"reason"`
			} `json:"outcomes"`
		} `json:"reservations"`
	}
	r.get(r.mine, "/requests/"+x.id+"/explain", http.StatusOK, &got)
	if len(got.Checks) != 1 || got.PolicyVersion != 7 {
		t.Errorf("explanation: %+v", got)
	}
	want := fmt.Sprintf("[{%s/1 2 [{1 voided 0 }]} {%s/2 2 [{1 settled 1.000000001 } {2 settled 0.999999999 repriced}]}]", x.id, x.id)
	if text := fmt.Sprint(got.Reservations); text != want {
		t.Errorf("reservations: got %s, want %s", text, want)
	}
}
