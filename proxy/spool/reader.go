package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
)

const readChunk = 256 << 10

// reader reads frames of one producer's folder in order. It never reads behind the limit it is
// given, so that it sees no bytes of an append that is still under way or that was cut away again.
type reader struct {
	dir  string
	log  *slog.Logger
	pos  position
	file *os.File
	// size of a segment that is written no more; -1 until it is known to be so. A size taken earlier would
	// make the frames appended since look torn.
	size int64
	buf  []byte
	from int64 // offset of buf[0]
	// lost is called when a segment, or the rest of it, cannot be read and is skipped; it may be nil. A segment that is gone may have been shipped.
	lost func(segment uint64)
}

func newReader(dir string, at position, log *slog.Logger) *reader {
	return &reader{dir: dir, pos: at, log: log}
}

func (r *reader) seek(at position) {
	r.close()
	r.pos = at
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
	r.file, r.buf = nil, nil
}

// next returns the next whole frame before the limit, false when there is none. errTorn means that the
// bytes at r.pos are no frame, in the segment of the limit; in an earlier one the rest of that
// segment is skipped and logged: consumers see the hole in the sequences and raise the alarm.
func (r *reader) next(limit position) (frame, bool, error) {
	for r.pos.before(limit) {
		if err := r.open(limit); errors.Is(err, fs.ErrNotExist) {
			if r.pos.segment == limit.segment {
				return frame{}, false, err
			}
			r.lose()
			r.skip()
			continue
		} else if err != nil {
			return frame{}, false, err
		}
		end := r.size
		if r.pos.segment == limit.segment {
			end = limit.offset
		}
		if r.pos.offset >= end && r.pos.offset > 0 {
			if r.pos.segment == limit.segment {
				return frame{}, false, nil
			}
			r.skip()
			continue
		}
		f, ok, err := r.read(end)
		if errors.Is(err, errTorn) && r.pos.segment < limit.segment {
			r.log.Error("spool segment corrupt, rest of it skipped", slog.String("folder", r.dir),
				slog.Uint64("segment", r.pos.segment), slog.Int64("offset", r.pos.offset))
			r.lose()
			r.skip()
			continue
		}
		if ok || err != nil {
			return f, ok, err
		}
	}
	return frame{}, false, nil
}

// read reads one frame, or the segment's header, of which it returns false.
func (r *reader) read(end int64) (frame, bool, error) {
	if r.pos.offset < int64(len(segmentMagic)) {
		magic, err := r.bytes(0, int64(len(segmentMagic)), end)
		if err != nil {
			return frame{}, false, err
		}
		if string(magic) != segmentMagic {
			return frame{}, false, errTorn
		}
		r.pos.offset = int64(len(segmentMagic))
		return frame{}, false, nil
	}
	header, err := r.bytes(r.pos.offset, frameHeader, end)
	if err != nil {
		return frame{}, false, err
	}
	n, err := payloadLength(header)
	if err != nil {
		return frame{}, false, err
	}
	whole, err := r.bytes(r.pos.offset, frameHeader+n, end)
	if err != nil {
		return frame{}, false, err
	}
	f, err := openFrame(append(make([]byte, 0, len(whole)), whole...))
	if err != nil {
		return frame{}, false, err
	}
	r.pos.offset += int64(len(whole))
	f.end = r.pos
	return f, true, nil
}

func (r *reader) open(limit position) error {
	if r.file == nil {
		f, err := os.Open(segmentPath(r.dir, r.pos.segment))
		if err != nil {
			return fmt.Errorf("opening segment: %w", err)
		}
		r.file, r.buf, r.size = f, nil, -1
	}
	if r.size < 0 && r.pos.segment < limit.segment {
		st, err := r.file.Stat()
		if err != nil {
			return fmt.Errorf("reading segment: %w", err)
		}
		r.size = st.Size()
	}
	return nil
}

func (r *reader) lose() {
	if r.lost != nil {
		r.lost(r.pos.segment)
	}
}

// skip goes on with the next segment.
func (r *reader) skip() { r.seek(position{segment: r.pos.segment + 1}) }

// bytes returns n bytes at the offset, valid until the next call; errTorn when they reach over the end.
func (r *reader) bytes(at, n, end int64) ([]byte, error) {
	if at+n > end {
		return nil, errTorn
	}
	if at < r.from || at+n > r.from+int64(len(r.buf)) {
		want := min(max(n, readChunk), end-at)
		if int64(cap(r.buf)) < want {
			r.buf = make([]byte, want)
		}
		r.buf = r.buf[:want]
		got, err := r.file.ReadAt(r.buf, at)
		r.buf, r.from = r.buf[:got], at
		if int64(got) < n {
			if err == nil || errors.Is(err, io.EOF) {
				return nil, errTorn
			}
			return nil, fmt.Errorf("reading segment: %w", err)
		}
	}
	return r.buf[at-r.from : at-r.from+n], nil
}
