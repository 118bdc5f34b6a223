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

// Valve is a way to a server of any protocol, on which what clients say can be held back.
type Valve struct {
	tb           testing.TB
	addr, target string

	// mu guards what follows.
	mu sync.Mutex
	// open is closed when nothing is held; from then on, what has the text is not.
	open chan struct{}
	text []byte
	held int
	// conns are all that are open, of both sides.
	conns map[net.Conn]bool
}

// NewValve returns a way to the server at host:port that lets everything pass.
func NewValve(tb testing.TB, target string) *Valve {
	tb.Helper()
	v := &Valve{tb: tb, target: target, open: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(v.open)
	ctx := context.WithoutCancel(tb.Context())
	v.addr = listen(tb, func(c net.Conn) { v.serve(ctx, c) }, func() {
		v.Release()
		v.mu.Lock()
		defer v.mu.Unlock()
		for c := range v.conns {
			_ = c.Close()
		}
	})
	return v
}

// Addr is host:port.
func (v *Valve) Addr() string { return v.addr }

// Hold keeps from the server what a client says from the next text on, until Release.
func (v *Valve) Hold(text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.open, v.text = make(chan struct{}), []byte(text)
}

// Await waits until something is held.
func (v *Valve) Await() {
	v.tb.Helper()
	harness.Eventually(v.tb, 30*time.Second, func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.held == 0 {
			return errors.New("nobody said " + string(v.text))
		}
		return nil
	})
}

// Release lets go what is held.
func (v *Valve) Release() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.open:
	default:
		close(v.open)
	}
}

// serve passes on one connection.
func (v *Valve) serve(ctx context.Context, in net.Conn) {
	defer v.forget(in)
	out, err := new(net.Dialer).DialContext(ctx, "tcp", v.target)
	if err != nil {
		return
	}
	defer v.forget(out)
	v.mu.Lock()
	v.conns[in], v.conns[out] = true, true
	v.mu.Unlock()
	var answers sync.WaitGroup
	answers.Go(func() {
		_, _ = io.Copy(in, out)
		_ = in.Close()
	})
	for buffer := make([]byte, 64<<10); ; {
		n, err := in.Read(buffer)
		v.pass(buffer[:n])
		if _, failed := out.Write(buffer[:n]); failed != nil || err != nil {
			break
		}
	}
	_ = out.Close()
	answers.Wait()
}

// pass waits while what a client says is to be held.
func (v *Valve) pass(said []byte) {
	v.mu.Lock()
	open := v.open
	hold := bytes.Contains(said, v.text)
	select {
	case <-open:
	default:
		if hold {
			v.held++
		}
	}
	v.mu.Unlock()
	if hold {
		<-open
	}
}

func (v *Valve) forget(c net.Conn) {
	_ = c.Close()
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.conns, c)
}
