package standalone_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/deploy/standalone/postgres"
)

// After a container was started again, the process number in the lock is somebody else's.
func TestALockOfAnotherProgramsNumberIsNoObstacle(t *testing.T) {
	dir := t.TempDir()
	s, err := postgres.Start(t.Context(), postgres.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	other, err := child.Exec(t.Context(), child.Spec{Name: "sleep", Path: "sleep", Args: []string{"600"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Kill(); err != nil {
			t.Error(err)
		}
	})
	data := filepath.Join(dir, "data")
	lock := fmt.Sprintf("%d\n%s\n1\n5432\n\n127.0.0.1\n  1234567  999999\nready\n", other.PID(), data)
	if err := os.WriteFile(filepath.Join(data, "postmaster.pid"), []byte(lock), 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now() // an obstacle would be waited for, for 30 s
	if s, err = postgres.Start(t.Context(), postgres.Config{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 25*time.Second {
		t.Errorf("it took %s", took)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
