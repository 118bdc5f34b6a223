package keeper_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

func wantLedger(t *testing.T, w *world, want map[string]int64) {
	t.Helper()
	if got := w.ledger("ws_1"); !maps.Equal(got, want) {
		t.Errorf("ledger %v, want %v", got, want)
	}
}

// Schedule (1): killed between the grant and the opening, folder kept. The log has everything that was sent, so that the grant is released; what was
// open costs its bound.
func TestAGrantThatWasNeverOpenedIsReleased(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	other := w.start(options{patient: true})
	p := w.start(options{noKeeper: true})
	open := p.reserve("ws_1", 200)
	if _, err := p.admit("ws_1", 500); err != nil {
		t.Fatal(err)
	}
	p.flush()
	p.kill()
	next := w.start(options{dir: p.dir, noKeeper: true})
	next.awaitClosed(p.ProducerID())
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 200, confirmed: 200})
	wantLedger(t, w, map[string]int64{open.id: 200})
	if _, err := other.admit("ws_1", 800); err != nil {
		t.Errorf("what is left: %v", err)
	}
}

// Schedules (2), (3) and (13): the disk is lost with the process. What Redis shows is ended: at the cost that it was settled with, else, as nobody knows what
// came of it, at its bound; whether the log had the opening or not.
func TestADiskIsLostAndRedisRemembers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	w.start(options{})
	p := w.start(options{noKeeper: true})
	shipped, shippedOpen := p.reserve("ws_1", 100), p.reserve("ws_1", 70)
	p.flush()
	p.stopShipping()
	unshipped, unknown := p.reserve("ws_1", 100), p.reserve("ws_1", 50)
	for _, r := range []*reservation{shipped, unshipped} {
		r.end(30)
		r.settle(30)
	}
	p.kill()
	w.await("ws_1", state{entries: "0", posted: 180, confirmed: 180})
	wantLedger(t, w, map[string]int64{shipped.id: 30, unshipped.id: 30, shippedOpen.id: 70, unknown.id: 50})
}

// Schedules (h), (4), (5), (6) and (11): a process stalls, is taken for gone and closed, and comes back. It is granted nothing more, and what it knows better
// corrects what the closing had to assume, in the ledger and in Redis.
func TestAZombieComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	alive := w.start(options{})
	zombie := w.start(options{noKeeper: true})
	known := zombie.reserve("ws_1", 300)
	zombie.flush()
	zombie.stopShipping()
	unknown := zombie.reserve("ws_1", 200)
	delayed, err := zombie.admit("ws_1", 100)
	must(t, err)
	must(t, zombie.admissions.Adjust(t.Context(), lua.Cancel, delayed.req, delayed.grant.NowUS))
	zombie.stopBeating()
	alive.awaitClosed(zombie.ProducerID())
	w.await("ws_1", state{entries: "0", posted: 500, confirmed: 500})
	if _, err := zombie.admit("ws_1", 1); !errors.Is(err, lua.ErrFenced) {
		t.Errorf("a closed producer was granted something: %v", err)
	}
	known.end(100)
	known.settle(100) // has no effect: its entry is gone
	unknown.end(10)
	zombie.kill() // what it still had reaches the log by the next process on its folder
	w.start(options{dir: zombie.dir, noKeeper: true})
	w.await("ws_1", state{entries: "0", posted: 110, confirmed: 110})
	wantLedger(t, w, map[string]int64{known.id: 100, unknown.id: 10})
}

// Schedule (12), and a disk that is lost together with Redis: nobody can know what the process had granted, and budgets stay closed until an operator says
// that it is lost. What the log shows of it costs its bound.
func TestBudgetsStayClosedUntilALostProducerIsDeclared(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p := w.start(options{})
	lost := w.start(options{noKeeper: true, noSeals: true})
	<-lost.Announced()
	open := lost.reserve("ws_1", 300)
	lost.flush()
	lost.kill()
	w.wipe()
	if _, err := p.admit("ws_1", 1); !errors.Is(err, epoch.ErrNotInstalled) {
		t.Fatalf("opened although a producer is missing: %v", err)
	}
	if p.rebuild.Roster().Closed(lost.ProducerID()) {
		t.Fatal("closed although Redis has lost what it held")
	}
	w.declareLost(p, lost.ProducerID())
	p.awaitClosed(lost.ProducerID())
	if _, err := p.admit("ws_1", 701); !errors.Is(err, errDenied) {
		t.Errorf("more than is left: %v", err)
	}
	p.reserve("ws_1", 700)
	wantLedger(t, w, map[string]int64{open.id: 300})
}

// A producer is being closed when Redis loses everything, and the fence that the closer had set with it. What is installed fences it again, before the closing
// counts: whatever it were granted now, nobody would end.
func TestAProducerThatIsBeingClosedIsFencedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p := w.start(options{})
	p.reserve("ws_1", 1)
	zombie := w.start(options{noKeeper: true})
	zombie.reserve("ws_1", 100)
	zombie.flush()
	w.say(p, zombie.ProducerID(), func(s *rateguardv1.ProducerStatus) { s.ClosingAtUnixUs = time.Now().UnixMicro() })
	redistest.Until(t, "everybody to hear of it", func() bool { return p.rebuild.Roster().Retired(zombie.ProducerID()) })
	w.wipe()
	p.reserveWhen("ws_1", 1)
	if _, err := zombie.admit("ws_1", 1); !errors.Is(err, lua.ErrFenced) {
		t.Errorf("it was granted something: %v", err)
	}
}

// A producer is read and its closing made when an opening of it arrives in the log, of which only Redis had shown anything. The closing that counts ends it with
// its amounts: without them the sums would hold it as reserved for ever, and budgets could never be read from the log again.
func TestAnOpeningThatArrivesDuringAClosing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	alive := w.start(options{})
	zombie := w.start(options{noKeeper: true})
	known := zombie.reserve("ws_1", 100)
	zombie.flush()
	zombie.stopShipping()
	late, err := zombie.admit("ws_1", 200)
	must(t, err)
	// What is produced for all replicas stands still from here on: the closing, and not the opening.
	stuck := w.cluster.Fault(kfake.Fault{
		Keys: []kmsg.Key{kmsg.Produce}, Topic: topics.Costs.Name, Err: kerr.NotLeaderForPartition, Count: -1,
		When: func(r kmsg.Request) bool { p, ok := r.(*kmsg.ProduceRequest); return ok && p.Acks == -1 },
	})
	zombie.stopBeating()
	redistest.Until(t, "a closing", func() bool { return stuck.Hits() > 0 })
	opening := late.opening()
	opening.Id, opening.WorkspaceId, opening.OccurredAtUnixUs, opening.ProducerId, opening.Sequence = "e", "ws_1", time.Now().UnixMicro(), zombie.ProducerID(), 2
	value, err := envelope.Encode(opening)
	must(t, err)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Seeds()...), kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	must(t, err)
	defer cl.Close()
	must(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: topics.Costs.Name, Key: []byte("ws_1"), Value: value}).FirstErr())
	stuck.Remove()
	alive.awaitClosed(zombie.ProducerID())
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 300, confirmed: 300})
	wantLedger(t, w, map[string]int64{known.id: 100, late.id: 200})
	w.wipe()
	alive.reserveWhen("ws_1", 700)
	w.await("ws_1", state{entries: "1", posted: 300, reserved: 700, confirmed: 300})
}

// Budgets wait for several producers that died with their disks, and the closings of these wait for the budgets. One that an operator declares lost is closed
// at once all the same, whoever else is gone.
func TestTheGoneDoNotWaitForOneAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p := w.start(options{})
	p.reserve("ws_1", 100)
	gone := make([]*process, 4)
	for i := range gone {
		gone[i] = w.start(options{noKeeper: true, noSeals: true})
		<-gone[i].Announced()
		gone[i].reserve("ws_1", 10)
		gone[i].flush()
	}
	w.wipe()
	for _, g := range gone {
		g.kill()
	}
	for _, g := range gone {
		redistest.Until(t, "everybody to be taken for gone", func() bool { return p.rebuild.Roster().Retired(g.ProducerID()) })
	}
	last := gone[len(gone)-1] // it is looked at behind the others
	began := time.Now()
	w.declareLost(p, last.ProducerID())
	p.awaitClosed(last.ProducerID())
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("closed after %s: it had waited for the budgets of another", took)
	}
	for _, g := range gone[:len(gone)-1] {
		w.declareLost(p, g.ProducerID())
	}
	p.reserveWhen("ws_1", 860)
	w.await("ws_1", state{entries: "2", posted: 40, reserved: 960, confirmed: 40})
}

// powerCut makes it look as if the machine had been started anew since the process ended.
func (p *process) powerCut() {
	p.w.tb.Helper()
	name := filepath.Join(p.dir, p.ProducerID(), "producer.json")
	text, err := os.ReadFile(name)
	must(p.w.tb, err)
	var fields map[string]any
	must(p.w.tb, json.Unmarshal(text, &fields))
	if _, known := fields["boot_id"]; !known {
		p.w.tb.Fatalf("%s names no boot: %s", name, text)
	}
	fields["boot_id"] = "another"
	text, err = json.Marshal(fields)
	must(p.w.tb, err)
	must(p.w.tb, os.WriteFile(name, text, 0o600))
}

// A power cut may have taken the last openings from the disk, and their requests may have been sent: what Redis shows and the folder does not is ended at its bound.
func TestAPowerCutTakesAnOpening(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	w.start(options{})
	p := w.start(options{noKeeper: true})
	open := p.reserve("ws_1", 200)
	lost, err := p.admit("ws_1", 500)
	must(t, err)
	p.flush()
	p.kill()
	p.powerCut()
	next := w.start(options{dir: p.dir, noKeeper: true})
	next.awaitClosed(p.ProducerID())
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 700, confirmed: 700})
	wantLedger(t, w, map[string]int64{open.id: 200, lost.id: 500})
}

// Schedule (12): then Redis is lost too. The next process on the folder cannot know what the disk lost, and does not seal for it: budgets stay closed until an operator
// says that it is lost.
func TestAPowerCutAndALossOfRedis(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	p := w.start(options{})
	cut := w.start(options{noKeeper: true, noSeals: true})
	<-cut.Announced()
	open := cut.reserve("ws_1", 300)
	cut.flush()
	cut.kill()
	cut.powerCut()
	w.wipe()
	w.start(options{dir: cut.dir, noKeeper: true})
	if _, err := p.admit("ws_1", 1); !errors.Is(err, epoch.ErrNotInstalled) {
		t.Fatalf("opened although nobody can know what the disk lost: %v", err)
	}
	if p.rebuild.Roster().Closed(cut.ProducerID()) {
		t.Fatal("closed although Redis has lost what it held")
	}
	w.declareLost(p, cut.ProducerID())
	p.awaitClosed(cut.ProducerID())
	p.reserveWhen("ws_1", 700)
	wantLedger(t, w, map[string]int64{open.id: 300})
}

// The same where nobody is left to hear of it but the process that has the folder.
func TestWhoHasTheFolderHearsThatItIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	cut := w.start(options{noSeals: true})
	open := cut.reserveWhen("ws_1", 300)
	cut.flush()
	cut.kill()
	cut.powerCut()
	w.wipe()
	next := w.start(options{dir: cut.dir})
	<-next.Announced()
	if _, err := next.admit("ws_1", 1); !errors.Is(err, epoch.ErrNotInstalled) {
		t.Fatalf("opened although nobody can know what the disk lost: %v", err)
	}
	must(t, next.rebuild.Roster().Sync(t.Context()))
	w.declareLost(next, cut.ProducerID())
	next.awaitClosed(cut.ProducerID())
	next.reserveWhen("ws_1", 700)
	wantLedger(t, w, map[string]int64{open.id: 300})
}
