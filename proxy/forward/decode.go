package forward

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
)

// tee keeps a copy of what passes; of more than max bytes only the end, where providers put the usage.
type tee struct {
	max  int
	over bool
	b    []byte
}

// kept is how much of the end of an answer is kept that is too long.
const kept = 64 << 10

func (t *tee) add(p []byte) {
	if t == nil {
		return
	}
	if !t.over && len(t.b)+len(p) > t.max {
		t.over = true
		t.b = append(make([]byte, 0, 2*kept), end(t.b)...) // lets go of the rest
	}
	if !t.over {
		t.b = append(t.b, p...)
		return
	}
	p = end(p)
	if len(t.b)+len(p) > 2*kept {
		t.b = append(t.b[:0], end(t.b)...)
	}
	t.b = append(t.b, p...)
}

func end(b []byte) []byte { return b[max(0, len(b)-kept):] }

// measureCopy reads the usage of an answer that passed, as far as it was copied.
func (t *transfer) measureCopy(c *tee) {
	switch encoding := t.ex.Get("Content-Encoding"); {
	case !c.over:
		t.measure(c.b)
	case encoding == "" || strings.EqualFold(encoding, "identity"):
		t.meter.Tail(c.b)
	default:
		t.meter.Tail(nil)
	}
}

// measure reads the usage of a whole answer; what is compressed is read from a decoded copy.
func (t *transfer) measure(b []byte) {
	switch strings.ToLower(t.ex.Get("Content-Encoding")) {
	case "", "identity":
		t.meter.Body(b)
	case "gzip", "x-gzip":
		plain, err := gunzip(b, t.f.cfg.MaxBuffered)
		if err != nil {
			t.meter.Opaque(len(b))
			return
		}
		t.meter.Body(plain)
	default: // nobody asked for it
		t.meter.Opaque(len(b))
	}
}

func gunzip(b []byte, limit int) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(z, int64(limit)))
	if err != nil {
		return nil, err
	}
	return plain, z.Close()
}

// encodedStream passes a compressed stream on. Nobody asked for it, but some upstreams compress all the same; its
// usage is read from a decoded copy, and its end is recorded when it has ended.
func (t *transfer) encodedStream(encoding string) error {
	if !strings.EqualFold(encoding, "gzip") {
		return t.through(nil, true)
	}
	t.header()
	t.flush()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.decode(r)
		_, _ = io.Copy(io.Discard, r) // else the writer would wait for ever
	}()
	finish := func() {
		_ = w.Close() // never fails
		<-done
	}
	buf := pieces.Get().(*[]byte) //nolint:forcetypeassert,errcheck // the pool holds nothing else
	defer pieces.Put(buf)
	for {
		n, err := t.read(*buf)
		p := (*buf)[:n]
		_, _ = w.Write(p) // the reader reads to the end
		if errors.Is(err, io.EOF) {
			finish()
			t.meter.End()
			t.left()
			if err := t.end(true); err != nil {
				return err
			}
			t.write(p)
			t.unguard()
			return nil
		}
		t.write(p)
		t.flush()
		if err != nil {
			finish()
			return t.broken(err, true)
		}
	}
}

// decode reads the lines of a compressed stream for their usage.
func (t *transfer) decode(r io.Reader) {
	z, err := gzip.NewReader(bufio.NewReader(r))
	if err != nil {
		return
	}
	var l lines
	b := make([]byte, 4<<10)
	for {
		n, err := z.Read(b)
		l.feed(t, b[:n])
		if err != nil {
			return
		}
	}
}
