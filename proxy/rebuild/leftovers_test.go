package rebuild_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// oldDisk makes a folder whose producer was closed by a reaper while one opening and one end lay unshipped in it,
// and one request was complete but unshipped.
func oldDisk(t *testing.T, o options) (first *proxy) {
	t.Helper()
	first = start(t, o)
	first.open("ws_1", "r1", 100)
	first.flush()
	for _, stop := range first.stops { // the network is gone first, the process a moment later
		stop()
	}
	first.stops = nil
	first.open("ws_1", "r2", 50)
	first.settle("ws_1", "r1", 20)
	first.open("ws_1", "r3", 70)
	first.settle("ws_1", "r3", 7)
	first.kill()
	reaper := start(t, options{dir: filepath.Join(t.TempDir(), "reaper"), kafka: o.kafka, redis: o.redis})
	waitClosed(t, o.kafka, first.ProducerID())
	reaper.kill()
	return first
}

func wantLeftoversOnce(t *testing.T, b *books) {
	t.Helper()
	wantCost(t, b, "r1/1", cost{100, kindExpired, true})
	wantCost(t, b, "r2/1", cost{50, kindExpired, true})
	wantCost(t, b, "r3/1", cost{7, kindSettled, false})
	wantRow(t, b, "r1", 100, true)
	wantRow(t, b, "r2", 50, true)
	wantRow(t, b, "r3", 7, false)
	if b.ends["r2/1"] != 1 || b.ends["r3/1"] != 1 {
		t.Errorf("ends of r2 and r3: %d, %d, want one each: a fold that keeps sums counts every one", b.ends["r2/1"], b.ends["r3/1"])
	}
}

// The process that ends what stood behind a ProducerClosed is killed before it has forgotten the folder. The next
// one finds the folder again and must see those ends, although they carry another producer's id.
func TestLeftoversAreEndedOnceOverACrash(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	dir := filepath.Join(t.TempDir(), "a")
	first := oldDisk(t, options{dir: dir, kafka: kafka, redis: rdb})
	folder, kept := filepath.Join(dir, first.ProducerID()), filepath.Join(t.TempDir(), "kept")
	must(t, os.CopyFS(kept, os.DirFS(folder)))
	second := start(t, options{dir: dir, kafka: kafka, redis: rdb})
	awaitForgotten(t, second)
	second.kill()
	must(t, os.CopyFS(folder, os.DirFS(kept))) // as if the kill had come before
	third := start(t, options{dir: dir, kafka: kafka, redis: rdb})
	awaitForgotten(t, third)
	wantLeftoversOnce(t, read(t, kafka))
}

// A reaper crashes between its two closings, and an opening surfaces behind the first one. Whoever writes the second one gives no row to what has no end: from a row
// without a cost, that request would cost nothing.
func TestWhatSurfacesBetweenTwoClosingsCostsItsBound(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	dir := filepath.Join(t.TempDir(), "a")
	first := start(t, options{dir: dir, kafka: kafka, redis: rdb, noRebuild: true})
	first.open("ws_1", "r1", 100)
	first.flush()
	reaper := start(t, options{dir: filepath.Join(t.TempDir(), "reaper"), kafka: kafka, redis: rdb, noRebuild: true})
	bound := int64(100)
	closed := record(t, topics.Costs, "ws_1", &rateguardv1.Event{Body: &rateguardv1.Event_ProducerClosed{ProducerClosed: &rateguardv1.ProducerClosed{
		ProducerId: first.ProducerID(), Mark: 1, Ends: []*rateguardv1.Outcome{{
			ReservationId: "r1/1", Revision: 1, Kind: kindExpired, Estimated: true, CostNanoUsd: &bound, BoundNanoUsd: &bound,
			Subject: &rateguardv1.Subject{RequestId: "r1", Attempt: 1, Model: "m", OpenedAtUnixUs: 1},
		}},
	}}})
	closed.Unnumbered = true
	must(t, reaper.Append(closed))
	reaper.flush()
	reaper.kill()
	first.open("ws_1", "r2", 50)
	first.flush()
	first.kill()
	awaitForgotten(t, start(t, options{dir: dir, kafka: kafka, redis: rdb}))
	b := read(t, kafka)
	wantCost(t, b, "r1/1", cost{100, kindExpired, true})
	wantCost(t, b, "r2/1", cost{50, kindExpired, true})
	wantRow(t, b, "r1", 100, true)
	wantRow(t, b, "r2", 50, true)
}

func awaitForgotten(t *testing.T, p *proxy) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for len(p.Predecessors()) > 0 {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatal("predecessors are still there")
		}
	}
}
