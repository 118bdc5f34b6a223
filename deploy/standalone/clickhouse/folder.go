package clickhouse

import (
	"context"
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
func awaitFolder(ctx context.Context, dir string) error {
	f, err := os.Open(filepath.Join(dir, "status")) //nolint:gosec // G304: the data folder is the user's choice
	if errors.Is(err, os.ErrNotExist) {
		return nil // nobody has used it
	}
	if err != nil {
		return fmt.Errorf("looking at the engine's lock: %w", err)
	}
	defer func() { _ = f.Close() }()
	ctx, cancel := context.WithTimeout(ctx, folderPatience)
	defer cancel()
	look := time.NewTicker(folderLook)
	defer look.Stop()
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil // anything else the engine says better; closing lets go of the lock
		}
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
		}
	}
}
