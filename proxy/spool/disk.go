package spool

import (
	"fmt"
	"io"
	"os"
)

// Disk is the part of the file system that can run out of space or break under an append. The
// second implementation is the bad disk of the tests.
type Disk interface {
	// Create makes a new file for writing.
	Create(path string) (File, error)
	// Allocate makes the file exactly size bytes long, all of them taken from the disk.
	Allocate(path string, size int64) error
}

// File is one segment that is being written.
type File interface {
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

type osDisk struct{}

var (
	_ Disk = osDisk{}
	_ File = segmentFile{}
)

func (osDisk) Create(path string) (File, error) {
	//nolint:gosec // the folder is the operator's setting
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating segment: %w", err)
	}
	return segmentFile{f}, nil
}

func (osDisk) Allocate(path string, size int64) (err error) {
	//nolint:gosec // the folder is the operator's setting
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("opening ballast: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("closing ballast: %w", cerr)
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading ballast: %w", err)
	}
	if size <= st.Size() {
		if err := f.Truncate(size); err != nil {
			return fmt.Errorf("shrinking ballast: %w", err)
		}
		return nil
	}
	if err := allocate(f, st.Size(), size); err != nil {
		// A half-grown ballast would be taken for room that the accounting knows of.
		_ = f.Truncate(st.Size())
		return fmt.Errorf("growing ballast: %w", err)
	}
	return nil
}

// fill writes zeros, for file systems that cannot reserve space without writing it.
func fill(f *os.File, from, to int64) error {
	zeros := make([]byte, 1<<20)
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return fmt.Errorf("writing zeros: %w", err)
		}
		from += int64(n)
	}
	return nil
}

// syncDir makes a file's creation, renaming or removal durable.
func syncDir(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the folder is the operator's setting
	if err != nil {
		return fmt.Errorf("opening folder: %w", err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("syncing folder: %w", err)
	}
	return nil
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("removing file: %w", err)
	}
	return nil
}
