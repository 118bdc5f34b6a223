package chaos_test

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/tests/harness"
)

// child starts a program that dies with the test.
func child(t *testing.T, env []string, name string, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.Command(name, args...)
	c.Env = append(os.Environ(), env...)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	t.Cleanup(func() {
		if c.Process != nil {
			_ = c.Process.Signal(syscall.SIGCONT)
			_ = c.Process.Kill()
			_ = c.Wait()
		}
	})
	return c
}

// startBroker starts a broker in a process of its own.
func startBroker(t *testing.T) (address string, p *os.Process) {
	t.Helper()
	c := child(t, []string{brokerDir + "=" + t.TempDir()}, os.Args[0])
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.Stderr = t.Output()
	if err := c.Start(); err != nil {
		t.Fatalf("starting the broker: %v", err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("starting the broker: %v", err)
	}
	return strings.TrimSpace(line), c.Process
}

// replicated is a Redis with a replica behind one address.
type replicated struct {
	t       *testing.T
	front   *forwarder
	primary string
	replica string
	clients map[string]*redis.Client
}

func startRedis(t *testing.T) *replicated {
	t.Helper()
	r := &replicated{t: t, clients: map[string]*redis.Client{}}
	r.primary, r.replica = r.server(), r.server()
	r.front = newForwarder(t, r.primary)
	r.follow()
	return r
}

func (r *replicated) server() string {
	r.t.Helper()
	l, err := new(net.ListenConfig).Listen(r.t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	c := child(r.t, nil, "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", r.t.TempDir(), "--loglevel", "warning",
		"--repl-diskless-sync-delay", "0")
	if err := c.Start(); err != nil {
		r.t.Fatalf("starting Redis: %v", err)
	}
	r.clients[address] = redis.NewClient(&redis.Options{Addr: address})
	r.t.Cleanup(func() { _ = r.clients[address].Close() })
	harness.Eventually(r.t, 20*time.Second, func() error { return r.clients[address].Ping(r.t.Context()).Err() })
	return address
}

// follow makes the replica follow the primary and waits until it has its data.
func (r *replicated) follow() {
	r.t.Helper()
	host, port, _ := net.SplitHostPort(r.primary)
	c := r.clients[r.replica]
	if err := c.ConfigSet(r.t.Context(), "masterauth", "").Err(); err != nil {
		r.t.Fatal(err)
	}
	if err := c.ReplicaOf(r.t.Context(), host, port).Err(); err != nil {
		r.t.Fatal(err)
	}
	harness.Eventually(r.t, 30*time.Second, func() error {
		return r.clients[r.primary].Do(r.t.Context(), "wait", 1, 1000).Err()
	})
}

// cut makes the replica deaf: the link breaks, and is refused from then on.
func (r *replicated) cut() {
	r.t.Helper()
	c := r.clients[r.replica]
	if err := c.ConfigSet(r.t.Context(), "masterauth", "wrong").Err(); err != nil {
		r.t.Fatal(err)
	}
	_ = c.Do(r.t.Context(), "client", "kill", "type", "master").Err()
}

// failover lets the replica take over, with what it has.
func (r *replicated) failover() {
	r.t.Helper()
	if err := r.clients[r.replica].ReplicaOf(r.t.Context(), "no", "one").Err(); err != nil {
		r.t.Fatal(err)
	}
	r.primary, r.replica = r.replica, r.primary
	r.front.turn(r.primary)
}

func (r *replicated) wipe() {
	r.t.Helper()
	if err := r.clients[r.primary].FlushAll(r.t.Context()).Err(); err != nil {
		r.t.Fatal(err)
	}
}

// postgres returns the processes of the system's PostgreSQL.
func postgres() (all []int) {
	for _, pid := range harness.Descendants(os.Getpid()) {
		name, err := os.ReadFile("/proc/" + itoa(pid) + "/comm")
		if err == nil && strings.HasPrefix(strings.TrimSpace(string(name)), "postgres") {
			all = append(all, pid)
		}
	}
	return all
}

func signalAll(pids []int, s syscall.Signal) {
	for _, pid := range pids {
		_ = syscall.Kill(pid, s)
	}
}
