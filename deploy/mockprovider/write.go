package mockprovider

import (
	"compress/gzip"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// event is one piece of a stream.
type event struct {
	data []byte
	// tokens of output that it carries.
	tokens int64
	// usage reports that it carries the usage of the whole call; last, that it belongs to the
	// stream's regular end.
	usage, last bool
}

// sse makes a server-sent event; name may be empty.
func sse(name string, data []byte) []byte {
	b := make([]byte, 0, len(name)+len(data)+16)
	if name != "" {
		b = append(append(append(b, "event: "...), name...), '\n')
	}
	return append(append(append(b, "data: "...), data...), "\n\n"...)
}

// encode returns v as JSON; what the dialects build always encodes.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		return []byte("null")
	}
	return b
}

// pause waits as long as a non-streaming answer of n tokens takes.
func (c *call) pause(n int64) bool { return c.wait(c.pace.first(c.hash) + c.pace.rest(n)) }

// reply writes a whole JSON answer with the usage that it reports.
func (c *call) reply(u Usage, body any) {
	if !c.pause(u.Output) {
		return // the client left before anything was produced for it
	}
	c.record.Usage = u
	c.record.UsageReported = c.fault.kind != faultNoUsage
	c.w.Header().Set("Openai-Processing-Ms", strconv.FormatInt(time.Since(c.record.ReceivedAt).Milliseconds(), 10))
	c.finish(http.StatusOK, "application/json", encode(body))
}

// fail writes an error in the dialect.
func (c *call) fail(status int, message string) {
	c.finish(status, errorType(c.dialect), encode(errorBody(c.dialect, status, message, c.record.ID)))
}

// finish writes a whole answer, or half of it when that is asked for.
func (c *call) finish(status int, contentType string, body []byte) {
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	c.identify()
	if strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = compress(body)
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.record.Status = status
	c.w.WriteHeader(status)
	if c.fault.halts() && status < 400 {
		c.record.UsageReported = false
		n, _ := c.w.Write(body[:len(body)/2])
		c.record.ResponseBytes = int64(n)
		if c.fault.kind == faultStall {
			_ = http.NewResponseController(c.w).Flush()
			c.wait(hangLimit)
		}
		c.abort()
	}
	n, err := c.w.Write(body)
	c.record.ResponseBytes = int64(n)
	c.record.Finished = err == nil && c.r.Context().Err() == nil
}

// stream writes the events at the pace of the call. u is the usage of the whole answer; what
// is recorded is only what was produced until the stream ended.
func (c *call) stream(contentType string, u Usage, events []event) {
	if !c.wait(c.pace.first(c.hash)) {
		return
	}
	c.w.Header().Set("Content-Type", contentType)
	c.w.Header().Set("Cache-Control", "no-cache")
	c.identify()
	out := &flusher{w: c.w, control: http.NewResponseController(c.w)}
	if c.r.Header.Get("X-Mock-Gzip") == "stream" && strings.Contains(c.r.Header.Get("Accept-Encoding"), "gzip") {
		c.w.Header().Set("Content-Encoding", "gzip")
		out.gz = gzip.NewWriter(c.w)
	}
	c.record.Status = http.StatusOK
	c.w.WriteHeader(http.StatusOK)
	c.record.Usage = u
	c.record.Usage.Output = u.Reasoning
	middle := len(events) / 2
	for i, e := range events {
		if c.fault.kind == faultNoEnd && e.last {
			continue
		}
		if i == middle && c.fault.halts() {
			c.halt(out)
			return
		}
		if i == middle && c.fault.kind == faultBrokenSSE {
			_ = out.write([]byte("data: {\"broken\": \n\n: a comment\n\nnonsense without a colon\n\n"))
		}
		if i > 0 && !c.wait(c.pace.rest(e.tokens)) {
			c.record.ResponseBytes = out.n
			return
		}
		if err := c.emit(out, e); err != nil {
			c.record.ResponseBytes = out.n
			return
		}
		c.record.Usage.Output = min(u.Output, c.record.Usage.Output+e.tokens)
		c.record.UsageReported = c.record.UsageReported || e.usage
	}
	c.record.Finished = out.close() == nil && c.r.Context().Err() == nil
	c.record.ResponseBytes = out.n
}

// splitSize is no divisor of anything that stands in the streams.
const splitSize = 7

func (c *call) emit(out *flusher, e event) error {
	if c.fault.kind != faultSplit {
		return out.write(e.data)
	}
	for rest := e.data; len(rest) > 0; {
		n := min(splitSize, len(rest))
		if err := out.write(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// halt ends a stream in its middle as the fault says.
func (c *call) halt(out *flusher) {
	if c.fault.kind == faultErrorEvent {
		name, body := errorEvent(c.dialect, c.record.ID)
		err := out.write(sse(name, encode(body)))
		c.record.ResponseBytes = out.n
		c.record.Finished = err == nil && out.close() == nil
		return
	}
	c.record.ResponseBytes = out.n
	if c.fault.kind == faultStall {
		c.wait(hangLimit)
	}
	c.abort()
}

// flusher sends each piece at once.
type flusher struct {
	w       http.ResponseWriter
	control *http.ResponseController
	gz      *gzip.Writer
	// n counts the bytes of the pieces, before compression.
	n int64
}

func (f *flusher) write(b []byte) error {
	f.n += int64(len(b))
	if f.gz == nil {
		if _, err := f.w.Write(b); err != nil {
			return err
		}
		return f.control.Flush()
	}
	if _, err := f.gz.Write(b); err != nil {
		return err
	}
	if err := f.gz.Flush(); err != nil {
		return err
	}
	return f.control.Flush()
}

func (f *flusher) close() error {
	if f.gz == nil {
		return nil
	}
	return f.gz.Close()
}

// gzips are reused: a new one costs 800 kB.
var gzips = sync.Pool{New: func() any { return gzip.NewWriter(nil) }}

func compress(body []byte) []byte {
	z, ok := gzips.Get().(*gzip.Writer)
	if !ok {
		return body
	}
	defer gzips.Put(z)
	var b buffer
	z.Reset(&b)
	_, _ = z.Write(body) // a buffer takes everything
	_ = z.Close()
	return b
}

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
