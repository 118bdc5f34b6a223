package upstream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Request is what goes upstream.
type Request struct {
	TLS     bool
	Address string // host:port to connect to
	Method  string
	// Target is path and query.
	Target string
	// Head is the header block, each line ended by CRLF: Host included; framing and the blank line are added.
	Head []byte
	Body []byte
	// FirstByte bounds the time to the head of the answer, Idle the silence between two pieces of it.
	FirstByte time.Duration
	Idle      time.Duration
}

// Exchange is one request and its answer. Close must be called.
type Exchange struct {
	Response
	client *Client
	cn     *conn
	// sent is true once the provider can have seen the request.
	sent bool
	// left is what is missing of the body, or of the chunk that is being read.
	left    int64
	state   bodyState
	crlf    bool // the CRLF behind a chunk is still to be read
	writing chan error
	failed  bool
	closed  bool
}

type bodyState uint8

const (
	bodyNone bodyState = iota
	bodyLength
	bodyChunks
	bodyTrailer
	bodyToClose
	bodyDone
)

// concurrentBody is the size from which a body is written beside the reading of the answer: an upstream may answer
// before it has read all, and stop reading.
const concurrentBody = 64 << 10

// inlineBody is the largest body that is copied behind the head, to be one segment and one call.
const inlineBody = 16 << 10

// Connect returns an exchange on a connection that was alive a moment ago. When it fails nothing was sent.
func (c *Client) Connect(ctx context.Context, r *Request) (*Exchange, error) {
	cn, err := c.get(ctx, poolKey{r.TLS, r.Address})
	if err != nil {
		return nil, wrap(err)
	}
	return &Exchange{client: c, cn: cn}, nil
}

// Sent reports whether the provider can have seen the request.
func (e *Exchange) Sent() bool { return e.sent }

// CancelAt ends the exchange at t at the latest. It may be called from another goroutine, also while Do or Read waits,
// until Close returns.
func (e *Exchange) CancelAt(t time.Time) { e.cn.cancelAt(t) }

// Buffered returns how many bytes of the answer have come already and are not read.
func (e *Exchange) Buffered() int { return e.cn.br.Buffered() }

// Do sends the request and reads the head of the answer.
func (e *Exchange) Do(r *Request) error {
	err := e.do(r)
	if err != nil {
		e.failed = true
		return wrap(err)
	}
	return nil
}

func (e *Exchange) do(r *Request) error {
	cn := e.cn
	cn.silence = 0
	if err := cn.timeout(r.FirstByte); err != nil {
		return fmt.Errorf("setting the deadline: %w", err)
	}
	b := append(cn.out[:0], r.Method...)
	b = append(b, ' ')
	b = append(b, r.Target...)
	b = append(b, " HTTP/1.1\r\n"...)
	b = append(b, r.Head...)
	if len(r.Body) > 0 || r.Method != http.MethodGet && r.Method != http.MethodHead &&
		r.Method != http.MethodDelete && r.Method != http.MethodOptions {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(len(r.Body)), 10)
		b = append(b, "\r\n"...)
	}
	b = append(b, "\r\n"...)
	body := r.Body
	if len(body) <= inlineBody {
		b = append(b, body...)
		body = nil
	}
	cn.out = b
	e.sent = true
	writeErr := e.write(b, body)
	// An upstream that refuses a body closes while we write, but may have answered before.
	err := e.readHead(cn.br, r.Method)
	if err != nil && writeErr != nil {
		return fmt.Errorf("sending the request: %w", writeErr)
	}
	if writeErr != nil {
		e.mustClose = true
	}
	cn.silence = r.Idle
	return err
}

func (e *Exchange) write(head, body []byte) error {
	if len(body) == 0 {
		_, err := e.cn.nc.Write(head)
		return err
	}
	if len(body) < concurrentBody {
		bufs := net.Buffers{head, body}
		_, err := bufs.WriteTo(e.cn.nc)
		return err
	}
	e.writing = make(chan error, 1)
	go func() {
		bufs := net.Buffers{head, body}
		_, err := bufs.WriteTo(e.cn.nc)
		e.writing <- err
	}()
	return nil
}

// Read reads what has come of the body, waiting only when nothing has. io.EOF says that the body is complete;
// io.ErrUnexpectedEOF that it was cut.
func (e *Exchange) Read(p []byte) (int, error) {
	n, err := e.read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		e.failed = true
		return n, wrap(err)
	}
	return n, err
}

func (e *Exchange) read(p []byte) (int, error) {
	if e.state == bodyNone || e.state == bodyDone {
		return 0, io.EOF
	}
	switch e.state {
	case bodyLength:
		return e.readLength(p)
	case bodyToClose:
		n, err := e.cn.br.Read(p)
		if err == io.EOF {
			e.state = bodyDone
		}
		return n, err
	default:
		return e.readChunks(p)
	}
}

func (e *Exchange) readLength(p []byte) (int, error) {
	if int64(len(p)) > e.left {
		p = p[:e.left]
	}
	n, err := e.cn.br.Read(p)
	e.left -= int64(n)
	if e.left == 0 {
		e.state = bodyDone
		return n, io.EOF
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// readChunks fills p with as many chunks as have come, so that a burst costs one write and one flush.
func (e *Exchange) readChunks(p []byte) (int, error) {
	br, n := e.cn.br, 0
	for n < len(p) {
		if e.state == bodyTrailer {
			if n > 0 && !e.lineHere() {
				return n, nil
			}
			if err := e.skipTrailer(); err != nil {
				return n, unexpected(err)
			}
			e.state = bodyDone
			return n, io.EOF
		}
		if e.left == 0 {
			if n > 0 && !e.lineHere() {
				return n, nil
			}
			if err := e.nextChunk(); err != nil {
				return n, unexpected(err)
			}
			continue
		}
		if n > 0 && br.Buffered() == 0 {
			return n, nil
		}
		want := min(int64(len(p)-n), e.left)
		m, err := br.Read(p[n : n+int(want)])
		n += m
		if e.left -= int64(m); e.left == 0 {
			e.crlf = true
		}
		if err != nil {
			return n, unexpected(err)
		}
	}
	return n, nil
}

// lineHere reports whether the next chunk's head can be read without waiting.
func (e *Exchange) lineHere() bool {
	b, err := e.cn.br.Peek(e.cn.br.Buffered())
	if err != nil {
		return false
	}
	lines := 1
	if e.crlf {
		lines = 2
	}
	for _, ch := range b {
		if ch == '\n' {
			if lines--; lines == 0 {
				return true
			}
		}
	}
	return false
}

func (e *Exchange) nextChunk() error {
	br := e.cn.br
	if e.crlf {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(trimLine(line)) != 0 {
			return fmt.Errorf("%w: no line end behind a chunk", ErrProtocol)
		}
		e.crlf = false
	}
	line, err := br.ReadSlice('\n')
	if err != nil {
		return err
	}
	if e.left, err = chunkSize(trimLine(line)); err != nil {
		return err
	}
	if e.left == 0 {
		e.state = bodyTrailer
	}
	return nil
}

// chunkSize reads the hexadecimal size of a chunk; extensions are ignored.
func chunkSize(line []byte) (int64, error) {
	var n int64
	i := 0
	for ; i < len(line); i++ {
		var d byte
		switch ch := line[i]; {
		case ch >= '0' && ch <= '9':
			d = ch - '0'
		case ch >= 'a' && ch <= 'f':
			d = ch - 'a' + 10
		case ch >= 'A' && ch <= 'F':
			d = ch - 'A' + 10
		default:
			rest := bytes.TrimLeft(line[i:], " \t")
			if i == 0 || len(rest) > 0 && rest[0] != ';' {
				return 0, fmt.Errorf("%w: bad size of a chunk", ErrProtocol)
			}
			return n, nil
		}
		if i >= 15 {
			return 0, fmt.Errorf("%w: chunk is too large", ErrProtocol)
		}
		n = n<<4 | int64(d)
	}
	if i == 0 {
		return 0, fmt.Errorf("%w: empty size of a chunk", ErrProtocol)
	}
	return n, nil
}

// skipTrailer reads the trailer to its blank line.
func (e *Exchange) skipTrailer() error {
	for range 100 {
		line, err := e.cn.br.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(trimLine(line)) == 0 {
			return nil
		}
	}
	return fmt.Errorf("%w: endless trailer", ErrProtocol)
}

// Close gives the connection back when the answer was read to its end, and closes it otherwise. A body that is
// still being written is given up.
func (e *Exchange) Close() {
	if e.closed {
		return
	}
	e.closed = true
	reuse := !e.failed && !e.mustClose && (e.state == bodyDone || e.state == bodyNone) && e.cn.br.Buffered() == 0
	if e.writing != nil {
		select {
		case err := <-e.writing:
			reuse = reuse && err == nil
		default:
			reuse = false
			e.cn.close()
			<-e.writing //nolint:errcheck // given up
		}
	}
	e.cn.mu.Lock()
	reuse = reuse && e.cn.limit.IsZero()
	e.cn.mu.Unlock()
	if reuse {
		e.client.put(e.cn)
		return
	}
	e.cn.close()
}

func unexpected(err error) error {
	if err == io.EOF { //nolint:errorlint // the reader returns it bare
		return io.ErrUnexpectedEOF
	}
	if errors.Is(err, bufio.ErrBufferFull) {
		return fmt.Errorf("%w: endless line", ErrProtocol)
	}
	return err
}

// wrap marks what is a time-out.
func wrap(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}
