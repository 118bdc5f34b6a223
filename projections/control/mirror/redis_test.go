package mirror_test

import (
	"bufio"
	"context"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

const patience = 30 * time.Second

// server is a real redis-server that can be stopped and started again at its address, empty.
type server struct {
	t      *testing.T
	addr   string
	client *redis.Client
	kill   func()
	flags  int // that settle has set
}

func newServer(t *testing.T) *server {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, addr: l.Addr().String()}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s.client = redis.NewClient(&redis.Options{Addr: s.addr})
	t.Cleanup(func() { _ = s.client.Close() })
	return s
}

func (s *server) url() string { return "redis://" + s.addr + "/0" }

func (s *server) start() {
	s.t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	cmd := exec.CommandContext(context.WithoutCancel(s.t.Context()), "redis-server", "--port", port, "--save", "", "--bind", "127.0.0.1", "--dir", s.t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done, ready := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if strings.Contains(sc.Text(), "Ready to accept") {
				close(ready)
			}
		}
	}()
	killed := false
	s.kill = func() {
		if killed {
			return
		}
		killed = true
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	}
	s.t.Cleanup(s.kill)
	select {
	case <-ready:
	case <-done:
		s.t.Fatal("redis-server ended")
	}
}

// await waits until the condition is true.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(patience); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}
