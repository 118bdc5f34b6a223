package spool

import (
	"context"
	"errors"
)

// shipBatch bounds the bytes that are read back from disk at a time.
const shipBatch = 1 << 20

// errDrained means that a predecessor's log is read to its end.
var errDrained = errors.New("log read to its end")

// source gives the frames of one log in order.
type source interface {
	// reset begins again at the ship position.
	reset()
	// next waits for frames and returns them; errDrained when there will be none any more.
	next(ctx context.Context) ([]frame, error)
	close()
}

// ownSource reads this process' log: out of memory while the shipper keeps up, else from disk.
type ownSource struct {
	s *Spool
	r *reader
}

func (o *ownSource) reset() {
	o.s.mu.Lock()
	o.s.queue, o.s.queued, o.s.spilled = nil, 0, true
	o.s.mu.Unlock()
	o.r.seek(o.s.own.shippedTo())
}

func (o *ownSource) close() { o.r.close() }

func (o *ownSource) next(ctx context.Context) ([]frame, error) {
	for {
		frames, limit, spilled := o.take()
		if len(frames) > 0 {
			o.r.pos = frames[len(frames)-1].end
			return frames, nil
		}
		if spilled {
			frames, err := readFrames(o.r, limit)
			if err != nil || len(frames) > 0 {
				return frames, err
			}
			o.caughtUp()
			continue
		}
		o.r.close() // the place is kept; the file may be removed once shipped
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-o.s.wake:
		}
		// One wake-up for all frames of the next while: waking for each costs as much as shipping it.
		if !sleep(ctx, o.s.cfg.Linger*7/8) {
			return nil, context.Cause(ctx)
		}
	}
}

// take empties the queue. Without one it says up to where the disk may be read, if it has to be.
func (o *ownSource) take() ([]frame, position, bool) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	frames := o.s.queue
	o.s.queue, o.s.queued = nil, 0
	return frames, o.s.w.position(), o.s.spilled
}

// caughtUp goes back to memory if nothing was appended since the disk was read.
func (o *ownSource) caughtUp() {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if !o.r.pos.before(o.s.w.position()) {
		o.s.spilled = false
	}
}

// tailSource reads a predecessor's log.
type tailSource struct {
	f *folder
	r *reader
}

func (t *tailSource) reset() { t.r.seek(t.f.shippedTo()) }
func (t *tailSource) close() { t.r.close() }

func (t *tailSource) next(context.Context) ([]frame, error) {
	frames, err := readFrames(t.r, t.f.end)
	if err == nil && len(frames) == 0 {
		err = errDrained
	}
	return frames, err
}

func readFrames(r *reader, limit position) ([]frame, error) {
	var frames []frame
	for size := 0; size < shipBatch; {
		f, ok, err := r.next(limit)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		size += len(f.data)
		frames = append(frames, f)
	}
	return frames, nil
}
