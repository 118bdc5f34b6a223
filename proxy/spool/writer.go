package spool

import (
	"errors"
	"fmt"
)

// writer is the segment that takes the appends.
type writer struct {
	disk    Disk
	dir     string
	segment uint64
	file    File
	// offset is the end of the last whole frame: the next one begins there, whatever a failed write left behind.
	offset int64
	// damaged: bytes of a failed write may stand behind offset and could not be cut away yet.
	damaged bool
}

func newWriter(disk Disk, f *folder) (*writer, error) {
	w, err := createSegment(disk, f.dir, 1)
	if err != nil {
		return nil, err
	}
	return w, syncDir(f.dir)
}

func nextWriter(old *writer) (*writer, error) {
	return createSegment(old.disk, old.dir, old.segment+1)
}

func createSegment(disk Disk, dir string, n uint64) (*writer, error) {
	path := segmentPath(dir, n)
	file, err := disk.Create(path)
	if err != nil {
		return nil, err
	}
	w := &writer{disk: disk, dir: dir, segment: n, file: file}
	if err := w.write([]byte(segmentMagic)); err != nil {
		// The next attempt has to find the name free.
		return nil, errors.Join(err, file.Close(), removeFile(path))
	}
	return w, nil
}

func (w *writer) position() position { return position{w.segment, w.offset} }

// write appends the bytes with one write, or leaves the file as it was.
func (w *writer) write(b []byte) error {
	if w.damaged {
		if err := w.file.Truncate(w.offset); err != nil {
			return fmt.Errorf("cutting a failed write away: %w", err)
		}
		w.damaged = false
	}
	if _, err := w.file.WriteAt(b, w.offset); err != nil {
		// Written over by the next frame at the latest; cut away so that no reader takes a rest of it for a frame.
		w.damaged = w.file.Truncate(w.offset) != nil
		return fmt.Errorf("writing segment: %w", err)
	}
	w.offset += int64(len(b))
	return nil
}

func (w *writer) close() error {
	if err := errors.Join(w.file.Sync(), w.file.Close()); err != nil {
		return fmt.Errorf("closing segment: %w", err)
	}
	return nil
}
