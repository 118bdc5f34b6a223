// Package faults lets the parts around real proxy processes fail as they do in production: a Redis that is wiped, replaced by a replica or isolated, calls to it that come
// late or never, a broker and proxies that hang or are killed, disks that are full, lost or come back as they were, a provider that keeps everybody waiting. Tests name what happens and when; how it is
// done stands here, once.
package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/ports"
)

// Main is what TestMain of a package that uses these faults calls instead of harness.Main: some parts are children that run this very binary.
func Main(m *testing.M) {
	if role, there := roles[os.Getenv(childRole)]; there {
		os.Exit(role())
	}
	harness.Main(m, removePrograms)
}

// listen serves the connections to an address of its own, which it returns, until the test ends; stop then breaks those that are open.
func listen(tb testing.TB, serve func(net.Conn), stop func()) string {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listening: %v", err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { serve(c) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		stop()
		all.Wait()
	})
	return l.Addr().String()
}

// Child is a process that ends with the test, and with the process of the test.
type Child struct {
	tb  testing.TB
	cmd *exec.Cmd
	// exited is closed when it has ended.
	exited chan struct{}
}

// start starts a child, which outlives the context of the test: what is cleaned up at its end still needs its stores. Its standard output is the command's. What it says goes to the end of the file log, if there is one.
func start(tb testing.TB, log string, env []string, cmd *exec.Cmd) *Child {
	tb.Helper()
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if log != "" {
		f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			tb.Fatalf("opening the log of %s: %v", cmd.Path, err)
		}
		defer func() { _ = f.Close() }()
		cmd.Stderr = f
	}
	if err := cmd.Start(); err != nil {
		tb.Fatalf("starting %s: %v", cmd.Path, err)
	}
	c := &Child{tb: tb, cmd: cmd, exited: make(chan struct{})}
	go func() {
		defer close(c.exited)
		_ = cmd.Wait()
	}()
	tb.Cleanup(c.Kill)
	return c
}

// Stop lets the process hang, as behind a broken network or on a machine that is paused.
func (c *Child) Stop() { c.tb.Helper(); c.signal(syscall.SIGSTOP) }

// Continue lets a stopped process go on.
func (c *Child) Continue() { c.tb.Helper(); c.signal(syscall.SIGCONT) }

// Kill ends the process as kill -9 does; a second time it does nothing.
func (c *Child) Kill() {
	_ = c.cmd.Process.Kill()
	<-c.exited
}

// Terminate tells the process to end well, and does not wait for it.
func (c *Child) Terminate() { c.tb.Helper(); c.signal(syscall.SIGTERM) }

// Pid is the process' id.
func (c *Child) Pid() int { return c.cmd.Process.Pid }

// Exited is closed when the process has ended.
func (c *Child) Exited() <-chan struct{} { return c.exited }

func (c *Child) signal(s syscall.Signal) {
	c.tb.Helper()
	if err := c.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.tb.Fatalf("%s to %s: %v", s, c.cmd.Path, err)
	}
}

// FreeAddress returns an address of this machine that nobody listens at.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	addresses, err := ports.Addresses(tb.Context(), 1)
	if err != nil {
		tb.Fatal(err)
	}
	return addresses[0]
}

// tail is the end of a file, for messages.
func tail(name string) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Sprint(err)
	}
	return string(b[max(0, len(b)-4000):])
}
