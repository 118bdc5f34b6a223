package spool_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/rateguard/rateguard/proxy/spool"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// smallDisk has a number of bytes for segments and ballast together. A write that does not fit puts half
// of its bytes down before it fails, as a real one does: it catches a spool that goes on behind the rest.
type smallDisk struct {
	dir string
	mu  sync.Mutex
	// free bytes; ballast is what Allocate holds of the rest.
	free, ballast int64
	// stuck: a failed write cannot be cut away either, as often as this says.
	stuck int
}

type smallFile struct {
	*os.File
	d *smallDisk
}

func (d *smallDisk) Create(path string) (spool.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	return &smallFile{f, d}, err
}

func (d *smallDisk) Allocate(_ string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if size-d.ballast > d.free {
		return syscall.ENOSPC
	}
	d.free -= size - d.ballast
	d.ballast = size
	return nil
}

func (f *smallFile) WriteAt(b []byte, off int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if int64(len(b)) > f.d.free {
		n, _ := f.File.WriteAt(b[:len(b)/2], off)
		return n, syscall.ENOSPC
	}
	f.d.free -= int64(len(b))
	return f.File.WriteAt(b, off)
}

func (f *smallFile) Truncate(size int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.stuck > 0 {
		f.d.stuck--
		return syscall.EIO
	}
	return f.File.Truncate(size)
}

// eat takes all free space but n bytes, as another program on the disk would.
func (d *smallDisk) eat(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.free = n
}

// Schedule (q): the disk fills up under open reservations. New ones are refused, the ends of all open ones
// still go through, and what is on disk is whole.
func TestDiskFullAtAnOpenedAndAtAnEnd(t *testing.T) {
	for _, stuck := range []int{0, 1} {
		t.Run(fmt.Sprintf("%d failed truncations", stuck), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "spool")
			d := &smallDisk{dir: dir, free: 64 << 20, stuck: stuck}
			c := config(t, dir, nil)
			c.Disk = d
			s := open(t, c)
			const n = 100 // more than one step of ballast
			for i := range n {
				must(t, failure(s.AppendOpen(opened(t, "ws_1", fmt.Sprintf("r%d", i), 1))))
			}
			d.eat(10)
			if _, err := s.AppendOpen(opened(t, "ws_1", "over", 1)); !errors.Is(err, spool.ErrFull) {
				t.Fatalf("open on a full disk: %v, want ErrFull", err)
			}
			for i := range n {
				must(t, s.AppendEnd(1, ended(t, "ws_1", fmt.Sprintf("r%d", i), 1)...))
			}
			if st := s.Stats(); st.OpenReservations != 0 || st.Depth != 3*n {
				t.Errorf("got %+v, want %d records", st, 3*n)
			}
			must(t, s.Close())
			d.eat(64 << 20)
			k := startKafka(t)
			again := open(t, config(t, dir, k))
			run(t, again)
			flush(t, again)
			l := consume(t, k.records(topics.Costs))
			if len(l.applied) != 2*n || l.missing() != 0 {
				t.Errorf("shipped %d records with %d holes, want %d and 0", len(l.applied), l.missing(), 2*n)
			}
		})
	}
}

func TestSpoolLimitKeepsRoomForEnds(t *testing.T) {
	c := config(t, filepath.Join(t.TempDir(), "spool"), nil)
	c.MaxBytes, c.MaxEndBytes = 256<<10, 4<<10
	s := open(t, c)
	n := 0
	var err error
	for err == nil {
		if _, err = s.AppendOpen(opened(t, "ws_1", fmt.Sprintf("r%d", n), 1)); err == nil {
			n++
		}
	}
	if !errors.Is(err, spool.ErrFull) || n < 10 {
		t.Fatalf("after %d opens: %v, want ErrFull", n, err)
	}
	if err := s.Append(opened(t, "ws_1", "row", 1)); err == nil {
		for err == nil { // plain appends take what is left, and no more
			err = s.Append(opened(t, "ws_1", "row", 1))
		}
	} else if !errors.Is(err, spool.ErrFull) {
		t.Fatalf("append: %v, want ErrFull", err)
	}
	for i := range n {
		must(t, s.AppendEnd(1, largeEnd(t, fmt.Sprintf("r%d", i), 3<<10)))
	}
	if used := s.Stats().DiskBytes; used > c.MaxBytes {
		t.Errorf("%d bytes on disk, limit %d", used, c.MaxBytes)
	}
}

func largeEnd(tb testing.TB, request string, size int) spool.Record {
	tb.Helper()
	return record(tb, topics.Requests, "ws_1", &rateguardv1.Event{Id: request, Body: &rateguardv1.Event_RequestRecorded{
		RequestRecorded: &rateguardv1.RequestRecorded{RequestId: request, Model: strings.Repeat("m", size)},
	}})
}

// Schedule (q): a record too large is refused before anything is written and takes no number.
func TestRecordTooLarge(t *testing.T) {
	k := startKafka(t)
	s := open(t, config(t, filepath.Join(t.TempDir(), "spool"), k))
	run(t, s)
	if _, err := s.AppendOpen(largeEnd(t, "r1", 20<<10)); !errors.Is(err, spool.ErrTooLarge) {
		t.Errorf("open of 20 KiB: %v, want ErrTooLarge", err)
	}
	must(t, failure(s.AppendOpen(opened(t, "ws_1", "r1", 1))))
	if err := s.AppendEnd(1, largeEnd(t, "r1", 70<<10)); !errors.Is(err, spool.ErrTooLarge) {
		t.Errorf("end of 70 KiB: %v, want ErrTooLarge", err)
	}
	must(t, s.AppendEnd(1, ended(t, "ws_1", "r1", 1)...))
	flush(t, s)
	if l := consume(t, k.records(topics.Requests)); len(l.applied) != 1 || l.missing() != 0 {
		t.Errorf("%d rows, %d holes; want 1, 0", len(l.applied), l.missing())
	}
}

// A record of several MB, as the closing of thousands of reservations is, passes brokers that take 1 MiB a batch.
func TestLargeRecordKeepsItsPlace(t *testing.T) {
	k := startKafka(t)
	s := open(t, config(t, filepath.Join(t.TempDir(), "spool"), k))
	run(t, s)
	must(t, s.Append(largeEnd(t, "r1", 10)))
	must(t, s.Append(largeEnd(t, "r2", 8<<20)))
	must(t, s.Append(largeEnd(t, "r3", 10)))
	flush(t, s)
	l := consume(t, k.records(topics.Requests))
	if len(l.applied) != 3 || l.missing() != 0 || s.Stats().Quarantined != 0 {
		t.Fatalf("%d records, %d holes, %d quarantined", len(l.applied), l.missing(), s.Stats().Quarantined)
	}
	for i, e := range l.applied {
		if e.GetSequence() != uint64(i+1) {
			t.Errorf("record %d has sequence %d", i, e.GetSequence())
		}
	}
}

// noise is text that does not compress.
func noise(n int) string {
	b := make([]byte, n)
	seed := uint32(1)
	for i := range b {
		seed = seed*1664525 + 1013904223
		b[i] = byte(33 + seed>>24%90)
	}
	return string(b)
}

// A record that the broker refuses for good goes to quarantine, Skipped takes its number, and its neighbours
// in the same batch pass.
func TestRefusedRecordIsQuarantined(t *testing.T) {
	k := startKafka(t)
	k.cluster.Close()
	k.limit = "20000"
	k.dir = t.TempDir() // settings are kept with the data
	k.start()
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, config(t, dir, k))
	noise := noise(60 << 10)
	for i := range 20 {
		must(t, s.Append(largeEnd(t, fmt.Sprintf("a%d", i), 10)))
	}
	must(t, s.Append(record(t, topics.Requests, "ws_1", &rateguardv1.Event{Id: "big", Body: &rateguardv1.Event_RequestRecorded{
		RequestRecorded: &rateguardv1.RequestRecorded{RequestId: "big", Model: noise},
	}})))
	for i := range 20 {
		must(t, s.Append(largeEnd(t, fmt.Sprintf("b%d", i), 10)))
	}
	run(t, s)
	flush(t, s)
	l := consume(t, k.records(topics.Requests))
	rows, skipped := 0, uint64(0)
	for _, e := range l.applied {
		if e.GetRequestRecorded() != nil {
			rows++
		}
		if e.GetSkipped() != nil {
			skipped = e.GetSkipped().GetSequence()
		}
	}
	if rows != 40 || skipped != 21 || l.missing() != 0 || s.Stats().Quarantined != 1 {
		t.Errorf("%d rows, skipped %d, %d holes, %d quarantined; want 40, 21, 0, 1", rows, skipped, l.missing(), s.Stats().Quarantined)
	}
	b, err := os.ReadFile(filepath.Join(dir, "quarantine.jsonl"))
	must(t, err)
	if !strings.Contains(string(b), `"sequence":21`) {
		t.Errorf("quarantine file without the record: %.200s", b)
	}
}

// An opening that the broker refuses for its size goes without its tags under its own number, or its end would be one of a reservation that nobody knows.
func TestARefusedOpeningGoesWithoutItsTags(t *testing.T) {
	k := startKafka(t)
	k.cluster.Close()
	k.limit = "2000"
	k.dir = t.TempDir()
	k.start()
	s := open(t, config(t, filepath.Join(t.TempDir(), "spool"), k))
	must(t, failure(s.AppendOpen(record(t, topics.Costs, "ws_1", &rateguardv1.Event{Id: "r1", Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
		ReservationId: "r1/1", Context: &rateguardv1.RequestContext{IdempotencyKey: "key", Tags: map[string]string{"a": noise(4 << 10)}},
	}}}))))
	must(t, s.AppendEnd(1, ended(t, "ws_1", "r1", 1)...))
	run(t, s)
	flush(t, s)
	l := consume(t, k.records(topics.Costs))
	if len(l.applied) != 2 || l.missing() != 0 || s.Stats().Quarantined != 1 {
		t.Fatalf("%d records, %d holes, %d quarantined; want 2, 0, 1", len(l.applied), l.missing(), s.Stats().Quarantined)
	}
	o := l.applied[0].GetReservationOpened()
	if o.GetReservationId() != "r1/1" || o.GetContext().GetIdempotencyKey() != "key" || len(o.GetContext().GetTags()) != 0 || l.applied[0].GetSequence() != 1 {
		t.Errorf("the opening is %v", l.applied[0])
	}
}

func BenchmarkAppend(b *testing.B) {
	c := config(b, filepath.Join(b.TempDir(), "spool"), nil)
	c.MaxBytes, c.SegmentBytes = 1<<40, 64<<20
	s := open(b, c)
	o, e := opened(b, "ws_1", "01990000-0000-7000-8000-000000000000", 1000), ended(b, "ws_1", "01990000-0000-7000-8000-000000000000", 700)
	b.Run("OpenAndEnd", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := s.AppendOpen(o); err != nil {
				b.Fatal(err)
			}
			if err := s.AppendEnd(1, e...); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("WriteOnly", func(b *testing.B) { // the system call alone
		f, err := os.Create(filepath.Join(b.TempDir(), "f"))
		must(b, err)
		defer f.Close()
		buf := make([]byte, 300)
		var off int64
		for b.Loop() {
			if _, err := f.WriteAt(buf, off); err != nil {
				b.Fatal(err)
			}
			off += 300
		}
	})
}
