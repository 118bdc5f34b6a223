package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// conn is one keep-alive connection that sends a prepared request and reads one answer.
// It does no more than that, so that the load costs the machine little next to what is measured.
type conn struct {
	nc  net.Conn
	buf *bufio.Reader
}

// answer is what one exchange showed.
type answer struct {
	status int
	// firstByte is the time from the call to the first byte of the body.
	firstByte time.Duration
	// whole reports whether the body ended as HTTP says it ends.
	whole bool
}

func dial(address string) (*conn, error) {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("dialing: %w", err)
	}
	return &conn{nc: nc, buf: bufio.NewReaderSize(nc, 16<<10)}, nil
}

func (c *conn) close() { _ = c.nc.Close() }

func (c *conn) do(request []byte) (answer, error) {
	start := time.Now()
	if err := c.nc.SetDeadline(start.Add(30 * time.Second)); err != nil {
		return answer{}, fmt.Errorf("setting the deadline: %w", err)
	}
	if _, err := c.nc.Write(request); err != nil {
		return answer{}, fmt.Errorf("sending: %w", err)
	}
	a, length, err := c.head()
	if err != nil {
		return a, err
	}
	if _, err := c.buf.Peek(1); err != nil && length != 0 {
		return a, fmt.Errorf("reading the first byte: %w", err)
	}
	a.firstByte = time.Since(start)
	if length >= 0 {
		_, err = c.buf.Discard(length)
	} else {
		err = c.chunks()
	}
	if err != nil {
		return a, fmt.Errorf("reading the body: %w", err)
	}
	a.whole = true
	return a, nil
}

// head reads status line and headers; length is -1 for a chunked body.
func (c *conn) head() (a answer, length int, err error) {
	line, err := c.buf.ReadSlice('\n')
	if err != nil {
		return a, 0, fmt.Errorf("reading the status line: %w", err)
	}
	if len(line) < 12 {
		return a, 0, errors.New("short status line")
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, 0, fmt.Errorf("parsing the status line: %w", err)
	}
	for {
		line, err = c.buf.ReadSlice('\n')
		if err != nil {
			return a, 0, fmt.Errorf("reading a header: %w", err)
		}
		if len(line) <= 2 {
			return a, length, nil
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return a, 0, fmt.Errorf("parsing the length: %w", err)
			}
		case bytes.EqualFold(name, []byte("transfer-encoding")):
			length = -1
		}
	}
}

func (c *conn) chunks() error {
	for {
		line, err := c.buf.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimSpace(line)), 16, 32)
		if err != nil {
			return fmt.Errorf("parsing a chunk's length: %w", err)
		}
		if _, err := c.buf.Discard(int(n) + 2); err != nil {
			return err
		}
		if n == 0 {
			return nil
		}
	}
}

// prepare returns the bytes of one request.
func prepare(host, path, key, body string) []byte {
	var b bytes.Buffer
	_, _ = fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nAccept: application/json\r\nUser-Agent: rateguard-load/1\r\nContent-Length: %d\r\n\r\n",
		path, host, key, len(body))
	_, _ = io.WriteString(&b, body)
	return b.Bytes()
}
