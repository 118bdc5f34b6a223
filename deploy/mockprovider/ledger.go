package mockprovider

import (
	"log/slog"
	"sync"
)

// ledger remembers what was served.
type ledger struct {
	keep    int
	journal *Journal
	log     *slog.Logger

	mu      sync.Mutex // guards what follows
	records []Record   // a ring when keep > 0, next is its oldest once it is full
	next    int
	place   map[uint64]int // of requests that run, by seq
	seq     uint64
	dropped uint64
}

func newLedger(keep int, j *Journal, log *slog.Logger) *ledger {
	l := &ledger{keep: keep, journal: j, log: log, place: map[uint64]int{}}
	if j != nil {
		for _, r := range j.loaded {
			l.put(r)
			l.seq = max(l.seq, r.Seq)
		}
		clear(l.place)
		j.loaded = nil
	}
	return l
}

// begin numbers the request and remembers it before anything is answered, so that a crash
// of the process cannot hide that it arrived.
func (l *ledger) begin(r *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	r.Seq = l.seq
	l.put(*r)
	l.write(*r)
}

// end replaces what is known of the request.
func (l *ledger) end(r *Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.Ended = true
	if i, ok := l.place[r.Seq]; ok {
		if l.records[i].Seq == r.Seq {
			l.records[i] = *r
		}
		delete(l.place, r.Seq)
	}
	l.write(*r)
}

func (l *ledger) put(r Record) {
	if l.keep < 0 || len(l.records) < l.keep {
		l.place[r.Seq] = len(l.records)
		l.records = append(l.records, r)
		return
	}
	delete(l.place, l.records[l.next].Seq)
	l.place[r.Seq] = l.next
	l.records[l.next] = r
	l.next = (l.next + 1) % l.keep
	l.dropped++
}

func (l *ledger) write(r Record) {
	if l.journal == nil {
		return
	}
	if err := l.journal.append(r); err != nil {
		l.log.Error("journal of the mock provider does not take a record", slog.Any("error", err))
	}
}

func (l *ledger) all() []Record {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]Record, 0, len(l.records))
	out = append(out, l.records[l.next:]...)
	return append(out, l.records[:l.next]...)
}

func (l *ledger) forget() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records, l.next, l.dropped = nil, 0, 0
	clear(l.place)
	if l.journal == nil {
		return nil
	}
	return l.journal.truncate()
}

func (l *ledger) lost() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}
