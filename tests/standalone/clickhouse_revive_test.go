package standalone_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/standalone/clickhouse"
	"github.com/rateguard/rateguard/tests/harness"
)

// The engine is killed in the middle of its work and comes back at the same address.
func TestADeadEngineComesBack(t *testing.T) {
	s := engineOf(t)
	c := dial(t, s)
	exec(t, c, "CREATE TABLE kept (n Int64, s String) ENGINE = MergeTree ORDER BY n")
	insert(t, c, "kept", 0, 10)
	url, pid := s.URL(), s.PID()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for s.PID() == pid {
		select {
		case <-s.Done():
			t.Fatalf("it was given up: %v", s.Err())
		case <-ticker.C:
		}
	}
	if s.URL() != url {
		t.Errorf("got URL %s, want %s", s.URL(), url)
	}
	fresh := dial(t, s)
	if n := count(t, fresh, "kept"); n != 10 {
		t.Errorf("got %d rows, want 10", n)
	}
}

// An engine whose process was killed holds its folder until the last of its threads is gone. The next one waits for that.
func TestAnEngineWaitsForTheFolderOfADyingOne(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		s, err := clickhouse.Start(t.Context(), clickhouse.Config{Dir: dir})
		if err == nil {
			err = s.Close()
		}
		started <- err
	}()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for !opened(f.Name()) {
		select {
		case err := <-started:
			t.Fatalf("it did not look at the lock: %v", err)
		case <-ticker.C:
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Errorf("it did not start behind the other one: %v", err)
	}
}

// opened reports whether a child of this process has a file open.
func opened(path string) bool {
	for _, pid := range harness.Descendants(os.Getpid()) {
		links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil && target == path {
				return true
			}
		}
	}
	return false
}
