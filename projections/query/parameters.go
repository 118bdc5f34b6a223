package query

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rateguard/rateguard/projections/problem"
)

const (
	// defaultSpan is how far back from lies from to, or from now.
	defaultSpan  = 24 * time.Hour
	maxParameter = 500
)

// Bounds of the parameter limit.
const (
	defaultRequests = 100
	maxRequests     = 1000
	defaultRows     = 1000
	maxRows         = 10000
)

// Bounds of times: outside, the store's own type ends.
var (
	minTime = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)
	maxTime = time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
)

// span is a half-open range of time.
type span struct{ from, to time.Time }

// readSpan reads from and to; by default the last 24 hours.
func readSpan(q url.Values, now time.Time) (span, error) {
	s := span{to: now}
	var errs []problem.Field
	if v, field := readTime(q, "to"); field != nil {
		errs = append(errs, *field)
	} else if !v.IsZero() {
		s.to = v
	}
	// Without from the range ends at to, or now where to lies in the future.
	s.from = s.to.Add(-defaultSpan)
	if s.to.After(now) {
		s.from = now.Add(-defaultSpan)
	}
	if v, field := readTime(q, "from"); field != nil {
		errs = append(errs, *field)
	} else if !v.IsZero() {
		s.from = v
	}
	if len(errs) == 0 && !s.from.Before(s.to) {
		errs = append(errs, problem.Field{Field: "from", Message: "must be before to"})
	}
	if len(errs) > 0 {
		return span{}, problem.Invalid(errs...)
	}
	return span{wholeMicro(s.from), wholeMicro(s.to)}, nil
}

// wholeMicro returns the first microsecond at or after t. Rows have whole microseconds, so that a bound means the same rows.
func wholeMicro(t time.Time) time.Time {
	whole := t.Truncate(time.Microsecond)
	if whole.Before(t) {
		whole = whole.Add(time.Microsecond)
	}
	return whole
}

func readTime(q url.Values, name string) (time.Time, *problem.Field) {
	text := q.Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil || t.Before(minTime) || t.After(maxTime) {
		return time.Time{}, &problem.Field{Field: name, Message: `must be an RFC 3339 time, for example "2026-01-02T15:04:05Z"`}
	}
	return t.UTC(), nil
}

// filter is a set of conditions with their values.
type filter struct {
	conditions []string
	params     []any
}

func (f *filter) add(condition string, params ...any) {
	f.conditions = append(f.conditions, condition)
	f.params = append(f.params, params...)
}

func (f *filter) where() string { return strings.Join(f.conditions, " AND ") }

// equalities are the parameters that select by one column.
var equalities = map[string]string{"route": "route", "model": "model", "endpoint": "endpoint", "key": "key_id"}

// addEqualities reads the parameters that select by one column.
func (f *filter) addEqualities(q url.Values) error {
	for _, name := range []string{"route", "model", "endpoint", "key"} {
		value := q.Get(name)
		if value == "" {
			continue
		}
		if len(value) > maxParameter {
			return problem.InvalidField(name, "must have at most %d bytes", maxParameter)
		}
		f.add(equalities[name]+" = {"+name+":String}", param(name, value))
	}
	return nil
}

// addStatus reads a status ("429") or a class of them ("4xx").
func (f *filter) addStatus(text string) error {
	if text == "" {
		return nil
	}
	if len(text) == 3 && strings.HasSuffix(strings.ToLower(text), "xx") && text[0] >= '1' && text[0] <= '5' {
		f.add("intDiv(status, 100) = {class:UInt16}", param("class", uint16(text[0]-'0')))
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n > 599 {
		return problem.InvalidField("status", `must be a status as "429" or a class as "4xx"`)
	}
	f.add("status = {status:UInt16}", param("status", uint16(n)))
	return nil
}

func (f *filter) addDecision(text string) error {
	if text == "" {
		return nil
	}
	if !slices.Contains([]string{"forwarded", "denied"}, text) {
		return problem.InvalidField("decision", "must be forwarded or denied")
	}
	f.add("decision = {decision:String}", param("decision", text))
	return nil
}

func readLimit(q url.Values, standard, most int) (int, error) {
	text := q.Get("limit")
	if text == "" {
		return standard, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, problem.InvalidField("limit", "must be a whole number from 1 to %d", most)
	}
	return n, nil
}

// encodeCursor makes an opaque cursor of a kind.
func encodeCursor(kind string, parts ...string) *string {
	s := base64.RawURLEncoding.EncodeToString([]byte(kind + ":" + strings.Join(parts, ":")))
	return &s
}

// decodeCursor returns the parts of a cursor of a kind, nil where there is none.
func decodeCursor(q url.Values, kind string, n int) ([]string, error) {
	text := q.Get("cursor")
	if text == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	parts := strings.SplitN(string(b), ":", n+1)
	if err != nil || len(parts) != n+1 || parts[0] != kind || len(b) > maxParameter {
		return nil, problem.InvalidField("cursor", "is none that this list gave")
	}
	return parts[1:], nil
}
