package query_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/schemas/money"
)

type usage struct {
	Data  []usageRow `json:"data"`
	Next  *string    `json:"next"`
	AsOf  *time.Time `json:"as_of"`
	Stale bool       `json:"stale"`
}

type usageRow struct {
	Time, Hour, Day *time.Time
	Route, Model    string
	Endpoint, Key   string
	Status          int
	Requests        int64    `json:"requests"`
	Errors          int64    `json:"errors"`
	Denied          int64    `json:"denied"`
	InputTokens     int64    `json:"input_tokens"`
	CachedTokens    int64    `json:"cached_tokens"`
	OutputTokens    int64    `json:"output_tokens"`
	CostUSD         string   `json:"cost_usd"`
	P50             *float64 `json:"p50_ms"`
	P99             *float64 `json:"p99_ms"`
}

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// groupings are how the tests group rows themselves, by the names of group_by.
var groupings = map[string]func(row) string{
	"":         func(row) string { return "" },
	"model":    func(x row) string { return x.model },
	"key":      func(x row) string { return x.key },
	"route":    func(x row) string { return x.route },
	"endpoint": func(x row) string { return x.endpoint },
	"status":   func(x row) string { return fmt.Sprint(x.status) },
	"hour":     func(x row) string { return x.at.Truncate(time.Hour).Format(time.RFC3339) },
	"day":      func(x row) string { return x.at.Truncate(24 * time.Hour).Format(time.RFC3339) },
}

// TestSumsEqualTheRows inserts random rows and compares every grouping with sums over the same rows, on whole
// hours (answered from the hourly sums) and on odd ones (the edges answered from the rows).
func TestSumsEqualTheRows(t *testing.T) {
	r := newRig(t)
	random := rand.New(rand.NewPCG(1, 2))
	var rows []row
	for range 500 {
		x := newRow(r.mine, noon.Add(time.Duration(random.Int64N(int64(72*time.Hour))).Truncate(time.Microsecond)))
		x.model = []string{"gpt-4o", "o3", "it's; DROP TABLE requests --\\"}[random.IntN(3)]
		x.key = []string{"key_a", "key_b"}[random.IntN(2)]
		x.route = []string{"openai", "http"}[random.IntN(2)]
		x.status = []int{200, 200, 429, 500}[random.IntN(4)]
		x.denied = x.status == 429
		x.input, x.cached, x.output = random.Int64N(1000), random.Int64N(10), random.Int64N(500)
		cost := random.Int64N(1 << 52) // beyond what a float64 sum keeps exact
		x.cost = &cost
		if random.IntN(10) == 0 {
			x.cost = nil
		}
		rows = append(rows, x)
	}
	r.insert(rows...)
	r.insert(newRow(r.theirs, noon.Add(time.Hour)))
	r.correctSome(random, rows)
	theirs := newRow(r.theirs, noon.Add(time.Hour))
	theirs.cost = new(int64)
	*theirs.cost = 5
	r.correct(true, theirs)
	for name, of := range groupings {
		for _, span := range [][2]time.Time{
			{noon, noon.Add(72 * time.Hour)},
			{noon.Add(17*time.Minute + 3*time.Microsecond), noon.Add(50*time.Hour + time.Second)},
		} {
			t.Run(fmt.Sprintf("%s from %s", name, span[0].Format("15:04")), func(t *testing.T) {
				want := sums(rows, span, of)
				var got usage
				r.get(r.mine, "/usage?limit=10000&group_by="+name+"&"+between(span[0], span[1]), http.StatusOK, &got)
				if len(got.Data) != len(want) {
					t.Fatalf("groups: got %d, want %d", len(got.Data), len(want))
				}
				for _, g := range got.Data {
					compare(t, g, want[groupOf(name, g)])
				}
			})
		}
	}
}

func groupOf(name string, g usageRow) string {
	switch name {
	case "hour":
		return g.Hour.Format(time.RFC3339)
	case "day":
		return g.Day.Format(time.RFC3339)
	case "status":
		return fmt.Sprint(g.Status)
	}
	return map[string]string{"": "", "model": g.Model, "key": g.Key, "route": g.Route, "endpoint": g.Endpoint}[name]
}

type sum struct{ requests, errors, denied, input, cached, output, cost int64 }

func sums(rows []row, span [2]time.Time, of func(row) string) map[string]sum {
	all := map[string]sum{}
	for _, x := range rows {
		if x.at.Before(span[0]) || !x.at.Before(span[1]) {
			continue
		}
		all[of(x)] = all[of(x)].plus(x)
	}
	return all
}

func total(rows []row) sum {
	var s sum
	for _, x := range rows {
		s = s.plus(x)
	}
	return s
}

func (s sum) plus(x row) sum {
	s.requests++
	if x.status >= 400 {
		s.errors++
	}
	if x.denied {
		s.denied++
	}
	s.input, s.cached, s.output = s.input+x.input, s.cached+x.cached, s.output+x.output
	if x.cost != nil {
		s.cost += *x.cost
	}
	return s
}

// sumOf returns the sums of a group in an answer.
func sumOf(g usageRow) (sum, error) {
	cost, err := money.ParseUSD(g.CostUSD)
	return sum{g.Requests, g.Errors, g.Denied, g.InputTokens, g.CachedTokens, g.OutputTokens, int64(cost)}, err
}

func compare(t *testing.T, got usageRow, want sum) {
	t.Helper()
	have, err := sumOf(got)
	if err != nil {
		t.Fatalf("cost_usd: %v", err)
	}
	if have != want {
		t.Errorf("sums: got %+v, want %+v", have, want)
	}
	if got.P50 == nil || *got.P50 != 1 {
		t.Errorf("p50_ms: got %v, want 1", got.P50)
	}
}

func TestIntervalCutsTime(t *testing.T) {
	r := newRig(t)
	for _, minute := range []int{0, 4, 5, 61} {
		r.insert(newRow(r.mine, noon.Add(time.Duration(minute)*time.Minute)))
	}
	for interval, want := range map[string]int{"5m": 3, "hour": 2, "1h": 2, "day": 1, "90s": 4} {
		var got usage
		r.get(r.mine, "/usage?interval="+interval+"&"+between(noon, noon.Add(2*time.Hour)), http.StatusOK, &got)
		if len(got.Data) != want {
			t.Errorf("interval %s: got %d buckets, want %d", interval, len(got.Data), want)
		}
		for i, g := range got.Data {
			if g.Time == nil || i > 0 && !g.Time.After(*got.Data[i-1].Time) {
				t.Errorf("interval %s: bucket %d has time %v", interval, i, g.Time)
			}
		}
	}
}

func TestUsageIsPaged(t *testing.T) {
	r := newRig(t)
	for i := range 5 {
		x := newRow(r.mine, noon)
		x.model = fmt.Sprint("m", i)
		r.insert(x)
	}
	var models []string
	cursor := ""
	for {
		var page usage
		r.get(r.mine, "/usage?group_by=model&limit=2&"+between(noon, noon.Add(time.Hour))+cursor, http.StatusOK, &page)
		for _, g := range page.Data {
			models = append(models, g.Model)
		}
		if page.Next == nil {
			break
		}
		cursor = "&cursor=" + *page.Next
	}
	if got := strings.Join(models, " "); got != "m0 m1 m2 m3 m4" {
		t.Errorf("models: got %s", got)
	}
}

func TestUsageOfNothingIsOneRowOfZeros(t *testing.T) {
	r := newRig(t)
	var got usage
	r.get(r.mine, "/usage", http.StatusOK, &got)
	if len(got.Data) != 1 || got.Data[0].Requests != 0 || got.Data[0].CostUSD != "0" || got.Data[0].P50 != nil {
		t.Errorf("usage: %+v", got.Data)
	}
}

func TestFreshness(t *testing.T) {
	r := newRig(t)
	var got usage
	r.get(r.mine, "/usage", http.StatusOK, &got)
	if !got.Stale || got.AsOf != nil {
		t.Errorf("nothing reported: got %v %v", got.AsOf, got.Stale)
	}
	for _, c := range []struct {
		name                 string
		lag                  int
		asOf, observed, want time.Duration // ago
		stale                bool
	}{
		{"caught up", 0, time.Hour, 0, 0, false},
		{"behind for a moment", 5, time.Second, 0, time.Second, false},
		{"behind", 5, time.Hour, 0, time.Hour, true},
		{"the projection is down", 0, time.Hour, time.Minute, time.Minute, true},
	} {
		now := time.Now().UTC().Truncate(time.Microsecond)
		r.progress(c.lag, now.Add(-c.asOf), now.Add(-c.observed))
		r.get(r.mine, "/usage", http.StatusOK, &got)
		if want := now.Add(-c.want); got.AsOf == nil || !got.AsOf.Equal(want) || got.Stale != c.stale {
			t.Errorf("%s: got %v %v, want %v %v", c.name, got.AsOf, got.Stale, want, c.stale)
		}
	}
}

// TestWithoutClickHouse: configuration works on, and analytics say that they do not and how old they would be.
func TestWithoutClickHouse(t *testing.T) {
	r := newRigOn(t, nowhere, func(string) string { return "http://default@127.0.0.1:1/default" })
	now := time.Now().UTC().Truncate(time.Microsecond)
	r.progress(0, now, now.Add(-time.Minute))
	for _, path := range []string{"/usage", "/requests", "/requests/x", "/requests/x/explain"} {
		var p struct {
			Code  string     `json:"code"`
			Stale bool       `json:"stale"`
			AsOf  *time.Time `json:"as_of"`
		}
		r.get(r.mine, path, http.StatusServiceUnavailable, &p)
		if p.Code != "store_unavailable" || !p.Stale || p.AsOf == nil || !p.AsOf.Equal(now.Add(-time.Minute)) {
			t.Errorf("%s: got %+v", path, p)
		}
	}
	r.get(r.mine, "/routes", http.StatusOK, nil)
}

func TestBadQuestions(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{
		"/usage?from=yesterday", "/usage?to=1", "/usage?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "/usage?from=0001-01-01T00:00:00Z",
		"/usage?group_by=workspace", "/usage?group_by=model,model", "/usage?group_by=model,", "/usage?interval=5", "/usage?interval=-5m", "/usage?interval=1ms",
		"/usage?interval=1s&from=2026-01-01T00:00:00Z&to=2026-02-01T00:00:00Z", "/usage?limit=0", "/usage?cursor=x", "/usage?grup_by=model", "/usage?key=a&key=b",
		"/requests?status=abc", "/requests?status=9xx", "/requests?decision=maybe", "/requests?limit=1001", "/requests?cursor=x", "/requests?workspace=x",
		"/requests?model=" + strings.Repeat("x", 501), "/requests/x?a=b",
	} {
		r.get(r.mine, path, http.StatusBadRequest, nil)
	}
}
