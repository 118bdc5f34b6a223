package chaos_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
	"github.com/rateguard/rateguard/tests/harness/faults"
)

// replicated is a Redis with a replica behind one address.
type replicated struct {
	front            *faults.Relay
	primary, replica *faults.Redis
}

func startRedis(t *testing.T) *replicated {
	t.Helper()
	r := &replicated{primary: faults.StartRedis(t), replica: faults.StartRedis(t)}
	r.front = faults.NewRelay(t, r.primary.Addr)
	r.replica.Follow(r.primary)
	return r
}

// failover lets the replica take over, with what it has.
func (r *replicated) failover() {
	r.replica.Promote()
	r.primary, r.replica = r.replica, r.primary
	r.front.Lead(r.primary.Addr)
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
