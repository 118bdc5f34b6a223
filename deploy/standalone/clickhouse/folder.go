package clickhouse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// folderPatience is how long the folder of an engine that was killed may stay locked: its threads end one after another, and the last one lets go of the lock.
	folderPatience = 10 * time.Second
	folderLook     = 20 * time.Millisecond
)

// awaitFolder waits until no engine holds the folder. The engine itself does not wait for its lock. What is still locked then is left to the engine to refuse.
func awaitFolder(dir string) error {
	f, err := os.Open(filepath.Join(dir, "status"))
	if errors.Is(err, os.ErrNotExist) {
		return nil // nobody has used it
	}
	if err != nil {
		return fmt.Errorf("looking at the engine's lock: %w", err)
	}
	defer func() { _ = f.Close() }()
	for end := time.Now().Add(folderPatience); time.Now().Before(end); time.Sleep(folderLook) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) //nolint:gosec // a file descriptor
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil // closing lets go of it
		}
	}
	return nil
}
