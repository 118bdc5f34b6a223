package standalone

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rateguard/rateguard/schemas/secret"
)

// minToken keeps a chosen admin token from being guessed.
const minToken = 16

// openDataDir creates the data folder and takes it for this process alone; the kernel gives it
// back when the process dies.
func openDataDir(dir string) (unlock func() error, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the data folder (data-dir): %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // G304: the data folder is the user's choice
	if err != nil {
		return nil, fmt.Errorf("opening the data folder (data-dir): %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, readErr := os.ReadFile(path) //nolint:gosec // G304: as above
		closeErr := f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) && readErr == nil {
			return nil, fmt.Errorf("the data folder %s is in use by process %s: stop it, or choose another with --data-dir", dir, strings.TrimSpace(string(holder)))
		}
		return nil, errors.Join(fmt.Errorf("locking the data folder: %w", err), closeErr)
	}
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintln(os.Getpid()))); err != nil {
		return nil, errors.Join(fmt.Errorf("writing the lock: %w", err), f.Close())
	}
	return f.Close, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// generateSecrets fills the credentials that the settings leave open from their files, which
// are made once.
func (c *Config) generateSecrets() error {
	var err error
	if c.AdminToken == "" {
		if c.AdminToken, err = keep(c.path("admin-token"), newToken); err != nil {
			return err
		}
	}
	if c.SecretKey == "" {
		if c.SecretKey, err = keep(c.path("secret-key"), secret.NewKey); err != nil {
			return err
		}
	}
	return nil
}

// keep returns the content of a file, which it makes when it is not there.
func keep(path string, generate func() string) (string, error) {
	have, err := os.ReadFile(path) //nolint:gosec // G304: in the data folder
	if err == nil && strings.TrimSpace(string(have)) != "" {
		return strings.TrimSpace(string(have)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("reading a secret: %w", err)
	}
	v := generate()
	return v, writeSecret(path, v)
}

// writeSecret writes a file that only its owner reads, whole or not at all.
func writeSecret(path, value string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-") // 0600 by itself
	if err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	_, err = f.WriteString(value + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", filepath.Base(path), err), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
	}
	return nil
}

func newToken() string {
	var raw [24]byte
	_, _ = rand.Read(raw[:])
	return "rga_" + base64.RawURLEncoding.EncodeToString(raw[:])
}
