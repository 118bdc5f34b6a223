package query

import (
	"context"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/money"
)

// UsageParameters are the query parameters that Usage understands.
var UsageParameters = []string{"from", "to", "interval", "group_by", "route", "model", "endpoint", "key", "limit", "cursor"}

// Usage is the answer to one question for sums.
type Usage struct {
	From time.Time  `json:"from"`
	To   time.Time  `json:"to"`
	Data []UsageRow `json:"data"`
	Next *string    `json:"next"`
	Freshness
}

// UsageRow is the sum of one group. A field of the grouping is nil where the question did not group by it.
type UsageRow struct {
	Time         *time.Time `json:"time,omitempty"`
	Hour         *time.Time `json:"hour,omitempty"`
	Day          *time.Time `json:"day,omitempty"`
	Route        *string    `json:"route,omitempty"`
	Model        *string    `json:"model,omitempty"`
	Endpoint     *string    `json:"endpoint,omitempty"`
	Key          *string    `json:"key,omitempty"`
	Status       *uint16    `json:"status,omitempty"`
	Requests     uint64     `json:"requests"`
	Errors       uint64     `json:"errors"`
	Denied       uint64     `json:"denied"`
	InputTokens  int64      `json:"input_tokens"`
	CachedTokens int64      `json:"cached_tokens"`
	OutputTokens int64      `json:"output_tokens"`
	CostUSD      money.Nano `json:"cost_usd"`
	P50          *float64   `json:"p50_ms"`
	P95          *float64   `json:"p95_ms"`
	P99          *float64   `json:"p99_ms"`
}

// group is one column that sums are grouped by.
type group struct {
	name, sql string
	into      func(*UsageRow) any
}

// bucket stands in the SQL of a group for time: hour in a piece that is answered from the hourly sums.
const bucket = "{{bucket}}"

// groups are the names that group_by takes.
func groups() []group {
	return []group{
		{"route", "route", func(r *UsageRow) any { r.Route = new(string); return r.Route }},
		{"model", "model", func(r *UsageRow) any { r.Model = new(string); return r.Model }},
		{"endpoint", "endpoint", func(r *UsageRow) any { r.Endpoint = new(string); return r.Endpoint }},
		{"key", "key_id", func(r *UsageRow) any { r.Key = new(string); return r.Key }},
		{"status", "status", func(r *UsageRow) any { r.Status = new(uint16); return r.Status }},
		{"hour", hour, func(r *UsageRow) any { r.Hour = new(time.Time); return r.Hour }},
		{"day", "toStartOfDay(" + bucket + ")", func(r *UsageRow) any { r.Day = new(time.Time); return r.Day }},
	}
}

// usageQuestion is a question for sums, read and checked.
type usageQuestion struct {
	span   span
	pieces []piece
	groups []group
	filter filter
	limit  int
	offset int
}

// Usage sums the requests of a workspace; q is made of UsageParameters. Errors are problems.
func (s *Service) Usage(ctx context.Context, workspace string, q url.Values, now time.Time) (Usage, error) {
	question, err := readUsage(workspace, q, now)
	if err != nil {
		return Usage{}, err
	}
	u := Usage{From: question.span.from, To: question.span.to, Data: []UsageRow{}}
	u.Freshness = s.freshness(ctx, now)
	err = s.askCorrected(ctx, question.sql, question.filter.params, func(rows driver.Rows) error {
		row, err := question.scan(rows)
		u.Data = append(u.Data, row)
		return err
	})
	if err != nil {
		return Usage{}, s.stamp(ctx, err, now)
	}
	if len(u.Data) == 0 && len(question.groups) == 0 {
		u.Data = append(u.Data, UsageRow{}) // the sum over nothing
	}
	if len(u.Data) > question.limit {
		u.Data = u.Data[:question.limit]
		u.Next = encodeCursor("offset", strconv.Itoa(question.offset+question.limit))
	}
	return u, nil
}

func readUsage(workspace string, q url.Values, now time.Time) (usageQuestion, error) {
	var question usageQuestion
	var err error
	if question.span, err = readSpan(q, now); err != nil {
		return question, err
	}
	step, err := readInterval(q.Get("interval"), question.span)
	if err != nil {
		return question, err
	}
	// The hourly sums serve where nothing is cut finer than an hour.
	question.pieces = cut(question.span, step%time.Hour == 0)
	f := &question.filter
	f.add("workspace = {workspace:String}", param("workspace", workspace))
	f.params = append(f.params, param("from", question.span.from.UnixMicro()), param("to", question.span.to.UnixMicro()), param("slack", idSlack.Microseconds()))
	for i, p := range question.pieces {
		f.params = append(f.params, p.params(i)...)
	}
	if err := f.addEqualities(q); err != nil {
		return question, err
	}
	if step > 0 {
		f.params = append(f.params, param("step", int64(step/time.Second)))
		question.groups = append(question.groups, group{
			"time", "toDateTime(intDiv(toUnixTimestamp(" + bucket + "), {step:Int64}) * {step:Int64}, 'UTC')",
			func(r *UsageRow) any { r.Time = new(time.Time); return r.Time },
		})
	}
	if err := question.readGroups(q.Get("group_by")); err != nil {
		return question, err
	}
	if question.limit, err = readLimit(q, defaultRows, maxRows); err != nil {
		return question, err
	}
	parts, err := decodeCursor(q, "offset", 1)
	if err != nil {
		return question, err
	}
	if parts != nil {
		n, err := strconv.ParseUint(parts[0], 10, 31)
		if err != nil {
			return question, problem.InvalidField("cursor", "is none that this list gave")
		}
		question.offset = int(n)
	}
	f.params = append(f.params, param("limit", uint64(question.limit)+1), param("offset", uint64(question.offset))) //nolint:gosec // both are checked
	return question, nil
}

// readInterval reads the width of time buckets; 0: none.
func readInterval(text string, over span) (time.Duration, error) {
	var d time.Duration
	switch text {
	case "":
		return 0, nil
	case "hour":
		d = time.Hour
	case "day":
		d = 24 * time.Hour
	default:
		var err error
		if d, err = time.ParseDuration(text); err != nil || d < time.Second || d%time.Second != 0 {
			return 0, problem.InvalidField("interval", `must be hour, day or a duration of whole seconds, for example "5m"`)
		}
	}
	if over.to.Sub(over.from)/d > maxRows {
		return 0, problem.InvalidField("interval", "makes more than %d buckets between from and to", maxRows)
	}
	return d, nil
}

func (u *usageQuestion) readGroups(text string) error {
	if text == "" {
		return nil
	}
	known := groups()
	for name := range strings.SplitSeq(text, ",") {
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(known, func(g group) bool { return g.name == name })
		if i < 0 {
			return problem.InvalidField("group_by", "%.50q is none of route, model, endpoint, key, status, hour, day", name)
		}
		if slices.ContainsFunc(u.groups, func(g group) bool { return g.name == name }) {
			return problem.InvalidField("group_by", "%s is given twice", name)
		}
		u.groups = append(u.groups, known[i])
	}
	return nil
}

func (u *usageQuestion) scan(rows driver.Rows) (UsageRow, error) {
	var r UsageRow
	var into []any
	for _, g := range u.groups {
		into = append(into, g.into(&r))
	}
	var cost *int64
	var quantiles []float32
	into = append(into, &r.Requests, &r.Errors, &r.Denied, &r.InputTokens, &r.CachedTokens, &r.OutputTokens, &cost, &quantiles)
	if err := rows.Scan(into...); err != nil {
		return r, err
	}
	if cost != nil {
		r.CostUSD = money.Nano(*cost)
	}
	for i, to := range []**float64{&r.P50, &r.P95, &r.P99} {
		if i < len(quantiles) && !math.IsNaN(float64(quantiles[i])) {
			*to = milliseconds(int64(math.Round(float64(quantiles[i]))))
		}
	}
	for _, t := range []*time.Time{r.Time, r.Hour, r.Day} {
		if t != nil {
			*t = t.UTC()
		}
	}
	return r, nil
}

// milliseconds turns microseconds into milliseconds with three decimals.
func milliseconds(us int64) *float64 {
	ms := float64(us) / 1000
	return &ms
}
