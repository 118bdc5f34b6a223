package spool

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// kind says which room an append takes.
type kind uint8

const (
	plain kind = iota
	opening
	ending
)

// The ballast is a file of allocated blocks that stands for the ends of all open reservations: when the
// disk is full for everybody else, an end gives a step of it back and takes the blocks for itself.
const (
	ballastName = "ballast"
	ballastStep = 4 << 20
)

// AppendOpen writes a frame that opens a reservation and keeps room for its end. After nil the frame
// survives a kill -9. The generation is for AppendEnd, also with ErrUnsynced. Errors: ErrFull, ErrTooLarge, ErrClosed (also after Fence), ErrUnsynced.
func (s *Spool) AppendOpen(records ...Record) (Generation, error) {
	return s.append(opening, 0, records)
}

// AppendEnd writes the frame that ends one reservation, in the room that its AppendOpen kept. It finds
// room where every other append returns ErrFull. On an error the room stays kept, so that it can be
// tried again, for example with a smaller frame after ErrTooLarge; after nil or ErrUnsynced it must not. The generation is what AppendOpen
// returned: with the end of all that was opened in it, nobody has to read that part of the log any more.
func (s *Spool) AppendEnd(g Generation, records ...Record) error {
	_, err := s.append(ending, g, records)
	return err
}

// Append writes a frame that neither opens nor ends a reservation.
func (s *Spool) Append(records ...Record) error {
	_, err := s.append(plain, 0, records)
	return err
}

func (s *Spool) append(k kind, g Generation, records []Record) (Generation, error) {
	size, err := s.checkSize(k, records)
	if err != nil {
		return 0, err
	}
	var nano int64
	for i := range records {
		nano += endNano(records[i].Value)
	}
	var group *syncGroup
	s.mu.Lock()
	g, err = s.appendLocked(k, g, records, size, nano)
	if err == nil {
		group = s.sync.note()
	}
	s.mu.Unlock()
	if err != nil {
		s.met.refused(err)
		return 0, err
	}
	s.wakeShipper()
	if group != nil {
		return g, group.wait()
	}
	return g, nil
}

func (s *Spool) wakeShipper() {
	select {
	case s.wake <- struct{}{}:
	default: // a wake-up is pending already
	}
}

// checkSize refuses what is above a limit before anything is written.
func (s *Spool) checkSize(k kind, records []Record) (int64, error) {
	if len(records) == 0 {
		return 0, errors.New("appending to spool: no record")
	}
	size, limit := frameBytes(records), s.cfg.MaxPlainBytes
	switch k {
	case opening:
		limit = s.cfg.MaxOpenBytes
	case ending:
		limit = s.cfg.MaxEndBytes
	case plain:
	}
	if size > limit {
		return 0, fmt.Errorf("appending to spool: %w: a frame of %d bytes, limit %d", ErrTooLarge, size, limit)
	}
	return size, nil
}

// appendLocked returns the generation of an opening.
func (s *Spool) appendLocked(k kind, g Generation, records []Record, size, nano int64) (Generation, error) {
	if s.closed || k == opening && s.fenced {
		return 0, fmt.Errorf("appending to spool: %w", ErrClosed)
	}
	if k == ending && s.open == 0 {
		k = plain // an end without an open has no room of its own
	}
	if err := s.takeRoom(k, size); err != nil {
		return 0, fmt.Errorf("appending to spool: %w", err)
	}
	f, err := s.encode(records, nano, size)
	if err == nil {
		err = s.write(k, &f)
	}
	if err != nil {
		s.unnumber(records)
		if isNoSpace(err) {
			err = fmt.Errorf("%w: %w", ErrFull, err)
		}
		return 0, fmt.Errorf("appending to spool: %w", err)
	}
	switch k {
	case opening:
		s.open++
		g = s.enter()
	case ending:
		s.open--
		s.leave(g)
	case plain:
	}
	s.sinceBegan += int64(len(f.data))
	s.hand(f)
	return g, nil
}

// takeRoom checks the limit of the spool, and for an opening grows the ballast by what its end may need.
func (s *Spool) takeRoom(k kind, size int64) error {
	if k == ending {
		return nil
	}
	ends := s.open
	if k == opening {
		ends++
	}
	room := ends * s.cfg.MaxEndBytes
	if s.used.Load()+size+room > s.cfg.MaxBytes {
		return fmt.Errorf("%w: %d bytes used, %d kept for ends, limit %d", ErrFull, s.used.Load(), room, s.cfg.MaxBytes)
	}
	if k == opening && s.ballast < room {
		want := (room + ballastStep - 1) / ballastStep * ballastStep
		if err := s.cfg.Disk.Allocate(s.ballastPath(), want); err != nil {
			return fmt.Errorf("%w: keeping room for ends: %w", ErrFull, err)
		}
		s.ballast = want
	}
	return nil
}

func (s *Spool) ballastPath() string { return filepath.Join(s.cfg.Dir, ballastName) }

// encode numbers the records and makes their frame. The buffer lives until the frame is shipped.
func (s *Spool) encode(records []Record, nano, size int64) (frame, error) {
	f := frame{at: time.Now().UnixMicro(), nano: nano, records: len(records)}
	b := beginFrame(make([]byte, 0, size), f.at, nano, len(records))
	for i := range records {
		r := &records[i]
		if r.Unnumbered {
			b = appendRecord(b, r, s.id, 0)
			continue
		}
		n := s.sequences[sequenceKey{r.Topic.Name, r.Key}]
		if n == nil {
			n = new(uint64)
			// The key may point into a request's large buffer, which the map would keep alive.
			s.sequences[sequenceKey{r.Topic.Name, strings.Clone(r.Key)}] = n
		}
		*n++
		b = appendRecord(b, r, s.id, *n)
	}
	sealFrame(b)
	f.data = b
	return f, nil
}

// unnumber takes back the numbers of a frame that was not written.
func (s *Spool) unnumber(records []Record) {
	for i := range records {
		if n := s.sequences[sequenceKey{records[i].Topic.Name, records[i].Key}]; n != nil && !records[i].Unnumbered {
			*n--
		}
	}
}

// write puts the frame behind the last one. An end that meets a full disk takes its blocks from the ballast.
func (s *Spool) write(k kind, f *frame) error {
	if s.w.offset >= s.cfg.SegmentBytes {
		if err := s.rotate(); err != nil && k != ending {
			return err
		} // an end goes on in the old segment: its size is a wish, the end is not
	}
	for {
		err := s.w.write(f.data)
		if err == nil {
			break
		}
		if k != ending || !isNoSpace(err) || s.ballast == 0 {
			return err
		}
		smaller := max(0, s.ballast-ballastStep)
		if aerr := s.cfg.Disk.Allocate(s.ballastPath(), smaller); aerr != nil {
			return errors.Join(err, fmt.Errorf("giving ballast back: %w", aerr))
		}
		s.ballast = smaller
	}
	s.used.Add(int64(len(f.data)))
	f.end = s.w.position()
	return nil
}

// rotate follows the full segment by a new one. The old file is synced and closed by the syncer.
func (s *Spool) rotate() error {
	old := s.w
	w, err := nextWriter(old)
	if err != nil {
		return err
	}
	s.sync.retire(old.file)
	s.w = w
	s.used.Add(w.offset)
	return nil
}

// hand gives a written frame to the shipper: by memory while it keeps up, else only by its place on disk.
func (s *Spool) hand(f frame) {
	s.own.added(&f)
	if s.spilled {
		return
	}
	if s.queued+int64(len(f.data)) > s.cfg.MemoryBytes {
		s.spilled = true
		return
	}
	s.queue = append(s.queue, f)
	s.queued += int64(len(f.data))
}

// shrinkBallast gives back what closed reservations no longer need; the syncer calls it now and then.
func (s *Spool) shrinkBallast() {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := (s.open*s.cfg.MaxEndBytes + 2*ballastStep - 1) / ballastStep * ballastStep
	if s.ballast <= 2*want || s.closed {
		return
	}
	if err := s.cfg.Disk.Allocate(s.ballastPath(), want); err == nil {
		s.ballast = want
	}
}

// isNoSpace reports whether the disk or the quota is full.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
