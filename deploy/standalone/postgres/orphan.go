package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// endOrphan ends a postmaster that outlived its parent (possible where the kernel has no death
// signal) and waits for one that is ending. Adopting it instead would leave a server
// that dies with nobody.
func (c *cluster) endOrphan(ctx context.Context) error {
	deadline := time.Now().Add(lockPatience)
	asked := false
	for {
		pid, ok := c.lockHolder()
		if !ok {
			return c.dropStaleLock()
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a PostgreSQL server with process id %d still runs on %s: stop it", pid, c.data())
		}
		if !asked {
			c.cfg.Log.Warn("ending a PostgreSQL server that a killed process left", slog.Int("pid", pid))
			if err := syscall.Kill(pid, syscall.SIGQUIT); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("ending the PostgreSQL server %d: %w", pid, err)
			}
			asked = true
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for the PostgreSQL server %d to end: %w", pid, err)
		}
	}
}

// dropStaleLock removes the lock of a server that is gone while its process number lives on: as a
// zombie that nobody collects, or as another program's after a container was started again.
// PostgreSQL itself would refuse for ever. Its shared memory must be free: the last
// of its processes has ended.
func (c *cluster) dropStaleLock() error {
	path := filepath.Join(c.data(), "postmaster.pid")
	raw, err := os.ReadFile(path) //nolint:gosec // G304: a path of ours
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading PostgreSQL's lock: %w", err)
	}
	lines := strings.Split(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(lines[0]))
	if err != nil || syscall.Kill(pid, 0) != nil {
		return nil //nolint:nilerr // PostgreSQL sees by itself that nobody holds it
	}
	if len(lines) > sharedMemoryLine {
		if fields := strings.Fields(lines[sharedMemoryLine]); len(fields) == 2 && attached(fields[1]) {
			return nil // start waits for it
		}
	}
	c.cfg.Log.Warn("removing the lock of a PostgreSQL server that is gone", slog.Int("pid", pid))
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing PostgreSQL's lock: %w", err)
	}
	return nil
}

// sharedMemoryLine of postmaster.pid, counted from 0, is the key and the id of the server's memory.
const sharedMemoryLine = 6

// attached reports whether a process uses the shared memory; when in doubt, it does.
func attached(id string) bool {
	raw, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(raw)) {
		// key shmid perms size cpid lpid nattch …
		if f := strings.Fields(line); len(f) > 6 && f[1] == id {
			return f[6] != "0"
		}
	}
	return false
}

// lockHolder returns the process of postmaster.pid when it runs a server on our data.
func (c *cluster) lockHolder() (int, bool) {
	raw, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		return 0, false
	}
	first, _, _ := strings.Cut(string(raw), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 {
		return 0, false
	}
	// The number may belong to anybody by now: only a process that names our folder is ours.
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || !strings.Contains(string(cmdline), c.data()) {
		return 0, false
	}
	return pid, true
}
