// Package fetch brings the engines' binaries into the user's cache, once: through the package
// manager that is installed, so that its mirror and proxy settings hold, checked against a pinned
// SHA-256 and put in place by a rename.
package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Progress is told of long steps, in one line each. A nil Progress is silent.
type Progress func(line string)

// Say formats one line.
func (p Progress) Say(format string, args ...any) {
	if p != nil {
		p(fmt.Sprintf(format, args...))
	}
}

// reportInterval is how often a step that lasts says so.
const reportInterval = 3 * time.Second

// CacheDir returns dir, or the user's cache folder of RateGuard when it is empty.
func CacheDir(dir string) (string, error) {
	if dir != "" {
		return dir, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the user's cache folder (set HOME or XDG_CACHE_HOME): %w", err)
	}
	return filepath.Join(base, "rateguard"), nil
}

// Once returns the folder cache/name. When it is not there, make fills a temporary folder beside
// it that is then renamed: a folder that exists is whole. Concurrent processes wait for one another.
func Once(ctx context.Context, cache, name string, fill func(dir string) error) (string, error) {
	final := filepath.Join(cache, name)
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil { //nolint:gosec // G301: a cache of public files
		return "", fmt.Errorf("creating the cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(cache, name+".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	tmp := final + ".partial"
	if err := os.RemoveAll(tmp); err != nil {
		return "", fmt.Errorf("clearing the cache: %w", err)
	}
	if err := os.Mkdir(tmp, 0o755); err != nil { //nolint:gosec // G301: a cache of public files
		return "", fmt.Errorf("creating the cache: %w", err)
	}
	if err := fill(tmp); err != nil {
		return "", errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", fmt.Errorf("putting %s in place: %w", name, err)
	}
	return final, nil
}

// lock takes an advisory lock that the kernel drops when the process dies.
func lock(ctx context.Context, path string) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644) //nolint:gosec // G302, G304: an empty file of ours
	if err != nil {
		return nil, fmt.Errorf("opening the cache's lock: %w", err)
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("locking the cache: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("waiting for another download: %w", ctx.Err()), f.Close())
		case <-ticker.C:
		}
	}
}

// Verify compares a file with its pinned SHA-256.
func Verify(path, want string) error {
	f, err := os.Open(path) //nolint:gosec // G304: a path of ours
	if err != nil {
		return fmt.Errorf("opening the download: %w", err)
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("reading the download: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%s has the SHA-256 %s, expected %s: the download is damaged or not what it says", filepath.Base(path), got, want)
	}
	return nil
}

// Copy copies at most limit bytes to path and returns their SHA-256; more is an error.
func Copy(path string, r io.Reader, mode os.FileMode, limit int64) (sum string, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode) //nolint:gosec // G304: a path of ours
	if err != nil {
		return "", fmt.Errorf("creating %s: %w", filepath.Base(path), err)
	}
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(r, limit+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	if n > limit {
		return "", fmt.Errorf("writing %s: larger than %d bytes", filepath.Base(path), limit)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
