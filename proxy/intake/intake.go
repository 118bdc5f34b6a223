// Package intake finds the route, reads the body once and scans in it what the gateway has to know:
// model, stream, bounds of the cost. It refuses what it cannot understand on the endpoints it knows, because
// what is not understood cannot be limited; everything else passes through.
package intake

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rateguard/rateguard/proxy/call"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// bodyRate is how many bytes a second of its body a client has to send on average, once BodyTimeout is over.
const bodyRate = 16 << 10

// Bounds of what a client can put into an event.
const (
	maxModel    = 256
	maxHeader   = 256
	maxTags     = 16
	maxTagKey   = 64
	maxTagValue = 256
)

// Config are the settings of the step.
type Config struct {
	// MaxBody is the largest request body in bytes.
	MaxBody int64
	// BodyTimeout is how long a client may pause while it sends its body, 60 s.
	BodyTimeout time.Duration
	// CountryHeader and ClientIPHeader name headers that a load balancer of the deployment sets; empty: none.
	CountryHeader  string
	ClientIPHeader string
}

// Intake is the step; make it with New.
type Intake struct {
	cfg       Config
	next      call.Handler
	endpoints endpoints
}

// New returns the step in front of next. It refuses with route_not_found, route_not_allowed,
// insufficient_scope, model_not_allowed, invalid_request and body_too_large.
func New(cfg Config, next call.Handler) *Intake {
	if cfg.BodyTimeout == 0 {
		cfg.BodyTimeout = 60 * time.Second
	}
	return &Intake{cfg: cfg, next: next}
}

// Serve fills Route, Endpoint, Body, Asked and Context.
func (in *Intake) Serve(c *call.Call) error {
	in.describe(c)
	if err := in.locate(c); err != nil {
		return err
	}
	body, err := in.read(c)
	if err != nil {
		return err
	}
	defer release(body)
	interleave(c.Writer)
	c.Body = *body
	if err := scan(c); err != nil {
		return err
	}
	if !c.Key.AllowsModel(c.Asked.Model) && (c.Asked.API != call.Free || c.Asked.Model != "") {
		return &call.Error{Code: call.ModelNotAllowed, Param: "model"}
	}
	return in.next.Serve(c)
}

// describe notes what is known of the client.
func (in *Intake) describe(c *call.Call) {
	r := c.Request
	x := &rateguardv1.RequestContext{Method: clip(r.Method, 16), IdempotencyKey: clip(r.Header.Get("Idempotency-Key"), maxHeader)}
	c.Context = x
	if in.cfg.ClientIPHeader != "" {
		first, _, _ := strings.Cut(r.Header.Get(in.cfg.ClientIPHeader), ",")
		x.ClientIp = clip(strings.TrimSpace(first), 45)
	}
	if x.ClientIp == "" {
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
			x.ClientIp = clip(host, 45)
		}
	}
	if in.cfg.CountryHeader != "" {
		if v := r.Header.Get(in.cfg.CountryHeader); len(v) == 2 {
			x.Country = strings.ToUpper(clip(v, 2))
		}
	}
	if v := r.Header.Get("X-Rateguard-Tags"); v != "" {
		for pair := range strings.SplitSeq(v, ",") {
			k, v, _ := strings.Cut(pair, "=")
			tag(x, strings.TrimSpace(k), strings.TrimSpace(v))
		}
	}
}

func tag(x *rateguardv1.RequestContext, k, v string) {
	if k == "" || len(x.Tags) >= maxTags {
		return
	}
	if x.Tags == nil {
		x.Tags = make(map[string]string, 2)
	}
	x.Tags[clip(k, maxTagKey)] = clip(v, maxTagValue)
}

// clip cuts s to n bytes and to text without control characters, which is all that events may hold.
func clip(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	if clean(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
}

// clean reports whether s is UTF-8 without control characters.
func clean(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return false
		}
	}
	return true
}

// locate finds the route and whether the key may use it.
func (in *Intake) locate(c *call.Call) error {
	// The route of an error is recorded too: it must be bounded like everything a client names.
	name := c.RouteID
	c.RouteID = clip(name, 64)
	c.Asked.API = call.Other
	if !c.Key.Invoke {
		return call.Fail(call.InsufficientScope, nil)
	}
	route := c.Workspace.Routes[name]
	if route == nil {
		return &call.Error{Code: call.RouteNotFound, Message: fmt.Sprintf("There is no route %q in this workspace.", c.RouteID)}
	}
	c.Route, c.Dialect = route, route.Dialect
	if !c.Key.AllowsRoute(c.RouteID) {
		return call.Fail(call.RouteNotAllowed, nil)
	}
	if hasDots(c.Path) {
		return &call.Error{Code: call.InvalidRequest, Message: "The path has dot segments."}
	}
	// TRACE would give the route's credential back in the answer, CONNECT asks for a tunnel.
	if m := c.Request.Method; m == http.MethodTrace || m == http.MethodConnect {
		return &call.Error{Code: call.InvalidRequest, Message: "The method " + m + " is not passed on."}
	}
	if route.Broken != "" {
		return call.Fail(call.Internal, fmt.Errorf("route %s of workspace %s: %s", route.ID, c.Workspace.ID, route.Broken))
	}
	plain := plainPath(c.Path)
	c.Endpoint = in.endpoints.template(c.Workspace.ID, route.ID, plain)
	c.Asked.API, c.Asked.Model, c.Asked.Stream = classify(route.Dialect, c.Request.Method, plain)
	return checkModel(&c.Asked.Model)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 16<<10); return &b }}

// keepBuffer is the largest buffer that is kept for the next request.
const keepBuffer = 1 << 20

func release(b *[]byte) {
	if cap(*b) <= keepBuffer {
		buffers.Put(b)
	}
}

// read reads the whole body, at most MaxBody bytes of it.
func (in *Intake) read(c *call.Call) (*[]byte, error) {
	r := c.Request
	if r.ContentLength > in.cfg.MaxBody {
		return nil, in.tooLarge(c)
	}
	buf, _ := buffers.Get().(*[]byte)
	b := (*buf)[:0]
	start := time.Now()
	for r.ContentLength != 0 {
		in.hurry(c, start, len(b))
		if len(b) == cap(b) {
			b = slices.Grow(b, len(b))
		}
		n, err := r.Body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		*buf = b
		if int64(len(b)) > in.cfg.MaxBody {
			release(buf)
			return nil, in.tooLarge(c)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			release(buf)
			return nil, badBody(c, err)
		}
	}
	*buf = b
	if r.ContentLength != 0 {
		setReadDeadline(c.Writer, time.Time{})
	}
	return buf, nil
}

// hurry sets the instant by which the next piece of the body has to be here: a client that trickles must not hold us for ever,
// neither by the length of its pauses nor by their number.
func (in *Intake) hurry(c *call.Call, start time.Time, received int) {
	now := time.Now()
	deadline := start.Add(in.cfg.BodyTimeout + time.Duration(received)*(time.Second/bodyRate))
	if pause := now.Add(in.cfg.BodyTimeout); pause.Before(deadline) {
		deadline = pause
	}
	setReadDeadline(c.Writer, deadline)
}

func (in *Intake) tooLarge(c *call.Call) error {
	c.Writer.Header().Set("Connection", "close")
	return &call.Error{Code: call.BodyTooLarge, Message: fmt.Sprintf("The request body is larger than %d bytes.", in.cfg.MaxBody)}
}

func badBody(c *call.Call, err error) error {
	c.Writer.Header().Set("Connection", "close")
	if c.Request.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return &call.Error{Code: call.InvalidRequest, Status: call.StatusClientGone, Cause: err, Message: "The request body is incomplete."}
	}
	return &call.Error{Code: call.InvalidRequest, Cause: err, Message: "The request body cannot be read."}
}

// interleave keeps the server from closing the request's body at the answer's first flush, and with it, now and then, the
// answer. It is for requests whose body is read: of any other the server would read the rest behind the answer, and then
// trip over its own read on the connection's next request.
func interleave(w http.ResponseWriter) {
	if d, ok := w.(interface{ EnableFullDuplex() error }); ok {
		_ = d.EnableFullDuplex() // only HTTP/1 has it, and only HTTP/1 needs it
	}
}

func setReadDeadline(w http.ResponseWriter, t time.Time) {
	if d, ok := w.(interface{ SetReadDeadline(time.Time) error }); ok {
		_ = d.SetReadDeadline(t) // without it the body is only less well guarded
	}
}
