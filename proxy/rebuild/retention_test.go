package rebuild_test

import (
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

// trimRequests deletes what is in the requests topic, as its retention does after 30 days. The costs stay for 400.
func trimRequests(t *testing.T, kafka broker.Config) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(kafka.Seeds()...))
	must(t, err)
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ends, err := adm.ListEndOffsets(t.Context(), topics.Requests.Name)
	must(t, err)
	res, err := adm.DeleteRecords(t.Context(), ends.Offsets())
	must(t, err)
	must(t, res.Error())
}

// writtenRows returns the requests whose rows closers wrote, by a ProducerClosed with its mark or in their own name.
func writtenRows(t *testing.T, kafka broker.Config, of string) (closed []string, mark uint64, own []string) {
	t.Helper()
	for _, rec := range fetch(t, kafka, topics.Requests) {
		e, err := envelope.Decode(rec.Value)
		must(t, err)
		if c := e.GetProducerClosed(); c.GetProducerId() == of {
			mark = c.GetMark()
			for _, r := range c.GetRows() {
				closed = append(closed, r.GetRequestId())
			}
		}
		if r := e.GetRequestRecorded(); r != nil && e.GetProducerId() != of {
			own = append(own, r.GetRequestId())
		}
	}
	return closed, mark, own
}

// A producer that lived longer than the requests topic remembers: the rows that are gone from the topic were there, and
// its closing must not write them again.
func TestRowsThatRetentionTookAreNotWrittenAgain(t *testing.T) {
	kafka := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	first := start(t, options{dir: dir, kafka: kafka})
	for _, id := range []string{"old1", "old2", "old3"} {
		first.open("ws_1", id, 100)
		first.settle("ws_1", id, 40)
	}
	first.open("ws_1", "running", 80)
	first.flush()
	trimRequests(t, kafka)
	first.open("ws_1", "new", 100)
	first.settle("ws_1", "new", 30)
	first.flush()
	first.kill()
	start(t, options{dir: dir, kafka: kafka})
	awaitStatusClosed(t, kafka, first.ProducerID())
	closed, mark, own := writtenRows(t, kafka, first.ProducerID())
	if !slices.Equal(closed, []string{"running"}) || mark != 4 || len(own) != 0 {
		t.Errorf("closing wrote rows %v at mark %d and %v in its own name; want only running, at 4", closed, mark, own)
	}
}

// The same when nothing of the producer is left in the topic, so that its mark there cannot be known.
func TestRowWithoutAnyOtherInTheTopicIsWrittenInTheClosersName(t *testing.T) {
	kafka := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	first := start(t, options{dir: dir, kafka: kafka})
	first.open("ws_1", "old", 100)
	first.settle("ws_1", "old", 40)
	first.open("ws_1", "running", 80)
	first.flush()
	trimRequests(t, kafka)
	first.kill()
	start(t, options{dir: dir, kafka: kafka})
	awaitStatusClosed(t, kafka, first.ProducerID())
	closed, _, own := writtenRows(t, kafka, first.ProducerID())
	if len(closed) != 0 || !slices.Equal(own, []string{"running"}) {
		t.Errorf("rows %v in a closing that nobody takes, %v in the closer's own name; want none, running", closed, own)
	}
}

func awaitStatusClosed(t *testing.T, kafka broker.Config, id string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, rec := range fetch(t, kafka, topics.Producers) {
			e, err := envelope.Decode(rec.Value)
			must(t, err)
			if string(rec.Key) == id && e.GetProducerStatus().GetClosedAtUnixUs() > 0 {
				return
			}
		}
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("producer %s was not closed", id)
		}
	}
}
