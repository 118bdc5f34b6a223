package forward

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/forward/upstream"
	"github.com/rateguard/rateguard/proxy/forward/usage"
)

// transfer brings one answer to the client.
type transfer struct {
	f     *Forward
	c     *call.Call
	ex    *upstream.Exchange
	meter usage.Meter
	strip bool
	// received is how many bytes of the body have come.
	received int64
	// gone says that the client can no longer be written to.
	gone bool
	// stalled is when the deadline of writes to the client was set last.
	stalled time.Time
}

var pieces = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// run copies the answer; the exchange has read its head.
func (t *transfer) run() error {
	c, ex := t.c, t.ex
	c.Result.Status, c.Result.UpstreamStatus = ex.Status, ex.Status
	copyHeaders(c.Writer.Header(), &ex.Response)
	media, _, _ := strings.Cut(ex.Get("Content-Type"), ";")
	media = strings.TrimSpace(media)
	switch {
	case ex.ContentLength > t.f.cfg.MaxResponse && c.Request.Method != http.MethodHead:
		return t.f.unreachable(c, errAnswerTooLarge, billed(ex.Status))
	case !billed(ex.Status):
		void(c)
		return t.through(nil, false)
	case c.Request.Method == http.MethodHead, ex.Status == http.StatusNoContent:
		return t.through(nil, true) // the head is all
	case strings.EqualFold(media, "text/event-stream"):
		return t.stream()
	case !c.Asked.Stream && isJSON(media) && ex.ContentLength <= int64(t.f.cfg.MaxBuffered):
		return t.whole()
	default:
		return t.through(nil, true)
	}
}

func isJSON(media string) bool {
	return strings.EqualFold(media, "application/json") || strings.HasSuffix(media, "+json")
}

// errAnswerTooLarge ends an answer that does not stop.
var errAnswerTooLarge = errors.New("the answer is larger than max-response")

// read reads a piece and notes how long the upstream took. It fails once more has come than an answer may have.
func (t *transfer) read(p []byte) (int, error) {
	start := time.Now()
	n, err := t.ex.Read(p)
	now := time.Now()
	t.c.Result.Waited += now.Sub(start)
	if n > 0 && t.c.Result.FirstByte.IsZero() {
		t.c.Result.FirstByte = now
	}
	if t.received += int64(n); err == nil && t.received > t.f.cfg.MaxResponse {
		err = errAnswerTooLarge
	}
	return n, err
}

// end settles, if that has not happened, and appends the end. Without it the answer is not completed.
func (t *transfer) end(billable bool) error {
	if t.c.Ended {
		return nil
	}
	if billable {
		t.f.settle(t.c, &t.meter)
	}
	if err := t.f.log.End(t.c); err != nil {
		t.f.slog.Error("end of a request is not recorded", slog.String("workspace", t.c.Workspace.ID),
			slog.String("request_id", t.c.ID), slog.Any("error", err))
		return fmt.Errorf("%w: recording the end: %w", call.ErrAborted, err)
	}
	return nil
}

// whole holds a JSON answer back until its cost is known, because the cost stands in a header.
func (t *transfer) whole() error {
	buf := bodies.Get().(*[]byte) //nolint:forcetypeassert,errcheck // the pool holds nothing else
	defer func() {
		if cap(*buf) <= keepBody {
			bodies.Put(buf)
		}
	}()
	b := (*buf)[:0]
	if n := int(t.ex.ContentLength); n > cap(b) {
		b = make([]byte, 0, n)
	}
	for {
		if len(b) == cap(b) {
			if len(b) >= t.f.cfg.MaxBuffered {
				return t.through(b, true)
			}
			b = append(b, 0)[:len(b)]
		}
		n, err := t.read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		*buf = b
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return t.f.unreachable(t.c, t.cut(err), true)
		}
	}
	t.measure(b)
	t.f.settle(t.c, &t.meter)
	h := t.c.Writer.Header()
	if r := &t.c.Result; r.HasCost {
		h["X-Rateguard-Cost-Usd"] = []string{r.Cost.String()}
	}
	t.c.Result.ResponseBytes = int64(len(b))
	if t.c.Request.Context().Err() != nil {
		t.c.Result.Status = call.StatusClientGone
	}
	if err := t.f.log.End(t.c); err != nil {
		return &call.Error{Code: call.StoreUnavailable, Cause: fmt.Errorf("recording the end: %w", err)}
	}
	t.c.Result.HeadersSent = true
	h["Content-Length"] = []string{strconv.Itoa(len(b))}
	t.c.Writer.WriteHeader(t.ex.Status)
	if len(b) > 0 {
		t.guard()
		_, _ = t.c.Writer.Write(b) // all is recorded; a client that left has seen less of it
		t.unguard()
	}
	return nil
}

var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}

// keepBody is the largest buffer that is kept for the next answer.
const keepBody = 1 << 20

// cut names an error in the middle of an answer.
func (t *transfer) cut(err error) error { return fmt.Errorf("reading the answer: %w", err) }

// through passes an answer on as it comes, after what is already read of it. Its last piece waits for the end to be recorded.
func (t *transfer) through(already []byte, billable bool) error {
	t.header()
	buf := pieces.Get().(*[]byte) //nolint:forcetypeassert,errcheck // the pool holds nothing else
	defer pieces.Put(buf)
	var copied *tee
	if billable && t.c.Asked.API != call.Other && isJSON(strings.TrimSpace(strings.Split(t.ex.Get("Content-Type"), ";")[0])) {
		copied = &tee{max: t.f.cfg.MaxBuffered}
		copied.add(already)
	}
	if len(already) > 0 {
		t.write(already)
	}
	flush := t.ex.ContentLength < 0
	for {
		n, err := t.read(*buf)
		p := (*buf)[:n]
		copied.add(p)
		if errors.Is(err, io.EOF) {
			if copied != nil {
				t.measureCopy(copied)
			}
			t.left()
			if err := t.end(billable); err != nil {
				return err
			}
			t.write(p)
			t.unguard()
			return nil
		}
		t.write(p)
		if flush && n > 0 {
			t.flush()
		}
		if err != nil {
			return t.broken(err, billable)
		}
	}
}

// left notes that the client did not see the end. Once the end is recorded, a client may go: it has the whole answer.
func (t *transfer) left() {
	if t.c.Ended {
		return
	}
	if t.gone || t.c.Request.Context().Err() != nil {
		t.c.Result.Status = call.StatusClientGone
	}
}

// broken ends an answer that was cut after its head had been sent: what was produced is charged, and the client sees the cut.
func (t *transfer) broken(err error, billable bool) error {
	if t.c.Ended {
		return fmt.Errorf("%w: %w", call.ErrAborted, err)
	}
	t.left()
	if t.c.Result.Status != call.StatusClientGone {
		t.c.Result.ErrorCode = call.UpstreamUnreachable
		if errors.Is(err, upstream.ErrTimeout) {
			t.c.Result.ErrorCode = call.UpstreamTimeout
		}
	}
	if endErr := t.end(billable); endErr != nil {
		return endErr
	}
	return fmt.Errorf("%w: %w", call.ErrAborted, t.cut(err))
}

// header sends the head of an answer whose body follows piece by piece.
func (t *transfer) header() {
	if t.ex.ContentLength >= 0 && t.ex.Status != http.StatusNoContent {
		t.c.Writer.Header()["Content-Length"] = []string{strconv.FormatInt(t.ex.ContentLength, 10)}
	}
	t.c.Result.HeadersSent = true
	t.c.Writer.WriteHeader(t.ex.Status)
}

// write passes bytes to the client. Once it is gone the rest of the answer is only read, for its usage.
func (t *transfer) write(p []byte) {
	if t.gone || len(p) == 0 {
		return
	}
	t.guard()
	n, err := t.c.Writer.Write(p)
	t.c.Result.ResponseBytes += int64(n)
	if err != nil {
		t.gone = true
		t.ex.CancelAt(time.Now().Add(t.f.cfg.Drain))
	}
}

func (t *transfer) flush() {
	if t.gone {
		return
	}
	if f, ok := t.c.Writer.(http.Flusher); ok {
		f.Flush()
	}
}

// guard bounds how long a client may leave its answer unread.
func (t *transfer) guard() {
	d, ok := t.c.Writer.(interface{ SetWriteDeadline(time.Time) error })
	now := time.Now()
	if !ok || now.Sub(t.stalled) < t.c.Route.IdleTimeout/8 {
		return
	}
	t.stalled = now
	_ = d.SetWriteDeadline(now.Add(t.c.Route.IdleTimeout)) // without it a client that stalls is only found later
}

func (t *transfer) unguard() {
	if d, ok := t.c.Writer.(interface{ SetWriteDeadline(time.Time) error }); ok && !t.stalled.IsZero() {
		_ = d.SetWriteDeadline(time.Time{}) // the connection's next answer sets its own
	}
}
