package standalone_test

import (
	"syscall"
	"testing"
	"time"
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
