package spool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	producerName   = "producer.json"
	checkpointName = "checkpoint"
	segmentSuffix  = ".wal"
	bootIDPath     = "/proc/sys/kernel/random/boot_id"
)

// producerFile says whose records a folder holds and where in Kafka they begin.
type producerFile struct {
	ProducerID      string `json:"producer_id"`
	StartedAtUnixUS int64  `json:"started_at_unix_us"`
	// BootID differs from the running kernel's after a power cut or a reboot: then the tail may lack what was not synced.
	BootID string `json:"boot_id,omitempty"`
	// Offsets are those from which the producer has to be read, of the generation; Started are the end offsets of the partitions before its
	// first record. Absent: nothing was ever shipped. Generation 0: none was published yet, and both are the same.
	CostsOffsets    map[int32]int64 `json:"costs_offsets,omitempty"`
	RequestsOffsets map[int32]int64 `json:"requests_offsets,omitempty"`
	CostsStarted    map[int32]int64 `json:"costs_started,omitempty"`
	RequestsStarted map[int32]int64 `json:"requests_started,omitempty"`
	Generation      uint64          `json:"generation,omitempty"`
	// Announced: the producer's status was acknowledged.
	Announced bool `json:"announced,omitempty"`
}

// folder is one producer's part of the spool: <dir>/<producer id>/. Of one's own it is written and
// shipped, of a predecessor's only shipped.
type folder struct {
	id   string
	dir  string
	meta producerFile
	// end is the position behind the last whole frame; fixed, for predecessors only.
	end position
	// lost: the producer file is unreadable. Whoever closes the producer has to read the log from its start.
	lost bool
	// removed is the segment up to which removeShipped has looked.
	removed uint64
	// drained is closed when a predecessor is shipped whole; meta no longer changes then.
	drained chan struct{}
	progress
}

// createFolder makes the folder of a new producer.
func createFolder(dir, id string) (*folder, error) {
	f := &folder{id: id, dir: filepath.Join(dir, id)}
	f.meta = producerFile{ProducerID: id, StartedAtUnixUS: time.Now().UnixMicro(), BootID: bootID()}
	f.shipped = position{segment: 1}
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating producer folder: %w", err)
	}
	return f, errors.Join(f.saveMeta(), syncDir(dir))
}

func bootID() string {
	b, err := os.ReadFile(bootIDPath)
	if err != nil {
		return "" // not Linux
	}
	return strings.TrimSpace(string(b))
}

func (f *folder) saveMeta() error {
	b, err := json.Marshal(f.meta)
	if err != nil {
		return fmt.Errorf("encoding producer file: %w", err)
	}
	return replaceFile(filepath.Join(f.dir, producerName), b, true)
}

// replaceFile writes a file so that a kill leaves the old or the new content; durable, a power cut too.
func replaceFile(path string, content []byte, durable bool) (err error) {
	tmp := path + ".new"
	//nolint:gosec // the folder is the operator's setting
	file, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("replacing %s: %w", filepath.Base(path), err)
	}
	_, err = file.Write(content)
	if err == nil && durable {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err == nil && durable {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("replacing %s: %w", filepath.Base(path), err)
	}
	return nil
}

// openPredecessors opens what earlier processes left, oldest first. A producer that never wrote anything is removed.
func openPredecessors(ctx context.Context, dir string, log *slog.Logger) ([]*folder, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading spool folder: %w", err)
	}
	var preds []*folder
	for _, e := range entries { // sorted by name; UUIDv7 sort by time
		if _, err := uuid.Parse(e.Name()); err != nil || !e.IsDir() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("reading spool folder: %w", err)
		}
		f, err := openPredecessor(filepath.Join(dir, e.Name()), e.Name(), log)
		if err != nil {
			return nil, fmt.Errorf("opening producer %s: %w", e.Name(), err)
		}
		if f.meta.CostsOffsets == nil && f.depth.Load() == 0 && !f.lost {
			if err := os.RemoveAll(f.dir); err != nil {
				return nil, fmt.Errorf("removing empty producer %s: %w", f.id, err)
			}
			continue
		}
		preds = append(preds, f)
	}
	return preds, nil
}

func openPredecessor(dir, id string, log *slog.Logger) (*folder, error) {
	f := &folder{id: id, dir: dir, drained: make(chan struct{})}
	b, err := os.ReadFile(filepath.Join(dir, producerName)) //nolint:gosec // the folder is the operator's setting
	if err == nil {
		err = json.Unmarshal(b, &f.meta)
	}
	if err != nil || f.meta.ProducerID != id {
		// Killed before the file was written, or a disk gone bad: the id is the folder's name.
		f.lost = true
		log.Warn("spool producer file unreadable", slog.String("producer_id", id), slog.Any("error", err))
		f.meta = producerFile{ProducerID: id}
	}
	segments, err := f.segments()
	if err != nil {
		return nil, err
	}
	f.shipped = f.loadCheckpoint(log)
	if len(segments) == 0 {
		f.end, f.lost = f.shipped, false // the first segment is made after the file: nothing was ever appended
		return f, nil
	}
	if f.shipped.before(position{segment: segments[0]}) {
		f.shipped = position{segment: segments[0]}
	}
	return f, f.scan(segments[len(segments)-1], log)
}

// scan counts what is not shipped and cuts the tail at the last whole frame.
func (f *folder) scan(last uint64, log *slog.Logger) error {
	path := segmentPath(f.dir, last)
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("reading segment: %w", err)
	}
	r := newReader(f.dir, f.shipped, log)
	defer r.close()
	limit := position{last, st.Size()}
	for {
		fr, ok, err := r.next(limit)
		if errors.Is(err, errTorn) {
			log.Warn("spool tail torn, cut at the last whole frame", slog.String("producer_id", f.id), slog.Uint64("segment", last),
				slog.Int64("offset", r.pos.offset), slog.Int64("cut_bytes", st.Size()-r.pos.offset))
			if err := os.Truncate(path, r.pos.offset); err != nil {
				return fmt.Errorf("cutting torn tail: %w", err)
			}
			break
		}
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		f.added(&fr)
	}
	f.end = r.pos
	if f.end.before(f.shipped) {
		f.end = f.shipped
	}
	return nil
}

func segmentPath(dir string, n uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%016d%s", n, segmentSuffix))
}

// segments lists the numbers of the segments on disk, ascending.
func (f *folder) segments() ([]uint64, error) {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return nil, fmt.Errorf("listing segments: %w", err)
	}
	var ns []uint64
	for _, e := range entries {
		var n uint64
		name, ok := strings.CutSuffix(e.Name(), segmentSuffix)
		if !ok {
			continue
		}
		if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	return ns, nil
}

// diskBytes is the size of the segments on disk.
func (f *folder) diskBytes() int64 {
	segments, err := f.segments()
	if err != nil {
		return 0
	}
	var sum int64
	for _, n := range segments {
		if st, err := os.Stat(segmentPath(f.dir, n)); err == nil {
			sum += st.Size()
		}
	}
	return sum
}

// removeShipped deletes the segments before the ship position and returns the bytes freed.
func (f *folder) removeShipped() (int64, error) {
	at := f.shippedTo()
	if at.segment == f.removed {
		return 0, nil
	}
	segments, err := f.segments()
	if err != nil {
		return 0, err
	}
	var freed int64
	for _, n := range segments {
		if n >= at.segment {
			break
		}
		path := segmentPath(f.dir, n)
		st, err := os.Stat(path)
		if err == nil {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return freed, fmt.Errorf("removing shipped segment: %w", err)
		}
		freed += st.Size()
	}
	f.removed = at.segment
	return freed, nil
}
