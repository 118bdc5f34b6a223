package faults

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/tests/harness"
)

// Redis is a real redis-server. It keeps nothing on disk: one that is started again is empty.
type Redis struct {
	*Child
	// Addr is host:port.
	Addr string
	// Client speaks to it directly.
	Client *redis.Client
}

// StartRedis starts a primary.
func StartRedis(tb testing.TB) *Redis {
	tb.Helper()
	address := FreeAddress(tb)
	_, port, _ := net.SplitHostPort(address)
	r := &Redis{Addr: address, Client: redis.NewClient(&redis.Options{Addr: address})}
	tb.Cleanup(func() { _ = r.Client.Close() })
	// Of a sync without a disk the stream may begin a second after the replica says that its link is up.
	r.Child = start(tb, "", nil, exec.CommandContext(context.WithoutCancel(tb.Context()), "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir(),
		"--loglevel", "warning", "--repl-diskless-sync", "no"))
	harness.Eventually(tb, 20*time.Second, func() error { return r.Client.Ping(tb.Context()).Err() })
	return r
}

// Follow makes it a replica and waits until it has the primary's data.
func (r *Redis) Follow(primary *Redis) {
	r.tb.Helper()
	host, port, _ := net.SplitHostPort(primary.Addr)
	r.must(r.Client.ConfigSet(r.tb.Context(), "masterauth", "").Err())
	r.must(r.Client.ReplicaOf(r.tb.Context(), host, port).Err())
	harness.Eventually(r.tb, 30*time.Second, func() error {
		info, err := r.Client.Info(r.tb.Context(), "replication").Result()
		if err == nil && !strings.Contains(info, "master_link_status:up") {
			err = errors.New("the replica is not in sync")
		}
		return err
	})
	r.CaughtUp(primary)
}

// CaughtUp waits until a replica has all that its primary has run so far.
func (r *Redis) CaughtUp(primary *Redis) {
	r.tb.Helper()
	// WAIT asks for what had been run when its own connection ran its last command.
	c := primary.Client.Conn()
	defer func() { _ = c.Close() }()
	harness.Eventually(r.tb, 30*time.Second, func() error {
		if err := c.Ping(r.tb.Context()).Err(); err != nil {
			return err
		}
		n, err := c.Do(r.tb.Context(), "wait", 1, 1000).Int()
		if err == nil && n < 1 {
			err = errors.New("the replica has not caught up")
		}
		return err
	})
}

// Deafen cuts a replica off from its primary: the link breaks, and is refused from then on. What the primary grants now the replica lacks. A replica that only
// stopped would find all of it in its socket.
func (r *Redis) Deafen() {
	r.tb.Helper()
	r.must(r.Client.ConfigSet(r.tb.Context(), "masterauth", "wrong").Err())
	r.must(r.Client.Do(r.tb.Context(), "client", "kill", "type", "master").Err())
}

// Promote makes a replica a primary, with what it has.
func (r *Redis) Promote() {
	r.tb.Helper()
	r.must(r.Client.ReplicaOf(r.tb.Context(), "no", "one").Err())
}

// Wipe loses everything.
func (r *Redis) Wipe() {
	r.tb.Helper()
	r.must(r.Client.FlushAll(r.tb.Context()).Err())
}

func (r *Redis) must(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatalf("Redis at %s: %v", r.Addr, err)
	}
}
