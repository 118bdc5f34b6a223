package spool

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

func newFile(t *testing.T) segmentFile {
	t.Helper()
	f, err := osDisk{}.Create(filepath.Join(t.TempDir(), "segment"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	s, ok := f.(segmentFile)
	if !ok {
		t.Fatalf("a segment is a %T", f)
	}
	return s
}

// Many goroutines write and sync, each its own file: each fsync ends, and none with the result of another.
func TestFsyncsAreTheirOwn(t *testing.T) {
	t.Parallel()
	y, err := newFsyncs()
	if err != nil {
		t.Fatalf("this machine has no asynchronous fsync: %v", err)
	}
	var all sync.WaitGroup
	for i := range 8 {
		f := newFile(t)
		broken := i%2 == 1
		if broken {
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
		}
		all.Go(func() {
			for n := range 50 {
				if !broken {
					if _, err := f.WriteAt([]byte{byte(n)}, int64(n)); err != nil {
						t.Error(err)
					}
				}
				if err := y.sync(f.File); broken != errors.Is(err, errNotAsynchronous) || !broken && err != nil {
					t.Errorf("fsync of a file that is closed (%t): %v", broken, err)
				}
			}
			if got, err := os.ReadFile(f.Name()); !broken && (err != nil || len(got) != 50 || !bytes.HasPrefix(got, []byte{0, 1, 2})) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if err := f.Sync(); broken != errors.Is(err, os.ErrClosed) {
				t.Errorf("fsync(2) of a file that is closed (%t): %v", broken, err)
			}
		})
	}
	all.Wait()
}

// What has no fsync says so, and is left to fsync(2), whose error the caller gets.
func TestAFileWithoutFsync(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(r.Close(), w.Close()) }()
	y, err := newFsyncs()
	if err != nil {
		t.Fatalf("this machine has no asynchronous fsync: %v", err)
	}
	if err := y.sync(w); !errors.Is(err, errNotAsynchronous) {
		t.Errorf("fsync of a pipe: %v", err)
	}
	if err := (segmentFile{w}).Sync(); !errors.Is(err, syscall.EINVAL) || errors.Is(err, errNotAsynchronous) {
		t.Errorf("fsync of a pipe: %v", err)
	}
}

// The segments of a spool are synced this way where the kernel has it. Not parallel: what another test syncs would pass for it.
func TestSegmentsAreSyncedAsynchronously(t *testing.T) {
	y := processFsyncs()
	if y == nil {
		t.Fatal("this machine has no asynchronous fsync")
	}
	const untouched = 42
	y.event.result = untouched
	if err := newFile(t).Sync(); err != nil {
		t.Fatal(err)
	}
	if y.event.result == untouched {
		t.Error("fsync(2) did it")
	}
}
