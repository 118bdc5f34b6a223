package forward

import (
	"bytes"
	"errors"
	"io"

	"github.com/tidwall/gjson"
)

// maxLine is the longest line of a stream that is read for usage; longer ones pass unread.
const maxLine = 16 << 20

// lines cuts a stream of server-sent events into lines. In strip mode it also decides which of them pass.
type lines struct {
	carry []byte
	// overlong says that the rest of the line that has begun is not looked at.
	overlong bool
	// dropping says that the event whose data was dropped goes on to its blank line.
	dropping bool
	out      []byte
}

// stream passes server-sent events on as they come.
func (t *transfer) stream() error {
	encoded := t.ex.Get("Content-Encoding")
	if encoded != "" && encoded != "identity" {
		return t.encodedStream(encoded)
	}
	t.header()
	if t.ex.Buffered() == 0 {
		t.flush() // the client learns at once that the answer has begun
	}
	buf := pieces.Get().(*[]byte) //nolint:forcetypeassert,errcheck // the pool holds nothing else
	defer pieces.Put(buf)
	var l lines
	for {
		n, err := t.read(*buf)
		p := (*buf)[:n]
		last := false
		if n > 0 {
			if t.strip {
				p, last = l.filter(t, p)
			} else {
				last = l.feed(t, p)
			}
		}
		if errors.Is(err, io.EOF) {
			t.meter.End()
			last = true
		}
		if last {
			t.left()
			if err := t.end(true); err != nil {
				return err
			}
		}
		t.write(p)
		if errors.Is(err, io.EOF) {
			if t.strip && !l.dropping {
				t.write(l.carry)
			}
			t.unguard()
			return nil
		}
		if len(p) > 0 {
			t.flush()
		}
		if err != nil {
			return t.broken(err, true)
		}
	}
}

// feed reads the lines that p completes. last reports that one of them tells the client that the answer is complete.
func (l *lines) feed(t *transfer, p []byte) (last bool) {
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.keep(p)
			return last
		}
		last = l.data(t, l.join(p[:i])) || last
		l.carry, l.overlong = l.carry[:0], false
		p = p[i+1:]
	}
	return last
}

// keep holds the beginning of a line, if it is not too long to be of use.
func (l *lines) keep(p []byte) {
	if l.overlong || len(l.carry)+len(p) > maxLine {
		l.carry, l.overlong = l.carry[:0], true
		return
	}
	l.carry = append(l.carry, p...)
}

// join returns the whole line of which p is the end.
func (l *lines) join(p []byte) []byte {
	if l.overlong {
		return nil
	}
	if len(l.carry) == 0 {
		return p
	}
	l.carry = append(l.carry, p...)
	return l.carry
}

var dataField = []byte("data:")

// data hands the data of a line to the meter.
func (l *lines) data(t *transfer, line []byte) bool {
	d, ok := bytes.CutPrefix(line, dataField)
	return ok && t.meter.Data(bytes.TrimSpace(d))
}

// filter is feed that lets only whole lines out, and not the chunk that the client did not ask for.
func (l *lines) filter(t *transfer, p []byte) (out []byte, last bool) {
	l.out = l.out[:0]
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			l.hold(p)
			break
		}
		whole := p[:i+1]
		p = p[i+1:]
		if l.overlong { // its beginning is out already
			l.out, l.overlong = append(l.out, whole...), false
			continue
		}
		if len(l.carry) > 0 {
			l.carry = append(l.carry, whole...)
			whole = l.carry
		}
		last = l.data(t, whole) || last
		if !l.drops(whole) {
			l.out = append(l.out, whole...)
		}
		l.carry = l.carry[:0]
	}
	return l.out, last
}

// hold keeps the beginning of a line back; one that is too long to be the chunk goes out.
func (l *lines) hold(p []byte) {
	if l.overlong || len(l.carry)+len(p) > maxLine {
		l.out = append(append(l.out, l.carry...), p...)
		l.carry, l.overlong = l.carry[:0], true
		return
	}
	l.carry = append(l.carry, p...)
}

var (
	markUsage = []byte(`"usage"`)
	newLine   = []byte("\n")
)

// drops reports whether a line belongs to the usage chunk: no choices and a usage. With it goes its blank line.
func (l *lines) drops(line []byte) bool {
	if l.dropping {
		l.dropping = len(bytes.TrimRight(line, "\r\n")) > 0
		return true
	}
	d, ok := bytes.CutPrefix(line, dataField)
	if !ok || !bytes.Contains(d, markUsage) {
		return false
	}
	d = bytes.TrimSuffix(bytes.TrimSpace(d), newLine)
	if !gjson.GetBytes(d, "usage").IsObject() { // most chunks say null
		return false
	}
	choices := gjson.GetBytes(d, "choices")
	l.dropping = choices.IsArray() && len(choices.Array()) == 0
	return l.dropping
}
