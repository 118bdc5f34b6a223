package control

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rateguard/rateguard/projections/problem"
)

// maxBody is the largest request body of the admin API in bytes.
const maxBody = 1 << 20

// object reads a JSON object field by field. encoding/json alone would take fields in any case, the last of
// two equal ones, and name neither the path of an unknown field nor more than one problem; configuration
// that is not understood as it was meant is worse than an error.
type object struct {
	path   string
	fields map[string]json.RawMessage
	seen   map[string]bool
	errs   *[]problem.Field
}

// readObject reads the body of a request. An empty body is an empty object where empty is allowed.
func readObject(r *http.Request, emptyAllowed bool) (*object, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, problem.New(http.StatusBadRequest, problem.InvalidRequest, "the body ended early")
	}
	if len(body) > maxBody {
		return nil, problem.New(http.StatusRequestEntityTooLarge, problem.BodyTooLarge, "the body is larger than %d bytes", maxBody)
	}
	if len(bytes.TrimSpace(body)) == 0 && emptyAllowed {
		body = []byte("{}")
	}
	if !utf8.Valid(body) {
		return nil, problem.New(http.StatusBadRequest, problem.InvalidRequest, "the body is not UTF-8")
	}
	o := &object{errs: new([]problem.Field), seen: map[string]bool{}}
	if err := o.parse(body); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *object) parse(body []byte) error {
	bad := func(err error) error {
		var syntax *json.SyntaxError
		switch {
		case errors.As(err, &syntax):
			return problem.New(http.StatusBadRequest, problem.InvalidRequest, "malformed JSON at byte %d", syntax.Offset)
		default:
			return problem.New(http.StatusBadRequest, problem.InvalidRequest, "malformed JSON")
		}
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil {
		return bad(err)
	} else if t != json.Delim('{') {
		return problem.New(http.StatusBadRequest, problem.InvalidRequest, "%s must be a JSON object", cmp.Or(o.path, "the body"))
	}
	o.fields = map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return bad(err)
		}
		name, _ := t.(string)
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return bad(err)
		}
		if _, twice := o.fields[name]; twice {
			o.fail(name, "is given twice")
		}
		o.fields[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return bad(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return problem.New(http.StatusBadRequest, problem.InvalidRequest, "there is something after the JSON object")
	}
	return nil
}

// fail notes a problem of a field.
func (o *object) fail(name, format string, args ...any) {
	if o.path != "" {
		name = o.path + "." + name
	}
	if len(name) > 200 {
		name = name[:200] + "…"
	}
	*o.errs = append(*o.errs, problem.Field{Field: name, Message: fmt.Sprintf(format, args...)})
}

// failed reports whether a problem of a field was noted.
func (o *object) failed(name string) bool {
	if o.path != "" {
		name = o.path + "." + name
	}
	return slices.ContainsFunc(*o.errs, func(f problem.Field) bool { return f.Field == name })
}

// require notes the absence of a field that must be there.
func (o *object) require(name string) bool {
	_, ok := o.take(name)
	if !ok {
		o.fail(name, "is required")
	}
	return ok
}

// done returns all problems, unknown fields among them. It is called once everything has been read.
func (o *object) done() error {
	o.unknown()
	if len(*o.errs) > 0 {
		return problem.Invalid(*o.errs...)
	}
	return nil
}

func (o *object) unknown() {
	for _, name := range slices.Sorted(maps.Keys(o.fields)) {
		if !o.seen[name] {
			o.fail(name, "unknown field")
		}
	}
}

// take returns the raw value of a field; ok is false when it is absent or null.
func (o *object) take(name string) (raw json.RawMessage, ok bool) {
	o.seen[name] = true
	raw, ok = o.fields[name]
	return raw, ok && !bytes.Equal(raw, []byte("null"))
}

// present reports whether the field is there, be it null.
func (o *object) present(name string) bool {
	o.seen[name] = true
	_, ok := o.fields[name]
	return ok
}

// null reports whether the field is there and null.
func (o *object) null(name string) bool {
	_, ok := o.take(name)
	return o.present(name) && !ok
}

// into decodes a field; what says what it must be.
func (o *object) into(name string, to any, what string) bool {
	raw, ok := o.take(name)
	if !ok {
		return false
	}
	if err := json.Unmarshal(raw, to); err != nil {
		o.fail(name, "must be %s", what)
		return false
	}
	return true
}

// text reads a string of 1 to most characters without control characters.
func (o *object) text(name string, most int) (string, bool) {
	var s string
	if !o.into(name, &s, "a string") {
		return "", false
	}
	if !o.checkText(name, s, most) {
		return "", false
	}
	return s, true
}

func (o *object) checkText(name, s string, most int) bool {
	switch {
	case s == "":
		o.fail(name, "must not be empty")
	case utf8.RuneCountInString(s) > most:
		o.fail(name, "must have at most %d characters", most)
	case hasControl(s):
		o.fail(name, "must not hold control characters")
	default:
		return true
	}
	return false
}

func hasControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return true
		}
	}
	return false
}

// texts reads a list of strings; each is checked, repeats are dropped.
func (o *object) texts(name string, mostItems, mostRunes int) ([]string, bool) {
	var list []*string
	if !o.into(name, &list, "a list of strings") {
		return nil, false
	}
	if len(list) > mostItems {
		o.fail(name, "must have at most %d items", mostItems)
		return nil, false
	}
	result := []string{}
	for i, s := range list {
		item := fmt.Sprintf("%s[%d]", name, i)
		if s == nil {
			o.fail(item, "must be a string")
			return nil, false
		}
		if !o.checkText(item, *s, mostRunes) {
			return nil, false
		}
		if !slices.Contains(result, *s) {
			result = append(result, *s)
		}
	}
	return result, true
}

// child reads a nested object; its problems are noted with the others. The caller calls unknown on it.
func (o *object) child(name string) (*object, bool) {
	raw, ok := o.take(name)
	if !ok {
		return nil, false
	}
	path := name
	if o.path != "" {
		path = o.path + "." + name
	}
	c := &object{path: path, errs: o.errs, seen: map[string]bool{}}
	if err := c.parse(raw); err != nil {
		o.fail(name, "must be an object")
		return nil, false
	}
	return c, true
}

// whole reads a whole number between least and most.
func (o *object) whole(name string, least, most int64) (int64, bool) {
	var n int64
	if !o.into(name, &n, "a whole number") {
		return 0, false
	}
	if n < least || n > most {
		o.fail(name, "must be a whole number from %d to %d", least, most)
		return 0, false
	}
	return n, true
}

// duration reads a Go duration between least and most.
func (o *object) duration(name string, least, most time.Duration) (time.Duration, bool) {
	var s string
	if !o.into(name, &s, `a duration as Go writes it, for example "30s"`) {
		return 0, false
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		o.fail(name, `must be a duration as Go writes it, for example "30s"`)
	case d < least || d > most:
		o.fail(name, "must be between %s and %s", least, most)
	default:
		return d.Truncate(time.Microsecond), true
	}
	return 0, false
}

// instant reads an RFC 3339 time.
func (o *object) instant(name string) (time.Time, bool) {
	var s string
	if !o.into(name, &s, "an RFC 3339 time") {
		return time.Time{}, false
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		o.fail(name, `must be an RFC 3339 time, for example "2026-01-02T15:04:05Z"`)
		return time.Time{}, false
	}
	return t.UTC().Truncate(time.Microsecond), true
}
