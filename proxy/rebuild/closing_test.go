package rebuild_test

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

const (
	kindSettled = rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED
	kindExpired = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED
)

func wantCost(t *testing.T, b *books, reservation string, want cost) {
	t.Helper()
	if got, ok := b.costs[reservation]; !ok || got != want {
		t.Errorf("cost of %s is %+v (there: %t), want %+v", reservation, got, ok, want)
	}
}

func wantRow(t *testing.T, b *books, request string, nano int64, estimated bool) {
	t.Helper()
	r := b.rows[request]
	if r == nil {
		t.Errorf("no row for %s", request)
		return
	}
	if r.GetCostNanoUsd() != nano || r.GetEstimated() != estimated || len(r.GetReservationIds()) != 1 {
		t.Errorf("row of %s: %v, want cost %d, estimated %t", request, r, nano, estimated)
	}
}

// Schedule (i): killed between the opening and the forward, and between the last byte and the end. The next
// process on the folder ends both, once, at the bound, and leaves what had ended alone.
func TestNextProcessEndsWhatWasOpen(t *testing.T) {
	kafka := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	first := start(t, options{dir: dir, kafka: kafka})
	first.open("ws_1", "done", 100)
	first.settle("ws_1", "done", 40)
	first.open("ws_1", "cut", 100)
	first.open("ws_2", "cut2", 70)
	first.flush()
	first.kill()
	second := start(t, options{dir: dir, kafka: kafka})
	b := waitClosed(t, kafka, first.ProducerID())
	wantCost(t, b, "done/1", cost{40, kindSettled, false})
	wantCost(t, b, "cut/1", cost{100, kindExpired, true})
	wantCost(t, b, "cut2/1", cost{70, kindExpired, true})
	wantRow(t, b, "done", 40, false)
	wantRow(t, b, "cut", 100, true)
	wantRow(t, b, "cut2", 70, true)
	if len(b.costs) != 3 || len(b.rows) != 3 || b.closed != 4 || b.ignored != 0 {
		t.Errorf("%d costs, %d rows, %d closings, %d ignored; want 3, 3, 4, 0", len(b.costs), len(b.rows), b.closed, b.ignored)
	}
	if r := b.rows["cut"]; r.GetModel() != "m" || r.GetContext().GetMethod() != "POST" || r.GetStatus() != 0 || r.GetStartedAtUnixUs() != 1 {
		t.Errorf("row made by the closer: %v", r)
	}
	second.kill()
	// A third process finds nothing of the first: closing is done once.
	third := start(t, options{dir: dir, kafka: kafka})
	b = waitClosed(t, kafka, second.ProducerID())
	if b.closed != 4 || len(b.costs) != 3 || len(b.rows) != 3 {
		t.Errorf("after another restart: %d closings, %d costs, %d rows; want 4, 3, 3", b.closed, len(b.costs), len(b.rows))
	}
	if ids := third.Predecessors(); len(ids) > 1 {
		t.Errorf("folders of %v are still there", ids)
	}
}

// The process dies before it ever reached Kafka: its successor announces, ships and closes it.
func TestPredecessorThatNeverShipped(t *testing.T) {
	kafka := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	first := start(t, options{dir: dir, kafka: kafka, noShip: true, noRebuild: true})
	first.open("ws_1", "r1", 100)
	first.open("ws_1", "r2", 100)
	first.settle("ws_1", "r2", 30)
	first.kill()
	start(t, options{dir: dir, kafka: kafka})
	b := waitClosed(t, kafka, first.ProducerID())
	wantCost(t, b, "r1/1", cost{100, kindExpired, true})
	wantCost(t, b, "r2/1", cost{30, kindSettled, false})
	wantRow(t, b, "r1", 100, true)
	wantRow(t, b, "r2", 30, false)
}

// One half of an end reached Kafka and the disk is lost: the other half is made from it.
func TestHalfAnEndIsCompleted(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	first := start(t, options{dir: filepath.Join(t.TempDir(), "a"), kafka: kafka, redis: rdb})
	first.open("ws_1", "row-only", 100)
	first.open("ws_1", "cost-only", 100)
	must(t, first.AppendEnd(first.generations["row-only"], row(t, "ws_1", "row-only", 33)))
	must(t, first.AppendEnd(first.generations["cost-only"], settled(t, "ws_1", "cost-only", 44)))
	first.flush()
	first.kill()
	start(t, options{dir: filepath.Join(t.TempDir(), "b"), kafka: kafka, redis: rdb})
	b := waitClosed(t, kafka, first.ProducerID())
	wantCost(t, b, "row-only/1", cost{33, kindSettled, false})
	wantCost(t, b, "cost-only/1", cost{44, kindSettled, false})
	wantRow(t, b, "row-only", 33, false)
	wantRow(t, b, "cost-only", 44, false)
	if b.rows["cost-only"].GetUsage().GetInputTokens() != 3 {
		t.Errorf("usage of the settlement is lost: %v", b.rows["cost-only"])
	}
}

// A producer whose heartbeat stands still is closed by another proxy; the living one is not.
func TestReaperClosesTheGoneAndNobodyElse(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	alive := start(t, options{dir: filepath.Join(t.TempDir(), "a"), kafka: kafka, redis: rdb})
	alive.open("ws_1", "alive", 100)
	gone := start(t, options{dir: filepath.Join(t.TempDir(), "b"), kafka: kafka, redis: rdb})
	gone.open("ws_1", "gone", 60)
	gone.flush()
	third := start(t, options{dir: filepath.Join(t.TempDir(), "c"), kafka: kafka, redis: rdb})
	gone.kill()
	b := waitClosed(t, kafka, gone.ProducerID())
	wantCost(t, b, "gone/1", cost{60, kindExpired, true})
	// Another whole time without a heartbeat, of another producer: the living one was watched for longer than it takes.
	late := start(t, options{dir: filepath.Join(t.TempDir(), "d"), kafka: kafka, redis: rdb})
	late.open("ws_1", "late", 1)
	late.flush()
	late.kill()
	b = waitClosed(t, kafka, late.ProducerID())
	for _, p := range []*proxy{alive, third} { // one of the two is the reaper
		if b.closedIDs[p.ProducerID()] {
			t.Error("a living producer was closed")
		}
		select {
		case <-p.rebuild.Fenced():
			t.Error("a living producer was fenced")
		default:
		}
	}
	alive.settle("ws_1", "alive", 10)
	alive.flush()
	wantCost(t, read(t, kafka), "alive/1", cost{10, kindSettled, false})
}

// Schedule (4): the closer reads the log, the zombie ships its end, the closer's ProducerClosed follows. Its
// mark is then old, everybody ignores it, and the closer begins again.
func TestZombieShipsBetweenReadAndAppend(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	zombie := start(t, options{dir: filepath.Join(t.TempDir(), "a"), kafka: kafka, redis: rdb, noRebuild: true})
	zombie.open("ws_1", "r1", 100)
	zombie.open("ws_1", "r2", 100)
	zombie.flush()
	// An attempt before this one has said that it is being closed.
	said := status(t, kafka, zombie.ProducerID())
	said.ClosingAtUnixUs = time.Now().UnixMicro()
	publish(t, kafka, said)
	// The closer's closing lies in its spool until it ships.
	closer := start(t, options{dir: filepath.Join(t.TempDir(), "b"), kafka: kafka, redis: rdb, noShip: true})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for closer.Stats().Depth == 0 {
		<-tick.C
	}
	zombie.settle("ws_1", "r1", 12)
	zombie.flush()
	closer.background(closer.Run)
	b := waitClosed(t, kafka, zombie.ProducerID())
	wantCost(t, b, "r1/1", cost{12, kindSettled, false})
	wantCost(t, b, "r2/1", cost{100, kindExpired, true})
	wantRow(t, b, "r1", 12, false)
	wantRow(t, b, "r2", 100, true)
	if b.ignored != 1 || b.closed != 2 || len(b.corrections) != 0 {
		t.Errorf("%d closings ignored, %d taken, corrections %v; want 1, 2, none", b.ignored, b.closed, b.corrections)
	}
}

// Two closers at once: the first ProducerClosed counts, the other changes nothing.
func TestTwoClosersCloseOnce(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	dir := filepath.Join(t.TempDir(), "a")
	gone := start(t, options{dir: dir, kafka: kafka, redis: rdb, noRebuild: true})
	for i := range 20 {
		gone.open(fmt.Sprintf("ws_%d", i), fmt.Sprintf("r%d", i), 100)
	}
	gone.flush()
	gone.kill()
	said := status(t, kafka, gone.ProducerID())
	said.ClosingAtUnixUs = time.Now().UnixMicro()
	publish(t, kafka, said)
	// The reaper waits for 400 ms without a heartbeat and the successor for nothing: hold it back until then.
	reaper := start(t, options{dir: filepath.Join(t.TempDir(), "b"), kafka: kafka, redis: rdb, noShip: true})
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for reaper.Stats().Depth == 0 {
		<-tick.C
	}
	next := start(t, options{dir: dir, kafka: kafka, redis: rdb})
	reaper.background(reaper.Run)
	waitClosed(t, kafka, gone.ProducerID())
	next.flush()
	reaper.flush()
	b := read(t, kafka)
	if len(b.costs) != 20 || len(b.rows) != 20 || b.closed != 40 || len(b.corrections) != 0 {
		t.Errorf("%d costs, %d rows, %d closings taken, corrections %v; want 20, 20, 40, none", len(b.costs), len(b.rows), b.closed, b.corrections)
	}
}

// While Redis is away nobody is taken for gone, and when it is back everybody gets the whole time again.
func TestRedisAwayClosesNobodyButPredecessors(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	dir := filepath.Join(t.TempDir(), "a")
	gone := start(t, options{dir: dir, kafka: kafka, redis: rdb})
	gone.open("ws_1", "r1", 100)
	gone.flush()
	other := start(t, options{dir: filepath.Join(t.TempDir(), "b"), kafka: kafka, redis: rdb})
	other.flush()
	gone.kill()
	rdb.ShutdownNoSave(t.Context())
	next := start(t, options{dir: dir, kafka: kafka, redis: rdb})
	b := waitClosed(t, kafka, gone.ProducerID())
	wantCost(t, b, "r1/1", cost{100, kindExpired, true})
	if b.closedIDs[other.ProducerID()] || b.closedIDs[next.ProducerID()] {
		t.Error("a living producer was closed while Redis was away")
	}
}

// A process that loses its heartbeat but lives is told so and admits nothing more; its late end is a
// correction, not a second cost.
func TestZombieIsFencedAndItsLateEndIsACorrection(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	zombie := start(t, options{dir: filepath.Join(t.TempDir(), "a"), kafka: kafka, redis: rdb, noRebuild: true})
	zombie.open("ws_1", "r1", 100)
	zombie.flush()
	start(t, options{dir: filepath.Join(t.TempDir(), "b"), kafka: kafka, redis: rdb})
	b := waitClosed(t, kafka, zombie.ProducerID())
	wantCost(t, b, "r1/1", cost{100, kindExpired, true})
	zombie.background(zombie.rebuild.Run) // it wakes up
	<-zombie.rebuild.Fenced()
	if _, err := zombie.AppendOpen(settled(t, "ws_1", "x", 1)); err == nil {
		t.Error("a fenced producer opened a reservation")
	}
	zombie.settle("ws_1", "r1", 12)
	zombie.flush()
	b = read(t, kafka)
	wantCost(t, b, "r1/1", cost{100, kindExpired, true})
	if len(b.costs) != 1 || b.corrections["r1/1"] != 12 || len(b.rows) != 1 {
		t.Errorf("%d costs, corrections %v, %d rows; want 1, 12, 1", len(b.costs), b.corrections, len(b.rows))
	}
}

// An old disk comes back after its producer was closed by a reaper: what it still held is shipped and ended.
func TestOldDiskComesBackAfterClosing(t *testing.T) {
	kafka, rdb := startKafka(t), startRedis(t)
	dir := filepath.Join(t.TempDir(), "a")
	first := start(t, options{dir: dir, kafka: kafka, redis: rdb})
	first.open("ws_1", "r1", 100)
	first.flush()
	for _, stop := range first.stops { // the network is gone first, the process a moment later
		stop()
	}
	first.stops = nil
	first.open("ws_1", "r2", 50)
	first.settle("ws_1", "r1", 20)
	first.kill()
	other := start(t, options{dir: filepath.Join(t.TempDir(), "b"), kafka: kafka, redis: rdb})
	waitClosed(t, kafka, first.ProducerID())
	other.kill()
	again := start(t, options{dir: dir, kafka: kafka, redis: rdb})
	for len(again.Predecessors()) > 0 {
		waitClosed(t, kafka, first.ProducerID())
	}
	b := read(t, kafka)
	wantCost(t, b, "r1/1", cost{100, kindExpired, true})
	wantCost(t, b, "r2/1", cost{50, kindExpired, true})
	wantRow(t, b, "r1", 100, true)
	wantRow(t, b, "r2", 50, true)
	if len(b.costs) != 2 || b.corrections["r1/1"] != 20 {
		t.Errorf("costs %v, corrections %v", b.costs, b.corrections)
	}
	if _, err := os.Stat(filepath.Join(dir, first.ProducerID())); !os.IsNotExist(err) {
		t.Errorf("folder of the closed producer: %v", err)
	}
}

// Schedule (r): 15,000 open reservations in one workspace are one ProducerClosed of several MB a topic.
func TestThousandsOfOpenReservations(t *testing.T) {
	kafka := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	first := start(t, options{dir: dir, kafka: kafka})
	const n = 15000
	for i := range n {
		first.open("ws_1", fmt.Sprintf("01990000-0000-7000-8000-%012d", i), 100)
	}
	first.flush()
	first.kill()
	second := start(t, options{dir: dir, kafka: kafka})
	b := waitClosed(t, kafka, first.ProducerID())
	if len(b.costs) != n || len(b.rows) != n || b.closed != 2 || b.ignored != 0 || second.Stats().Quarantined != 0 {
		t.Errorf("%d costs, %d rows, %d closings, %d ignored, %d quarantined; want %d, %d, 2, 0, 0",
			len(b.costs), len(b.rows), b.closed, b.ignored, second.Stats().Quarantined, n, n)
	}
}

// What a client says about itself may be large and cannot always be compressed. A closing that no broker takes would
// be tried for ever, so it leaves that out.
func TestLargeContextsDoNotStopAClosing(t *testing.T) {
	kafka := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	first := start(t, options{dir: dir, kafka: kafka})
	rng := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 192)
	const n = 4500
	for i := range n {
		tags := map[string]string{}
		for k := range 16 {
			_, _ = rng.Read(noise)
			tags[fmt.Sprint(k)] = base64.StdEncoding.EncodeToString(noise)
		}
		first.openIn("ws_1", fmt.Sprintf("r%d", i), 100, &rateguardv1.RequestContext{Method: "POST", Tags: tags})
	}
	first.flush()
	first.kill()
	second := start(t, options{dir: dir, kafka: kafka})
	b := waitClosed(t, kafka, first.ProducerID())
	if len(b.costs) != n || len(b.rows) != n || second.Stats().Quarantined != 0 {
		t.Errorf("%d costs, %d rows, %d quarantined; want %d, %d, 0", len(b.costs), len(b.rows), second.Stats().Quarantined, n, n)
	}
}
