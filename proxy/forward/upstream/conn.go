package upstream

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// readBuffer is the size of a connection's read buffer.
const readBuffer = 8 << 10

// conn is one connection; one goroutine at a time uses it.
type conn struct {
	nc   net.Conn
	raw  syscall.RawConn // of the TCP socket, also below TLS; nil when there is none
	br   *bufio.Reader
	pool *pool
	out  []byte // head and small bodies of requests

	// silence bounds each single read of the network, 0: only the deadline does.
	silence time.Duration

	idleSince time.Time
	peekFD    func(fd uintptr)
	peeked    bool

	// mu guards limit and deadline: a cancellation comes from another goroutine.
	mu sync.Mutex
	// limit is the instant after which nothing is read any more, zero: none.
	limit time.Time
	// deadline is what the socket has.
	deadline time.Time
}

func newConn(nc net.Conn, p *pool) *conn {
	cn := &conn{nc: nc, pool: p}
	cn.br = bufio.NewReaderSize(cn, readBuffer)
	if sc, ok := nc.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			cn.raw = raw
		}
	}
	cn.peekFD = cn.peek
	return cn
}

// use puts a TLS session over the socket.
func (cn *conn) use(nc net.Conn) {
	cn.nc = nc
	cn.br.Reset(cn)
}

// Read reads the network. The bound of a silence is set here, where alone something is waited for: a piece of an answer may have come in part.
func (cn *conn) Read(p []byte) (int, error) {
	if cn.silence > 0 {
		if err := cn.timeout(cn.silence); err != nil {
			return 0, fmt.Errorf("setting the deadline: %w", err)
		}
	}
	return cn.nc.Read(p)
}

func (cn *conn) close() { _ = cn.nc.Close() }

// alive asks the kernel, without waiting, whether the upstream has closed the connection or sent something
// that nobody asked for. Without this a POST would often meet a connection that died while it was idle, and
// it cannot be repeated.
func (cn *conn) alive() bool {
	if cn.br.Buffered() > 0 {
		return false
	}
	if cn.raw == nil {
		return true
	}
	cn.peeked = false
	if err := cn.raw.Control(cn.peekFD); err != nil {
		return false
	}
	return cn.peeked
}

// peek notes that there is nothing to read and no end.
func (cn *conn) peek(fd uintptr) {
	var b [1]byte
	_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	cn.peeked = err == syscall.EAGAIN
}

// timeout makes reads and writes fail that take longer than d from now, or go beyond the limit. A deadline
// that would move by less than a 64th of d stays: setting it costs more than that is worth.
func (cn *conn) timeout(d time.Duration) error {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	t := time.Now().Add(d)
	if !cn.limit.IsZero() && t.After(cn.limit) {
		t = cn.limit
	}
	if moved := t.Sub(cn.deadline); moved >= 0 && moved < d/64 {
		return nil
	}
	cn.deadline = t
	return cn.nc.SetDeadline(t)
}

// cancelAt sets the limit; it acts on a read that already waits.
func (cn *conn) cancelAt(t time.Time) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.limit.IsZero() || t.Before(cn.limit) {
		cn.limit = t
		if cn.deadline.IsZero() || t.Before(cn.deadline) {
			cn.deadline = t
			_ = cn.nc.SetDeadline(t) // it fails only on a closed connection, which is ended anyway
		}
	}
}
