package chaos_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// forwarder is one address in front of several servers, as a load balancer or a moved DNS name is: who talks to it does not see which one answers.
type forwarder struct {
	listener net.Listener

	// mu guards what follows.
	mu     sync.Mutex
	target string
	conns  map[net.Conn]bool
}

func newForwarder(t *testing.T, target string) *forwarder {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forwarder{listener: l, target: target, conns: map[net.Conn]bool{}}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { f.serve(context.WithoutCancel(t.Context()), c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		f.turn("")
		all.Wait()
	})
	return f
}

func (f *forwarder) address() string { return f.listener.Addr().String() }

func (f *forwarder) serve(ctx context.Context, in net.Conn) {
	defer func() { _ = in.Close() }()
	f.mu.Lock()
	target := f.target
	f.conns[in] = true
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.conns, in)
		f.mu.Unlock()
	}()
	out, err := new(net.Dialer).DialContext(ctx, "tcp", target)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
	_ = in.Close()
	<-done
}

// turn leads new connections to another server and cuts those that are open.
func (f *forwarder) turn(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.target = target
	for c := range f.conns {
		_ = c.Close()
	}
}
