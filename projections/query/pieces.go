package query

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hour is the expression by which the table keeps its hourly sums: only a query that cuts time with it reads them
// instead of the rows.
const hour = "toStartOfHour(time)"

// piece is a part of a span: whole hours, which the hourly sums answer, or an edge, which the rows answer.
type piece struct {
	span
	hourly bool
}

// cut divides a span at its first and last whole hour; into one piece of rows where hours do not serve or none is whole.
func cut(s span, hours bool) []piece {
	first := s.from.Truncate(time.Hour)
	if first.Before(s.from) {
		first = first.Add(time.Hour)
	}
	last := s.to.Truncate(time.Hour)
	if !hours || !first.Before(last) {
		return []piece{{span: s}}
	}
	pieces := []piece{{span: span{first, last}, hourly: true}}
	if s.from.Before(first) {
		pieces = append(pieces, piece{span: span{s.from, first}})
	}
	if last.Before(s.to) {
		pieces = append(pieces, piece{span: span{last, s.to}})
	}
	return pieces
}

// bucket returns the expression that cuts time in the piece.
func (p piece) bucket() string {
	if p.hourly {
		return hour
	}
	return "time"
}

// where returns the condition on time; i tells the pieces of a question apart.
func (p piece) where(i int) string {
	const condition = "%[1]s >= fromUnixTimestamp64Micro({from%[2]d:Int64}, 'UTC') AND %[1]s < fromUnixTimestamp64Micro({to%[2]d:Int64}, 'UTC')"
	return fmt.Sprintf(condition, p.bucket(), i)
}

func (p piece) params(i int) []any {
	n := strconv.Itoa(i)
	return []any{param("from"+n, p.from.UnixMicro()), param("to"+n, p.to.UnixMicro())}
}

// aggregate is one sum: as the projection "hourly" keeps it, how those of several pieces become one, and what stands for the sum over nothing.
type aggregate struct{ name, piece, merged, nothing string }

const quantiles = "(0.5, 0.95, 0.99)"

var aggregates = []aggregate{
	{"s0", "sum(requests)", "sum(s0)", "toUInt64(0)"},
	{"s1", "sumIf(requests, status >= 400)", "sum(s1)", "toUInt64(0)"},
	{"s2", "sumIf(requests, decision = 'denied')", "sum(s2)", "toUInt64(0)"},
	{"s3", "sum(input_tokens)", "sum(s3)", "toInt64(0)"},
	{"s4", "sum(cached_tokens)", "sum(s4)", "toInt64(0)"},
	{"s5", "sum(output_tokens)", "sum(s5)", "toInt64(0)"},
	{costs, "sum(cost_nano)", "sum(" + costs + ")", "toInt64(0)"},
	{
		"s7", "quantilesTDigestState" + quantiles + "(latency_us)", "quantilesTDigestMerge" + quantiles + "(s7)",
		"arrayReduce('quantilesTDigestState" + quantiles + "', emptyArrayUInt32())",
	},
}

// costs is the aggregate that corrections add to.
const costs = "s6"

// sql returns the text; corrected says that the table of corrections is there. Everything in the text is ours: values are bound by name.
func (u *usageQuestion) sql(corrected bool) string {
	var names []string
	for i := range u.groups {
		names = append(names, "g"+strconv.Itoa(i))
	}
	list, by := strings.Join(names, ", "), ""
	if len(names) > 0 {
		by = " GROUP BY " + list
	}
	var pieces []string
	for i, p := range u.pieces {
		var columns []string
		for k, g := range u.groups {
			columns = append(columns, strings.ReplaceAll(g.sql, bucket, p.bucket())+" AS "+names[k])
		}
		for _, a := range aggregates {
			columns = append(columns, a.piece+" AS "+a.name)
		}
		pieces = append(pieces, "SELECT "+strings.Join(columns, ", ")+" FROM requests WHERE "+u.filter.where()+" AND "+p.where(i)+by)
	}
	if corrected {
		pieces = append(pieces, u.corrections(names, by)...)
	}
	columns := slices.Clone(names)
	for _, a := range aggregates {
		columns = append(columns, a.merged)
	}
	text := "SELECT " + strings.Join(columns, ", ") + " FROM (" + strings.Join(pieces, " UNION ALL ") + ")" + by
	if by != "" {
		text += " ORDER BY " + list
	}
	return text + " LIMIT {limit:UInt64} OFFSET {offset:UInt64}"
}
