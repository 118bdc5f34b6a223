package lua

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"
)

// dialHook stands between the pool and the dialer of one shard. It keeps three things from the pool:
//   - A failed dial. After as many as the pool's size the pool refuses by itself and looks again once a second, which
//     would make every recovery late; instead it gets a connection that fails at its first write.
//   - A demoted server. Its idle connections work, and would answer READONLY one by one until each was used once.
//   - The server behind the address, whose clock is measured.
type dialHook struct{ shard *shard }

func (h dialHook) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		life := h.shard.conns.Load()
		c, err := next(ctx, network, addr)
		if err != nil {
			return failedConn{&dialError{err}}, nil //nolint:nilerr // see above
		}
		h.shard.clock.identify(c.RemoteAddr().String())
		return &conn{Conn: c, shard: h.shard, life: life}, nil
	}
}

func (dialHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (dialHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// freshFor is how long after an answer a connection is taken to be alive. To ask the kernel costs a system call, which under load is one more for each request.
const freshFor = 10 * time.Millisecond

// conn is a connection that the pool drops once the shard's connections have begun a new life.
type conn struct {
	net.Conn
	shard *shard
	life  uint64
	// answered is when something was read last, by the monotonic clock since the process began.
	answered atomic.Int64
}

var began = time.Now()

// Read notes when something came.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil {
		c.answered.Store(int64(time.Since(began)))
	}
	return n, err
}

// SyscallConn is how the pool looks whether an idle connection is alive. A TLS connection has none to show and counts
// as alive, as it does without us.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	if c.shard.conns.Load() != c.life {
		return nil, net.ErrClosed
	}
	if at := c.answered.Load(); at != 0 && time.Since(began)-time.Duration(at) < freshFor {
		return silent{}, nil
	}
	if s, ok := c.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return silent{}, nil
}

// silent is a raw connection that nobody looks into.
type silent struct{}

func (silent) Control(func(uintptr)) error    { return nil }
func (silent) Read(func(uintptr) bool) error  { return nil }
func (silent) Write(func(uintptr) bool) error { return nil }

// failedConn is a connection that could not be made; the pool never gives it out a second time.
type failedConn struct{ err error }

func (c failedConn) Read([]byte) (int, error)              { return 0, c.err }
func (c failedConn) Write([]byte) (int, error)             { return 0, c.err }
func (failedConn) Close() error                            { return nil }
func (failedConn) LocalAddr() net.Addr                     { return &net.TCPAddr{} }
func (failedConn) RemoteAddr() net.Addr                    { return &net.TCPAddr{} }
func (failedConn) SetDeadline(time.Time) error             { return nil }
func (failedConn) SetReadDeadline(time.Time) error         { return nil }
func (failedConn) SetWriteDeadline(time.Time) error        { return nil }
func (c failedConn) SyscallConn() (syscall.RawConn, error) { return nil, c.err }

var (
	_ redis.Hook   = dialHook{}
	_ syscall.Conn = (*conn)(nil)
	_ net.Conn     = failedConn{}
	_ syscall.Conn = failedConn{}
)

// shard is one server that owns slots: the single one, the one that the sentinels name, or a primary of a cluster.
type shard struct {
	name    string
	client  *redis.Client // nil for the cluster's map of slots
	line    line
	clock   clock
	breaker breaker
	// conns is the life of the connections; one more retires all that are idle.
	conns atomic.Uint64
}
