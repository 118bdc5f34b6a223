package query_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// statement is one question as it reached ClickHouse.
type statement struct{ sql, parameters string }

// tap stands before ClickHouse and remembers the questions for sums.
type tap struct {
	proxy http.Handler
	mu    sync.Mutex
	seen  []statement
}

// newTap returns a tap and the URL that leads through it to a database.
func newTap(t *testing.T) (*tap, func(database string) string) {
	t.Helper()
	tp := &tap{}
	return tp, inFront(t, func(next http.Handler) http.Handler {
		tp.proxy = next
		return tp
	})
}

// inFront puts a handler in front of ClickHouse and returns the URL that leads through it to a database.
func inFront(t *testing.T, wrap func(next http.Handler) http.Handler) func(database string) string {
	t.Helper()
	target, err := url.Parse(analytics.URL())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(wrap(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.Out.URL.Scheme, r.Out.URL.Host = "http", target.Host
	}}))
	t.Cleanup(server.Close)
	return func(database string) string {
		u := *target
		u.Host = strings.TrimPrefix(server.URL, "http://")
		return withPath(t, u.String(), database)
	}
}

func (p *tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	if bytes.Contains(body, []byte("UNION ALL")) || bytes.Contains(body, []byte("sum(requests)")) && bytes.HasPrefix(body, []byte("SELECT")) {
		p.mu.Lock()
		p.seen = append(p.seen, statement{string(body), r.URL.RawQuery})
		p.mu.Unlock()
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	p.proxy.ServeHTTP(w, r)
}

// explain returns the plan of the last question, by the same engine with the same values.
func (p *tap) explain(t *testing.T) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.seen) == 0 {
		t.Fatal("no question reached ClickHouse")
	}
	last := p.seen[len(p.seen)-1]
	p.seen = nil
	q, err := url.ParseQuery(last.parameters)
	if err != nil {
		t.Fatal(err)
	}
	q.Set("default_format", "TSVRaw")
	q.Del("query_id")
	u, err := url.Parse(analytics.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Path, u.RawQuery = "/", q.Encode()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u.String(), strings.NewReader("EXPLAIN "+last.sql))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("explaining: %v", err)
	}
	defer func() { _ = resp.Body.Close() }()
	plan, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("explaining: %d %v %s", resp.StatusCode, err, plan)
	}
	return string(plan)
}

// TestWholeHoursComeFromTheProjection looks at the plan of each question: what it reads, and how often.
func TestWholeHoursComeFromTheProjection(t *testing.T) {
	tp, through := newTap(t)
	r := newRigOn(t, nowhere, through)
	r.create()
	// The rows of an hour, and of some more, must outweigh their sum, or reading the rows would be right.
	now := time.Now().UTC().Truncate(time.Hour)
	var rows []row
	for i := range 20_000 {
		rows = append(rows, newRow(r.mine, now.Add(-time.Duration(i)*9*time.Second)))
	}
	r.insert(rows...)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name, question string
		hourly, rows   int
	}{
		{"by default", "", 1, 2},
		{"odd bounds", "group_by=model,endpoint&" + between(ago(25*time.Hour+time.Microsecond), ago(61*time.Minute)), 1, 2},
		{"odd bounds, with filters", "group_by=key&model=gpt-4o&route=openai&endpoint=%2Fv1%2Fchat%2Fcompletions&key=key_a&" + between(ago(20*time.Hour+time.Second), ago(time.Second)), 1, 2},
		{"by all there is", "group_by=route,model,endpoint,key,status,hour,day&interval=2h&" + between(ago(20*time.Hour+time.Second), ago(time.Second)), 1, 2},
		{"whole hours", "group_by=day&" + between(ago(20*time.Hour), ago(time.Hour)), 1, 0},
		{"from a whole hour", "interval=day&" + between(ago(20*time.Hour), ago(time.Minute)), 1, 1},
		{"to a whole hour", "interval=hour&" + between(ago(20*time.Hour+time.Minute), ago(0)), 1, 1},
		{"within an hour", between(ago(59*time.Minute), ago(time.Minute)), 0, 1},
		{"cut finer than an hour", "interval=90m&" + between(ago(20*time.Hour), ago(time.Hour)), 0, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			r.t = t
			r.get(r.mine, "/usage?"+c.question, http.StatusOK, nil)
			plan := tp.explain(t)
			hourly := strings.Count(plan, "ReadFromMergeTree (hourly)")
			// No corrections: neither their table nor the rows of requests that they replace are read.
			if all := strings.Count(plan, "ReadFromMergeTree") - strings.Count(plan, "Parts: 0 |"); hourly != c.hourly || all-hourly > c.rows {
				t.Errorf("reads: got %d of the projection and %d of rows, want %d and at most %d:\n%s", hourly, all-hourly, c.hourly, c.rows, plan)
			}
		})
	}
}

// TestSumsAreThoseOfAScanWhateverTheBounds compares questions with bounds of all kinds with sums over the same rows.
func TestSumsAreThoseOfAScanWhateverTheBounds(t *testing.T) {
	r := newRig(t)
	random := rand.New(rand.NewPCG(3, 4))
	var rows []row
	for range 4 { // parts
		var part []row
		for range 400 {
			part = append(part, anyRow(random, r.mine))
		}
		r.insert(part...)
		rows = append(rows, part...)
	}
	r.correctSome(random, rows)
	bound := rapid.Custom(func(t *rapid.T) time.Time {
		at := noon.Add(time.Duration(rapid.IntRange(-2, 32).Draw(t, "hour")) * time.Hour)
		// On the hour, beside it, on a row, or anywhere.
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return at
		case 1:
			return at.Add(time.Duration(rapid.IntRange(-2000, 2000).Draw(t, "nanoseconds")))
		case 2:
			return rows[rapid.IntRange(0, len(rows)-1).Draw(t, "row")].at
		default:
			return at.Add(time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "offset")))
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		from, to := bound.Draw(rt, "from"), bound.Draw(rt, "to")
		if from.Equal(to) {
			return
		}
		if to.Before(from) {
			from, to = to, from
		}
		name := rapid.SampledFrom([]string{"", "model", "key", "hour", "day", "status"}).Draw(rt, "group")
		var got usage
		r.get(r.mine, "/usage?limit=10000&group_by="+name+"&"+between(from, to), http.StatusOK, &got)
		in := slices.DeleteFunc(slices.Clone(rows), func(x row) bool { return x.at.Before(from) || !x.at.Before(to) })
		checkSums(rt, name, got, in)
	})
}

func anyRow(random *rand.Rand, ws string) row {
	x := newRow(ws, noon.Add(time.Duration(random.Int64N(int64(30*time.Hour))).Truncate(time.Microsecond)))
	if random.IntN(4) == 0 {
		x.at = x.at.Truncate(time.Hour).Add(time.Duration(random.IntN(3)-1) * time.Microsecond)
	}
	x.model = []string{"gpt-4o", "o3"}[random.IntN(2)]
	x.key = []string{"key_a", "key_b"}[random.IntN(2)]
	x.status = []int{200, 429, 500}[random.IntN(3)]
	x.denied = x.status == 429
	x.input, x.cached, x.output = random.Int64N(1000), random.Int64N(10), random.Int64N(500)
	x.latency = random.Uint32N(1_000_000)
	if x.cost = nil; random.IntN(10) > 0 {
		cost := random.Int64N(1 << 52) // beyond what a float64 sum keeps exact
		x.cost = &cost
	}
	return x
}

// checkSums compares an answer with sums over the rows that it is about.
func checkSums(t *rapid.T, name string, got usage, rows []row) {
	groups := map[string][]row{}
	for _, x := range rows {
		of := groupings[name](x)
		groups[of] = append(groups[of], x)
	}
	if len(rows) == 0 && name == "" {
		groups[""] = nil // the sum over nothing
	}
	if len(got.Data) != len(groups) {
		t.Fatalf("groups: got %d, want %d", len(got.Data), len(groups))
	}
	for _, g := range got.Data {
		of := groupOf(name, g)
		in, ok := groups[of]
		if !ok {
			t.Fatalf("group %q has no rows", of)
		}
		have, err := sumOf(g)
		if want := total(in); err != nil || have != want {
			t.Fatalf("group %q: got %+v, %v, want %+v", of, have, err, want)
		}
		if err := checkPercentiles(g, in); err != nil {
			t.Fatalf("group %q: %v", of, err)
		}
	}
}

// checkPercentiles allows what a digest may be off: a value belongs to a rank near the one that was asked for.
func checkPercentiles(g usageRow, rows []row) error {
	if len(rows) == 0 {
		if g.P50 != nil || g.P99 != nil {
			return fmt.Errorf("percentiles of nothing: %v, %v", g.P50, g.P99)
		}
		return nil
	}
	var sorted []float64
	for _, x := range rows {
		sorted = append(sorted, float64(x.latency)/1000)
	}
	slices.Sort(sorted)
	for _, p := range []struct {
		q   float64
		got *float64
	}{{0.5, g.P50}, {0.99, g.P99}} {
		at := func(q float64) float64 {
			return sorted[min(max(int(q*float64(len(sorted))), 0), len(sorted)-1)]
		}
		slack := 0.02 + 1.5/float64(len(sorted))
		if low, high := at(p.q-slack), at(p.q+slack); p.got == nil || *p.got < low-0.1 || *p.got > high+0.1 {
			return fmt.Errorf("percentile %v of %d rows: got %v, want %v to %v", p.q, len(rows), p.got, low, high)
		}
	}
	return nil
}

// correctSome corrects some of the rows, by a difference or by all of their cost, and puts the new costs into them.
func (r *rig) correctSome(random *rand.Rand, rows []row) {
	r.t.Helper()
	var differences, wholes []row
	for i := range rows {
		by := random.Int64N(1<<50) - 1<<49
		correction, cost := rows[i], by
		correction.cost = &by
		switch random.IntN(6) {
		case 0:
			differences = append(differences, correction)
			if rows[i].cost != nil {
				cost += *rows[i].cost
			}
			rows[i].cost = &cost
		case 1:
			wholes = append(wholes, correction)
			rows[i].cost = &cost
		}
	}
	r.correct(false, differences...)
	r.correct(true, wholes...)
}
