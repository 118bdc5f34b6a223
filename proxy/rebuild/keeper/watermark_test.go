package keeper_test

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/fold"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// passes waits until nothing that the process has written so far has to be read any more, as another one sees it.
func (p *process) passes(id, ws string) *rateguardv1.ProducerStatus {
	p.w.tb.Helper()
	n := hash.Partition([]byte(ws), partitions)
	end := p.w.end(n)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); ; <-tick.C {
		for _, s := range p.rebuild.Roster().Open() {
			if s.GetProducerId() == id && s.GetCostsOffsets()[n] >= end {
				return s
			}
		}
		if time.Now().After(deadline) {
			p.w.tb.Fatalf("the watermark of %s does not move", id)
		}
	}
}

// fold writes the spend table of a partition as processors have it once they are at its present end.
func (w *world) fold(n int32) {
	w.tb.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Seeds()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	must(w.tb, err)
	defer cl.Close()
	details, err := kadm.NewClient(cl).ListTopics(w.tb.Context(), topics.Costs.Name)
	must(w.tb, err)
	id := details[topics.Costs.Name].ID
	rows, states := map[string]*rateguardv1.TableValue{}, map[string]*rateguardv1.SpendState{}
	w.each(n, func(rec *kgo.Record) {
		key := string(rec.Key)
		if rows[key] == nil {
			rows[key], states[key] = &rateguardv1.TableValue{Generation: 1}, new(rateguardv1.SpendState)
		}
		e, err := envelope.Decode(rec.Value)
		must(w.tb, err)
		fold.SetApplied(rows[key], id[:], rec.Offset)
		if !hash.IsPartitionKey(key) {
			spend.Fold(states[key], e)
		}
	})
	for key, row := range rows {
		if !hash.IsPartitionKey(key) {
			row.State, err = spend.Encode(states[key])
			must(w.tb, err)
		}
		value, err := fold.EncodeValue(row)
		must(w.tb, err)
		must(w.tb, cl.ProduceSync(w.tb.Context(), &kgo.Record{Topic: topics.SpendTable.Name, Partition: n, Key: []byte(key), Value: value}).FirstErr())
	}
}

// A process that has lived for long is read from far behind its start. A round waits for its seal all the same, whether the keeper has begun to read before its
// watermark moved or after.
func TestARoundWaitsForAProducerThatStartedLongBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	begin := w.start(options{})
	silent := w.start(options{noSeals: true, noKeeper: true, eager: true})
	<-silent.Announced()
	r := silent.reserve("ws_1", 100)
	r.end(10)
	r.settle(10)
	silent.flush()
	s := begin.passes(silent.ProducerID(), "ws_1")
	n := hash.Partition([]byte("ws_1"), partitions)
	if s.GetCostsStarted()[n] >= s.GetCostsOffsets()[n] {
		t.Fatalf("the watermark has not passed the start: %v", s)
	}
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 10, confirmed: 10})
	// What it has opened since and not shipped stands in Redis only.
	silent.stopShipping()
	open := silent.reserve("ws_1", 600)
	begin.kill()
	w.fold(n)
	p := w.start(options{dir: begin.dir}) // a keeper that reads from the watermark
	<-p.Announced()
	w.wipe()
	if _, err := p.admit("ws_1", 1); !errors.Is(err, epoch.ErrNotInstalled) {
		t.Fatalf("opened although a producer has not sealed: %v", err)
	}
	silent.kill()
	w.start(options{dir: silent.dir, noKeeper: true})
	if _, err := p.admit("ws_1", 391); !errors.Is(err, errDenied) {
		t.Errorf("above the limit: %v", err)
	}
	p.reserve("ws_1", 390)
	_ = open
}

// No keeper has shown Redis the end of a reservation, and the log is read from behind it. It is not ended again.
func TestAnEndBeforeTheWatermarkThatRedisWasNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "ws_1")
	first := w.start(options{})
	p := w.start(options{noKeeper: true, eager: true})
	<-p.Announced()
	warm := p.reserve("ws_1", 1)
	warm.end(1)
	w.await("ws_1", state{epoch: "1", entries: "0", posted: 1, confirmed: 1})
	first.kill()
	settled, unsettled := p.reserve("ws_1", 100), p.reserve("ws_1", 50)
	settled.end(30)
	settled.settle(30)
	unsettled.end(20)
	p.flush()
	reaper := w.start(options{noKeeper: true})
	<-reaper.Announced()
	reaper.passes(p.ProducerID(), "ws_1")
	if got := w.state("ws_1"); got.entries != "2" {
		t.Fatalf("Redis was shown the ends: %+v", got)
	}
	p.kill()
	must(t, os.RemoveAll(p.dir))
	reaper.awaitClosed(p.ProducerID())
	wantLedger(t, w, map[string]int64{warm.id: 1, settled.id: 30, unsettled.id: 20})
	w.start(options{})
	w.await("ws_1", state{entries: "0", posted: 51, confirmed: 51})
}
