package faults

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// Gate is a way to a server of any protocol, on which what clients say can be held back.
type Gate struct {
	tb       testing.TB
	listener net.Listener
	target   string

	// mu guards what follows.
	mu sync.Mutex
	// open is closed when nothing is held; from then on, what has the text is not.
	open chan struct{}
	text []byte
	held int
	// conns are all that are open, of both sides.
	conns map[net.Conn]bool
}

// NewGate returns a way to the server at host:port that lets everything pass.
func NewGate(tb testing.TB, target string) *Gate {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	g := &Gate{tb: tb, listener: l, target: target, open: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(g.open)
	ctx := context.WithoutCancel(tb.Context())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { g.serve(ctx, c) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		g.Release()
		g.mu.Lock()
		for c := range g.conns {
			_ = c.Close()
		}
		g.mu.Unlock()
		all.Wait()
	})
	return g
}

// Addr is host:port.
func (g *Gate) Addr() string { return g.listener.Addr().String() }

// Hold keeps from the server what a client says from the next text on, until Release.
func (g *Gate) Hold(text string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open, g.text = make(chan struct{}), []byte(text)
}

// Await waits until something is held.
func (g *Gate) Await() {
	g.tb.Helper()
	harness.Eventually(g.tb, 30*time.Second, func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.held == 0 {
			return errors.New("nobody said " + string(g.text))
		}
		return nil
	})
}

// Release lets go what is held.
func (g *Gate) Release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.open:
	default:
		close(g.open)
	}
}

// serve passes on one connection.
func (g *Gate) serve(ctx context.Context, in net.Conn) {
	defer g.forget(in)
	out, err := new(net.Dialer).DialContext(ctx, "tcp", g.target)
	if err != nil {
		return
	}
	defer g.forget(out)
	g.mu.Lock()
	g.conns[in], g.conns[out] = true, true
	g.mu.Unlock()
	var answers sync.WaitGroup
	answers.Go(func() {
		_, _ = io.Copy(in, out)
		_ = in.Close()
	})
	for buffer := make([]byte, 64<<10); ; {
		n, err := in.Read(buffer)
		g.pass(buffer[:n])
		if _, failed := out.Write(buffer[:n]); failed != nil || err != nil {
			break
		}
	}
	_ = out.Close()
	answers.Wait()
}

// pass waits while what a client says is to be held.
func (g *Gate) pass(said []byte) {
	g.mu.Lock()
	open := g.open
	hold := bytes.Contains(said, g.text)
	select {
	case <-open:
	default:
		if hold {
			g.held++
		}
	}
	g.mu.Unlock()
	if hold {
		<-open
	}
}

func (g *Gate) forget(c net.Conn) {
	_ = c.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}
