// Package redistest runs real Redis servers for tests: one, a cluster, a primary with its replica and sentinel. They
// end with the test, and with the process. A machine without redis-server fails these tests: one that does not run
// guards nothing.
package redistest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// wait is how long a condition may take, on a machine that has other things to do.
const wait = 30 * time.Second

// Server is one redis-server process.
type Server struct {
	tb   testing.TB
	args []string
	cmd  *exec.Cmd
	done chan struct{}
	// Addr is host:port.
	Addr string
}

// Start runs a redis-server on a free port, with those further arguments.
func Start(tb testing.TB, args ...string) *Server {
	tb.Helper()
	// Of a sync without a disk the stream may begin a second after the replica says that its link is up.
	return start(tb, append([]string{
		"--port", freePort(tb), "--save", "", "--bind", "127.0.0.1", "--dir", tb.TempDir(), "--enable-debug-command", "yes",
		"--repl-diskless-sync", "no",
	}, args...))
}

// freePort returns a port below those that connections get by themselves, which is free together with the one 10,000 above: a cluster's bus
// listens there.
func freePort(tb testing.TB) string {
	tb.Helper()
	const first, many, bus = 10_000, 12_000, 10_000
	for range 100 {
		port := first + rand.IntN(many) //nolint:gosec // any number will do
		if isFree(tb, port) && isFree(tb, port+bus) {
			return strconv.Itoa(port)
		}
	}
	tb.Fatal("no free port")
	return ""
}

func isFree(tb testing.TB, port int) bool {
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	return err == nil && l.Close() == nil
}

func start(tb testing.TB, args []string) *Server {
	tb.Helper()
	s := &Server{tb: tb, args: args, Addr: "127.0.0.1:" + args[slices.Index(args, "--port")+1]}
	s.run()
	tb.Cleanup(s.Kill)
	return s
}

// run starts the process and waits until it listens; loading may go on.
func (s *Server) run(more ...string) {
	s.tb.Helper()
	s.cmd = exec.CommandContext(context.WithoutCancel(s.tb.Context()), "redis-server", slices.Concat(s.args, more)...) //nolint:gosec // a test's own arguments
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		s.tb.Fatalf("starting redis-server: %v", err)
	}
	s.done = make(chan struct{})
	go func() {
		defer close(s.done)
		for sc := bufio.NewScanner(out); sc.Scan(); {
		}
		_ = s.cmd.Wait()
	}()
	c := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1})
	defer func() { _ = c.Close() }()
	s.until("redis-server listens", func() bool {
		// Who looks for a free port listens on it for a moment too.
		info, err := c.Info(context.WithoutCancel(s.tb.Context()), "server").Result()
		var answered redis.Error
		return errors.As(err, &answered) || strings.Contains(info, fmt.Sprintf("process_id:%d\r\n", s.cmd.Process.Pid))
	})
}

// until waits for a condition.
func (s *Server) until(what string, ok func() bool) {
	s.tb.Helper()
	Until(s.tb, what, func() bool {
		select {
		case <-s.done:
			s.tb.Fatalf("redis-server %s ended", s.Addr)
		default:
		}
		return ok()
	})
}

// Until waits until a condition holds.
func Until(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.After(wait)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			tb.Fatalf("not in %s: %s", wait, what)
		}
	}
}

// URL returns the server's address as a URL.
func (s *Server) URL() string { return "redis://" + s.Addr }

// Client returns a client that ends with the test.
func (s *Server) Client() *redis.Client {
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	s.tb.Cleanup(func() { _ = c.Close() })
	return c
}

// Do runs one command.
func (s *Server) Do(args ...any) any {
	s.tb.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.Addr})
	defer func() { _ = c.Close() }()
	v, err := c.Do(s.tb.Context(), args...).Result()
	if err != nil {
		s.tb.Fatalf("%v on %s: %v", args, s.Addr, err)
	}
	return v
}

// Stop freezes the process.
func (s *Server) Stop() { s.signal(syscall.SIGSTOP) }

// Continue lets a frozen process go on.
func (s *Server) Continue() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.tb.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.tb.Fatal(err)
	}
}

// Kill ends the process at once; a second time it does nothing.
func (s *Server) Kill() {
	_ = s.cmd.Process.Kill()
	<-s.done
}

// Restart starts a killed server again, on the same port and folder, with those further arguments.
func (s *Server) Restart(args ...string) {
	s.tb.Helper()
	s.run(args...)
}

// Cluster starts three primaries that share all slots evenly, in the order of their slots, and as many empty nodes
// beside them as asked for.
func Cluster(tb testing.TB, empty int) []*Server {
	tb.Helper()
	const primaries = 3
	nodes := make([]*Server, primaries+empty)
	for i := range nodes {
		nodes[i] = Start(tb, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000",
			"--cluster-allow-replica-migration", "no")
	}
	for i, n := range nodes {
		_, port, _ := net.SplitHostPort(nodes[0].Addr)
		n.Do("cluster", "set-config-epoch", i+1)
		if i > 0 {
			n.Do("cluster", "meet", "127.0.0.1", port)
		}
		if i < primaries {
			n.Do("cluster", "addslotsrange", i*16384/primaries, (i+1)*16384/primaries-1)
		}
	}
	for _, n := range nodes {
		n.until("the cluster knows itself", func() bool {
			info := fmt.Sprint(n.Do("cluster", "info"))
			return strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(nodes)))
		})
	}
	return nodes
}

// ClusterURL returns the URL of a cluster.
func ClusterURL(nodes []*Server) string {
	url := "redis+cluster://" + nodes[0].Addr
	for i, n := range nodes[1:] {
		url += []string{"?", "&"}[min(i, 1)] + "addr=" + n.Addr
	}
	return url
}

// ID returns the node's name in its cluster.
func (s *Server) ID() string { s.tb.Helper(); return fmt.Sprint(s.Do("cluster", "myid")) }

// Replicate makes the server follow another and waits until it has its data.
func (s *Server) Replicate(of *Server) {
	s.tb.Helper()
	host, port, _ := net.SplitHostPort(of.Addr)
	s.Do("replicaof", host, port)
	s.InSync()
}

// InSync waits until a replica has its primary's data.
func (s *Server) InSync() {
	s.tb.Helper()
	s.until("the replica is in sync", func() bool {
		return strings.Contains(fmt.Sprint(s.Do("info", "replication")), "master_link_status:up")
	})
}

// MigrateTo moves keys to another node of the cluster, in one command.
func (s *Server) MigrateTo(to *Server, keys ...any) {
	s.tb.Helper()
	host, port, _ := net.SplitHostPort(to.Addr)
	s.Do(append([]any{"migrate", host, port, "", 0, 5000, "keys"}, keys...)...)
}

// Sentinel starts a sentinel over the primary that promotes a replica one second after its death.
func Sentinel(tb testing.TB, master string, primary *Server) *Server {
	tb.Helper()
	host, port, _ := net.SplitHostPort(primary.Addr)
	file := filepath.Join(tb.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor %[1]s %[2]s %[3]s 1\nsentinel down-after-milliseconds %[1]s 1000\nsentinel failover-timeout %[1]s 3000\n",
		master, host, port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	s := start(tb, []string{file, "--port", freePort(tb), "--bind", "127.0.0.1", "--sentinel"})
	s.until("the sentinel sees the replica", func() bool {
		return strings.Contains(fmt.Sprint(s.Do("info", "sentinel")), "slaves=1")
	})
	return s
}
