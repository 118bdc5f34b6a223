package faults

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// Relay is an address in front of Redis servers, as a load balancer or a moved DNS name is: who talks to it does not see which one answers. It passes on command
// by command and answer by answer, and does to some of them what it is told to.
type Relay struct {
	tb   testing.TB
	addr string
	// closing ends when the test does: nothing is held back any longer.
	closing context.Context //nolint:containedctx // it is the relay's own life

	// mu guards what follows.
	mu      sync.Mutex
	target  string
	clients map[net.Conn]bool
	servers map[net.Conn]bool
	catches []*Catch
	clock   time.Duration
}

// Fault is what happens to a command.
type Fault int

const (
	// HoldCommand keeps the command from the server until it is released, as a network may: its client may have given up long before.
	HoldCommand Fault = iota
	// HoldAnswer lets the server run the command, and keeps the answer until it is released.
	HoldAnswer
	// LoseCommand breaks the connection in front of the command.
	LoseCommand
	// LoseAnswer breaks it behind the command: the server has run it.
	LoseAnswer
)

// Catch is a fault of some commands.
type Catch struct {
	relay    *Relay
	what     Fault
	of       func(Command) bool
	released chan struct{}

	// left is how many more are caught, below 0 without a bound; caught how many have been. Both are guarded by the relay's mu.
	left, caught int
}

// reply is what happens to the answer of a command: the fault, nil for none, and by how much the time in it differs, 0 where it tells none.
type reply struct {
	catch *Catch
	by    time.Duration
}

// answer is one on its way back, and what holds it; nil: nothing does.
type answer struct {
	raw   []byte
	catch *Catch
}

// NewRelay returns an address that leads to a server.
func NewRelay(tb testing.TB, target string) *Relay {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	r := &Relay{tb: tb, closing: ctx, target: target, clients: map[net.Conn]bool{}, servers: map[net.Conn]bool{}}
	r.addr = listen(tb, r.serve, func() {
		cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		for c := range r.clients {
			_ = c.Close()
		}
		for c := range r.servers {
			_ = c.Close()
		}
	})
	return r
}

// Addr is host:port.
func (r *Relay) Addr() string { return r.addr }

// URL is the address as proxies take it, where the server asks for no password.
func (r *Relay) URL() string { return "redis://" + r.Addr() }

// Lead leads new connections to another server and cuts those that are open. A command that is held still goes to the old one.
func (r *Relay) Lead(target string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.target = target
	for c := range r.clients {
		_ = c.Close()
	}
}

// Catch does that to the next n commands that match, to all where n is 0, until Release.
func (r *Relay) Catch(what Fault, n int, of func(Command) bool) *Catch {
	if n == 0 {
		n = -1
	}
	c := &Catch{relay: r, what: what, of: of, released: make(chan struct{}), left: n}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.catches = append(r.catches, c)
	return c
}

// Clock makes the server's clock seem to differ by that much from now on, to scripts too: their texts are changed on their way.
func (r *Relay) Clock(by time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock = by
}

// Caught is how many commands the fault had: of HoldAnswer and LoseAnswer those that the server has run.
func (c *Catch) Caught() int {
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	return c.caught
}

// Await waits until so many had the fault.
func (c *Catch) Await(n int) {
	c.relay.tb.Helper()
	harness.Eventually(c.relay.tb, 30*time.Second, func() error {
		if got := c.Caught(); got < n {
			return fmt.Errorf("%d commands were caught, want %d", got, n)
		}
		return nil
	})
}

// Release lets go what is held, and catches nothing more.
func (c *Catch) Release() {
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	c.relay.catches = slices.DeleteFunc(c.relay.catches, func(o *Catch) bool { return o == c })
	close(c.released)
}

// match finds the fault of a command; nil: it has none.
func (r *Relay) match(cmd Command) *Catch {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.catches {
		if c.left != 0 && c.of(cmd) {
			c.left--
			return c
		}
	}
	return nil
}

// note counts a command that has its fault.
func (c *Catch) note() {
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	c.caught++
}

// undo takes back a match: the server did not know the script, and gets its text next.
func (c *Catch) undo() {
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	c.left++
}

// hold waits until the catch lets go.
func (c *Catch) hold() {
	select {
	case <-c.released:
	case <-c.relay.closing.Done():
	}
}

// serve passes on one connection.
func (r *Relay) serve(in net.Conn) {
	defer func() { _ = in.Close() }()
	r.mu.Lock()
	target := r.target
	r.clients[in] = true
	r.mu.Unlock()
	defer r.forget(r.clients, in)
	out, err := new(net.Dialer).DialContext(r.closing, "tcp", target)
	if err != nil {
		return
	}
	defer func() { _ = out.Close() }()
	r.mu.Lock()
	r.servers[out] = true
	r.mu.Unlock()
	defer r.forget(r.servers, out)
	// A client that has this many answers outstanding waits; proxies have those of one round trip.
	asked := make(chan reply, 1024)
	var commands sync.WaitGroup
	defer commands.Wait()
	commands.Go(func() {
		defer close(asked)
		if !r.commands(out, in, asked) {
			_, _ = in.Close(), out.Close()
			return
		}
		if half, ok := out.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // what was sent is still answered
		}
	})
	r.answers(in, out, asked)
	_, _ = in.Close(), out.Close()
}

func (r *Relay) forget(of map[net.Conn]bool, c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(of, c)
}

// commands passes on commands until the client ends; false: one was lost.
func (r *Relay) commands(out, in net.Conn, asked chan<- reply) bool {
	from := bufio.NewReader(in)
	for {
		raw, cmd, err := readCommand(from)
		if err != nil {
			return true
		}
		raw, by := r.shift(raw, cmd)
		c := r.match(cmd)
		switch {
		case c == nil:
		case c.what == LoseCommand:
			c.note()
			return false
		case c.what == HoldCommand:
			c.note()
			c.hold()
			c = nil
		}
		select {
		case asked <- reply{c, by}:
		case <-r.closing.Done():
			return false
		}
		if _, err := out.Write(raw); err != nil {
			return false
		}
	}
}

const timeCall = "redis.call('TIME')"

// shift changes how a command tells the time; by is what to do to an answer that is nothing but the time.
func (r *Relay) shift(raw []byte, cmd Command) (out []byte, by time.Duration) {
	r.mu.Lock()
	by = r.clock
	r.mu.Unlock()
	switch {
	case by == 0 || len(cmd) == 0:
	case strings.EqualFold(cmd[0], "time"):
		return raw, by
	case len(cmd) > 2 && strings.EqualFold(cmd[0], "evalsha"):
		return append(Command{cmd[0], strings.Repeat("0", 40)}, cmd[2:]...).bytes(), 0 // the server does not know it, and is sent the text next
	case len(cmd) > 2 && strings.EqualFold(cmd[0], "eval"):
		shifted := fmt.Sprintf("({string.format('%%.0f', tonumber(redis.call('TIME')[1]) + %d), redis.call('TIME')[2]})", int64(by.Seconds()))
		changed := append(Command{cmd[0], strings.ReplaceAll(cmd[1], timeCall, shifted)}, cmd[2:]...)
		return changed.bytes(), 0
	}
	return raw, 0
}

// shift changes an answer that is the time: seconds and microseconds.
func (a reply) shift(raw []byte) []byte {
	parts := strings.Split(string(raw), "\r\n")
	if a.by == 0 || len(parts) < 3 {
		return raw
	}
	seconds, err := strconv.ParseInt(parts[2], 10, 64)
	if err != nil {
		return raw
	}
	parts[2] = strconv.FormatInt(seconds+int64(a.by.Seconds()), 10)
	parts[1] = "$" + strconv.Itoa(len(parts[2]))
	return []byte(strings.Join(parts, "\r\n"))
}

// answers passes on answers until the server ends, or one is lost. It reads on while one is held: the server has run what came behind in the same round trip.
func (r *Relay) answers(in, out net.Conn, asked <-chan reply) {
	answered := make(chan answer, cap(asked))
	var held sync.WaitGroup
	defer held.Wait()
	defer close(answered)
	held.Go(func() {
		for a := range answered {
			if a.catch != nil {
				a.catch.hold()
			}
			_, _ = in.Write(a.raw) // a client that has left hears nothing; what it sent before goes on
		}
	})
	from := bufio.NewReader(out)
	for {
		raw, err := readValue(from, nil)
		if err != nil {
			return
		}
		if raw[0] == '>' { // nobody asked for that
			answered <- answer{raw: raw}
			continue
		}
		a := <-asked
		switch {
		case a.catch == nil:
		case bytes.HasPrefix(raw, []byte("-NOSCRIPT")):
			a.catch.undo()
			a.catch = nil
		default:
			a.catch.note()
			if a.catch.what == LoseAnswer {
				return
			}
		}
		answered <- answer{raw: a.shift(raw), catch: a.catch}
	}
}
