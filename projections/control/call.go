package control

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gorilla/mux"

	"github.com/rateguard/rateguard/projections/problem"
)

// call is one request to the API, after its caller is known.
type call struct {
	http   *http.Request
	caller caller
	vars   map[string]string
}

func newCall(r *http.Request, who caller) *call {
	return &call{http: r, caller: who, vars: mux.Vars(r)}
}

// workspace returns the workspace of the path; empty where it has none.
func (c *call) workspace() string { return c.vars["ws"] }

// answer is what a handler gives back on success.
type answer struct {
	status int
	// body is encoded as JSON; nil: no body.
	body any
	// version becomes the ETag; 0: none.
	version int64
	// live: the body holds more than the version says, and If-None-Match does not save it.
	live bool
	// location of what was created; empty: none.
	location string
}

func (a answer) write(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	if a.version != 0 {
		h.Set("ETag", etag(a.version))
		if r.Method == http.MethodGet && !a.live && r.Header.Get("If-None-Match") == etag(a.version) {
			w.WriteHeader(http.StatusNotModified)
			return nil
		}
	}
	if a.location != "" {
		h.Set("Location", a.location)
	}
	if a.body == nil {
		w.WriteHeader(a.status)
		return nil
	}
	b, err := json.Marshal(a.body)
	if err != nil {
		return problem.Hidden(err)
	}
	h.Set("Content-Type", "application/json")
	w.WriteHeader(a.status)
	_, err = w.Write(append(b, '\n'))
	return err
}

func etag(version int64) string { return `"` + strconv.FormatInt(version, 10) + `"` }

// list is the body of every list.
type list[T any] struct {
	Data []T     `json:"data"`
	Next *string `json:"next"`
}

// Bounds of the parameter limit of lists.
const (
	defaultLimit = 100
	maxLimit     = 1000
)

// page is the part of a list that is asked for.
type page struct {
	// after is the id of the last item of the page before; empty: from the start.
	after string
	limit int
}

const cursorPrefix = "after:"

func encodeCursor(id string) string {
	return base64.RawURLEncoding.EncodeToString([]byte(cursorPrefix + id))
}

// readPage reads limit and cursor; every other parameter is refused.
func readPage(query url.Values) (page, error) {
	p := page{limit: defaultLimit}
	if err := onlyParameters(query, "limit", "cursor"); err != nil {
		return p, err
	}
	if s := query.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxLimit {
			return p, problem.InvalidField("limit", "must be a whole number from 1 to %d", maxLimit)
		}
		p.limit = n
	}
	if s := query.Get("cursor"); s != "" {
		b, err := base64.RawURLEncoding.DecodeString(s)
		after, ok := strings.CutPrefix(string(b), cursorPrefix)
		if err != nil || !ok || hasControl(after) {
			return p, problem.InvalidField("cursor", "is none that this list gave")
		}
		p.after = after
	}
	return p, nil
}

// onlyParameters refuses parameters that the call does not know or that are given twice.
func onlyParameters(query url.Values, known ...string) error {
	var bad []problem.Field
	for name, values := range query {
		switch {
		case !slices.Contains(known, name):
			bad = append(bad, problem.Field{Field: name, Message: "unknown parameter"})
		case len(values) > 1:
			bad = append(bad, problem.Field{Field: name, Message: "is given twice"})
		}
	}
	if len(bad) == 0 {
		return nil
	}
	slices.SortFunc(bad, func(a, b problem.Field) int { return strings.Compare(a.Field, b.Field) })
	return problem.Invalid(bad...)
}

// newList cuts rows, of which one more than the limit was read, into a page.
func newList[T any](rows []T, p page, id func(T) string) list[T] {
	l := list[T]{Data: rows}
	if len(rows) > p.limit {
		l.Data = rows[:p.limit]
		next := encodeCursor(id(l.Data[p.limit-1]))
		l.Next = &next
	}
	if l.Data == nil {
		l.Data = []T{}
	}
	return l
}

// condition is what the headers If-Match and If-None-Match ask for.
type condition struct {
	match   []string
	any     bool
	absent  bool
	present bool
}

func readCondition(h http.Header) (condition, error) {
	var c condition
	if s := strings.TrimSpace(h.Get("If-Match")); s != "" {
		c.present = true
		for tag := range strings.SplitSeq(s, ",") {
			switch tag = strings.TrimSpace(tag); {
			case tag == "*":
				c.any = true
			case len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"':
				c.match = append(c.match, tag[1:len(tag)-1])
			case strings.HasPrefix(tag, "W/"):
				// A weak tag never matches here (RFC 9110, 13.1.1).
			default:
				if _, err := strconv.ParseUint(tag, 10, 63); err != nil {
					return c, problem.InvalidField("If-Match", `must be a version in quotes, for example "3"`)
				}
				c.match = append(c.match, tag)
			}
		}
	}
	if s := strings.TrimSpace(h.Get("If-None-Match")); s != "" {
		if s != "*" {
			return c, problem.InvalidField("If-None-Match", "must be * in a change")
		}
		c.absent = true
	}
	return c, nil
}

// check compares the condition with the version of what there is; 0: there is nothing.
func (c condition) check(version int64) error {
	switch {
	case c.absent && version != 0:
		return problem.New(http.StatusPreconditionFailed, problem.PreconditionFailed, "it exists already, with version %d", version)
	case !c.present:
		return nil
	case version == 0:
		return problem.New(http.StatusPreconditionFailed, problem.PreconditionFailed, "If-Match was given and it does not exist")
	case c.any || slices.Contains(c.match, strconv.FormatInt(version, 10)):
		return nil
	}
	return problem.New(http.StatusPreconditionFailed, problem.PreconditionFailed, "its version is %d", version)
}

// asProblem turns any error into the one that the client sees.
func asProblem(err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	return problem.Hidden(err)
}
