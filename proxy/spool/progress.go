package spool

import (
	"context"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
)

// progress is how far a folder is shipped.
type progress struct {
	// What is appended and not shipped: records, bytes, nano-USD of ends; time of the oldest (µs).
	depth, pending, nano, oldest atomic.Int64

	// progressMu guards everything below.
	progressMu sync.Mutex
	// shipped is the end of the longest prefix whose records are all acknowledged.
	shipped position
	saved   position
	// inflight are the frames given to the current client, in order.
	inflight []*flight
	waiters  []waiter
}

// flight is a frame on its way to Kafka.
type flight struct {
	end            position
	at, nano, size int64
	records        int64
	left           atomic.Int64
	done           bool
}

type waiter struct {
	until position
	done  chan struct{}
}

// added counts a frame in.
func (p *progress) added(f *frame) {
	p.pending.Add(int64(len(f.data)))
	p.nano.Add(f.nano)
	if p.depth.Add(int64(f.records)) == int64(f.records) || p.oldest.Load() == 0 {
		p.oldest.Store(f.at)
	}
}

// launch notes a frame as on its way.
func (p *progress) launch(f *frame, records int) *flight {
	fl := &flight{end: f.end, at: f.at, nano: f.nano, size: int64(len(f.data)), records: int64(f.records)}
	fl.left.Store(int64(records))
	p.progressMu.Lock()
	defer p.progressMu.Unlock()
	p.inflight = append(p.inflight, fl)
	return fl
}

// landed notes that all records of a frame are acknowledged and advances over the contiguous prefix.
// A frame of an earlier session is no longer in the list and changes nothing.
func (p *progress) landed(fl *flight) {
	p.progressMu.Lock()
	defer p.progressMu.Unlock()
	fl.done = true
	n := 0
	for n < len(p.inflight) && p.inflight[n].done {
		h := p.inflight[n]
		p.inflight[n] = nil
		p.shipped = h.end
		p.pending.Add(-h.size)
		p.nano.Add(-h.nano)
		p.depth.Add(-h.records)
		p.oldest.Store(h.at)
		n++
	}
	p.inflight = p.inflight[n:]
	if len(p.inflight) > 0 {
		p.oldest.Store(p.inflight[0].at)
	}
	p.notify()
}

// waitLanded waits until nothing is on its way.
func (p *progress) waitLanded(ctx context.Context) error {
	p.progressMu.Lock()
	n := len(p.inflight)
	var until position
	if n > 0 {
		until = p.inflight[n-1].end
	}
	p.progressMu.Unlock()
	if n == 0 {
		return nil
	}
	return p.waitShipped(ctx, until)
}

// ground forgets what is on its way: the next session sends it again.
func (p *progress) ground() {
	p.progressMu.Lock()
	defer p.progressMu.Unlock()
	p.inflight = nil
}

func (p *progress) shippedTo() position {
	p.progressMu.Lock()
	defer p.progressMu.Unlock()
	return p.shipped
}

// notify wakes the waiters that got what they wait for, all of them when nothing is left: a place behind the header of
// a new segment is one at which no frame ends. Call with progressMu held.
func (p *progress) notify() {
	rest := p.waiters[:0]
	for _, w := range p.waiters {
		if p.shipped.before(w.until) && p.depth.Load() > 0 {
			rest = append(rest, w)
			continue
		}
		close(w.done)
	}
	p.waiters = rest
}

// waitShipped waits until everything before the position is acknowledged. A waiter whose context
// ended first stays in the list until then; Flush is called too rarely for that to add up.
func (p *progress) waitShipped(ctx context.Context, until position) error {
	p.progressMu.Lock()
	// An empty log ships nothing and stands at offset 0, before its header.
	if !p.shipped.before(until) || p.depth.Load() == 0 {
		p.progressMu.Unlock()
		return nil
	}
	w := waiter{until, make(chan struct{})}
	p.waiters = append(p.waiters, w)
	p.progressMu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// saveCheckpoint writes the ship position if it moved. It may be lost or old: then records are sent
// twice, and consumers drop repeats by their sequence.
func (f *folder) saveCheckpoint() error {
	at := f.shippedTo()
	if at == f.saved {
		return nil
	}
	line := fmt.Sprintf("%d %d", at.segment, at.offset)
	line += fmt.Sprintf(" %08x\n", crc32.Checksum([]byte(line), castagnoli))
	if err := replaceFile(filepath.Join(f.dir, checkpointName), []byte(line), false); err != nil {
		return err
	}
	f.saved = at
	return nil
}

// loadCheckpoint returns the saved position, the beginning when there is none that can be believed.
func (f *folder) loadCheckpoint(log *slog.Logger) position {
	first := position{segment: 1}
	b, err := os.ReadFile(filepath.Join(f.dir, checkpointName))
	if err != nil {
		return first // nothing shipped yet
	}
	var at position
	var sum uint32
	_, err = fmt.Sscanf(string(b), "%d %d %x", &at.segment, &at.offset, &sum)
	if err != nil || sum != crc32.Checksum(fmt.Appendf(nil, "%d %d", at.segment, at.offset), castagnoli) {
		log.Warn("spool checkpoint unreadable, shipping from the start", slog.String("producer_id", f.id))
		return first
	}
	return at
}
