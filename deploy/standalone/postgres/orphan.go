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
			return nil
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
