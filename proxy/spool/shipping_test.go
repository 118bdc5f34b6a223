package spool_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/spool"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// Schedule (m): two goroutines append to one workspace crosswise. The numbers have to stand in the
// partition in ascending order: numbering outside the append lock lets a consumer drop the slower one.
func TestGoroutinesAppendCrosswise(t *testing.T) {
	k := startKafka(t)
	s := open(t, config(t, filepath.Join(t.TempDir(), "spool"), k))
	run(t, s)
	const writers, each = 8, 200
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			for i := range each {
				id := fmt.Sprintf("r%d-%d", g, i)
				if _, err := s.AppendOpen(opened(t, "ws_1", id, 10)); err != nil {
					t.Error(err)
				}
				if err := s.AppendEnd(1, ended(t, "ws_1", id, 7)...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	flush(t, s)
	l := consume(t, k.records(topics.Costs))
	if len(l.applied) != 2*writers*each || l.missing() != 0 {
		t.Fatalf("got %d records and %d holes, want %d and 0", len(l.applied), l.missing(), 2*writers*each)
	}
	for i, e := range l.applied {
		if e.GetSequence() != uint64(i+1) {
			t.Fatalf("record %d of the workspace has sequence %d", i, e.GetSequence())
		}
	}
	if st := s.Stats(); st.Depth != 0 || st.Bytes != 0 || st.UnshippedNanoUSD != 0 || st.OldestAge != 0 || st.OpenReservations != 0 {
		t.Errorf("after flush: %+v", st)
	}
}

func TestProducerIsAnnouncedBeforeItsFirstRecord(t *testing.T) {
	k := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	first := open(t, config(t, dir, k))
	stop := run(t, first)
	must(t, failure(first.AppendOpen(opened(t, "ws_1", "r1", 10))))
	flush(t, first)
	<-first.Announced()
	flush(t, first)
	stop()
	must(t, first.Close())

	started := map[string]bool{}
	for _, r := range k.records(topics.Costs) {
		if hash.IsPartitionKey(string(r.Key)) {
			started[string(r.Key)] = true
			if hash.Partition(r.Key, partitions) != r.Partition {
				t.Errorf("started %s in partition %d", r.Key, r.Partition)
			}
		}
	}
	if len(started) != partitions {
		t.Errorf("started in %d partitions, want %d", len(started), partitions)
	}
	costs := k.records(topics.Costs)
	second := open(t, config(t, dir, k))
	run(t, second)
	<-second.Announced()
	statuses := k.records(topics.Producers)
	byID := map[string]*rateguardv1.ProducerStatus{}
	for _, r := range statuses {
		byID[string(r.Key)] = decode(t, r.Value).GetProducerStatus()
	}
	var sum int64
	for _, o := range byID[second.ProducerID()].GetCostsOffsets() {
		sum += o
	}
	if byID[first.ProducerID()] == nil || sum != int64(len(costs)) {
		t.Errorf("second producer begins after %d records, want %d", sum, len(costs))
	}
}

func TestBrokerDownForLong(t *testing.T) {
	k := startKafka(t)
	c := config(t, filepath.Join(t.TempDir(), "spool"), k)
	c.MemoryBytes = 8 << 10 // most is read back from disk
	s := open(t, c)
	run(t, s)
	must(t, failure(s.AppendOpen(opened(t, "ws_0", "first", 1))))
	flush(t, s)
	k.cluster.Close()
	const n = 3000
	for i := range n {
		id := fmt.Sprintf("r%d", i)
		must(t, failure(s.AppendOpen(opened(t, fmt.Sprintf("ws_%d", i%5), id, 10))))
		must(t, s.AppendEnd(1, ended(t, fmt.Sprintf("ws_%d", i%5), id, 7)...))
	}
	st := s.Stats()
	if st.Depth < 3*n || st.UnshippedNanoUSD != 7*n || st.OldestAge <= 0 {
		t.Errorf("while down: %+v", st)
	}
	if len(segmentsOf(t, c.Dir)) < 3 {
		t.Errorf("want several segments, got %d", len(segmentsOf(t, c.Dir)))
	}
	k.start()
	flush(t, s)
	costs, requests := consume(t, k.records(topics.Costs)), consume(t, k.records(topics.Requests))
	if len(costs.applied) != 2*n+1 || len(requests.applied) != n || costs.missing()+requests.missing() != 0 {
		t.Fatalf("got %d costs, %d requests, %d holes", len(costs.applied), len(requests.applied), costs.missing()+requests.missing())
	}
	last := map[string]uint64{}
	for i, e := range costs.applied {
		if e.GetSequence() != last[costs.keys[i]]+1 {
			t.Fatalf("workspace %s: %d after %d", costs.keys[i], e.GetSequence(), last[costs.keys[i]])
		}
		last[costs.keys[i]] = e.GetSequence()
	}
	eventually(t, "shipped segments are removed", func() bool { return len(segmentsOf(t, c.Dir)) == 1 })
	if used := s.Stats().DiskBytes; used > 2*c.SegmentBytes {
		t.Errorf("disk use not given back: %d", used)
	}
}

func TestShutdownWhileTheBrokerIsAway(t *testing.T) {
	k := startKafka(t)
	s := open(t, config(t, filepath.Join(t.TempDir(), "spool"), k))
	stop := run(t, s)
	must(t, failure(s.AppendOpen(opened(t, "ws_1", "r1", 10))))
	flush(t, s)
	k.cluster.Close()
	for i := range 100 {
		must(t, s.Append(opened(t, "ws_1", fmt.Sprintf("r%d", i+2), 10)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := s.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("flush without a broker: %v", err)
	}
	start := time.Now()
	stop()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
	k.start()
}

// Schedules (t) and (n): the shipper dies between the acknowledgement and the advance, or an old disk
// is restored. Either way the records go out again as stored, and marks drop them.
func TestRestoredDiskOnlyRepeats(t *testing.T) {
	k := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, config(t, dir, k))
	for i := range 50 {
		must(t, failure(s.AppendOpen(opened(t, "ws_1", fmt.Sprintf("r%d", i), 10))))
	}
	old := copyDir(t, dir)
	stop := run(t, s)
	for i := range 50 {
		must(t, s.AppendEnd(1, ended(t, "ws_1", fmt.Sprintf("r%d", i), 7)...))
	}
	flush(t, s)
	stop()
	must(t, s.Close())
	before := consume(t, k.records(topics.Costs))

	again := open(t, config(t, old, k))
	if p := again.Predecessors(); len(p) != 1 || p[0] != s.ProducerID() || again.ProducerID() == s.ProducerID() {
		t.Fatalf("predecessors %v of %s, want %s", p, again.ProducerID(), s.ProducerID())
	}
	run(t, again)
	flush(t, again)
	records := k.records(topics.Costs)
	after := consume(t, records)
	if after.repeats != 50 || len(after.applied) != len(before.applied) || after.missing() != 0 {
		t.Errorf("got %d repeats, %d applied, %d holes; want 50, %d, 0", after.repeats, len(after.applied), after.missing(), len(before.applied))
	}
	bytes := map[string]string{}
	for _, r := range records {
		e := decode(t, r.Value)
		id := fmt.Sprintf("%s %s %d", e.GetProducerId(), r.Key, e.GetSequence())
		if was, ok := bytes[id]; ok && was != string(r.Value) {
			t.Errorf("%s was sent with other bytes", id)
		}
		bytes[id] = string(r.Value)
	}
}

// Schedule (n): an empty disk under the same name is a new producer that knows nothing of the old one.
func TestEmptyDiskIsANewProducer(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	a := open(t, config(t, dir, nil))
	must(t, failure(a.AppendOpen(opened(t, "ws_1", "r1", 1))))
	must(t, a.Close())
	must(t, os.RemoveAll(dir))
	b := open(t, config(t, dir, nil))
	if len(b.Predecessors()) != 0 || a.ProducerID() == b.ProducerID() {
		t.Errorf("predecessors %v, ids %s %s", b.Predecessors(), a.ProducerID(), b.ProducerID())
	}
}

func TestFolderIsLocked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	open(t, config(t, dir, nil))
	if _, err := spool.Open(t.Context(), config(t, dir, nil)); !errors.Is(err, spool.ErrLocked) {
		t.Errorf("second open: %v, want ErrLocked", err)
	}
}

func TestFencedSpoolTakesOnlyEnds(t *testing.T) {
	s := open(t, config(t, filepath.Join(t.TempDir(), "spool"), nil))
	must(t, failure(s.AppendOpen(opened(t, "ws_1", "r1", 1))))
	s.Fence()
	if _, err := s.AppendOpen(opened(t, "ws_1", "r2", 1)); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("open after fence: %v, want ErrClosed", err)
	}
	must(t, s.AppendEnd(1, ended(t, "ws_1", "r1", 1)...))
}

func TestSyncAlways(t *testing.T) {
	c := config(t, filepath.Join(t.TempDir(), "spool"), nil)
	c.Sync = spool.SyncAlways
	s := open(t, c)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 20 {
				if _, err := s.AppendOpen(opened(t, "ws_1", fmt.Sprintf("r%d-%d", g, i), 1)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := s.Stats().Depth; got != 80 {
		t.Errorf("depth %d, want 80", got)
	}
}

// A disk gone bad loses the producer file: the tail is still shipped, and the closer is told to read the whole log.
func TestProducerFileLost(t *testing.T) {
	k := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	first := open(t, config(t, dir, k))
	stop := run(t, first)
	must(t, failure(first.AppendOpen(opened(t, "ws_1", "r1", 10))))
	<-first.Announced()
	flush(t, first)
	stop()
	must(t, first.Close())
	must(t, os.WriteFile(filepath.Join(dir, first.ProducerID(), "producer.json"), []byte("{"), 0o600))
	second := open(t, config(t, dir, k))
	run(t, second)
	p, err := second.WaitPredecessor(t.Context(), first.ProducerID())
	must(t, err)
	for partition, o := range p.Status.GetCostsOffsets() {
		if o != 0 {
			t.Errorf("partition %d would be read from %d, want 0", partition, o)
		}
	}
	if len(p.Status.GetCostsOffsets()) != partitions || !p.Rebooted {
		t.Errorf("predecessor %+v", p)
	}
	flush(t, second)
	if l := consume(t, k.records(topics.Costs)); len(l.applied) != 1 || l.missing() != 0 {
		t.Errorf("%d records, %d holes; want 1, 0", len(l.applied), l.missing())
	}
}
