package gokakit_test

import (
	"fmt"
	"slices"
	"strconv"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/processors/group"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

func alert(of string) *rateguardv1.Event {
	return &rateguardv1.Event{WorkspaceId: "ws", Body: &rateguardv1.Event_Alert{Alert: &rateguardv1.Alert{AlertId: of}}}
}

// crier is a tally that sends an alert with the count at every tenth input.
func crier() group.Graph {
	g := tally()
	count := g.Fold
	g.Outputs, g.Loop = []topics.Topic{topics.Alerts}, topics.SpendLoop
	g.Fold = func(state []byte, in group.Input) group.Result {
		r := count(state, in)
		if n, _ := strconv.Atoi(string(r.State)); n%10 == 0 && in.Event.GetTick() == nil {
			r.Outputs = []group.Output{{Topic: topics.Alerts, Event: alert(in.Key + "/" + string(r.State))}}
		}
		return r
	}
	return g
}

// cried returns what stands in the alerts, in order, each once; it fails when two events have one id or one alert has two.
func cried(t *testing.T, c *kafkatest.Cluster) (alerts []string, records int) {
	t.Helper()
	ids := map[string]string{}
	for _, r := range c.Read(t, topics.Alerts.Name) {
		e, err := envelope.Decode(r.Value)
		if err != nil {
			t.Fatalf("reading an alert: %v", err)
		}
		if p := hash.Partition(r.Key, kafkatest.Partitions); r.Partition != p {
			t.Errorf("alert of %s on partition %d, want %d", r.Key, r.Partition, p)
		}
		what := e.GetAlert().GetAlertId()
		records++
		if id, again := ids[what]; again {
			if id != e.GetId() {
				t.Errorf("%s has the ids %s and %s", what, id, e.GetId())
			}
			continue
		}
		ids[what] = e.GetId()
		alerts = append(alerts, what)
	}
	unique := map[string]bool{}
	for _, id := range ids {
		unique[id] = true
	}
	if len(unique) != len(ids) {
		t.Errorf("%d ids for %d alerts", len(unique), len(ids))
	}
	return alerts, records
}

// tens is what a crier says of a workspace with n inputs.
func tens(workspace string, n int) []string {
	var out []string
	for i := 10; i <= n; i += 10 {
		out = append(out, fmt.Sprintf("%s/%d", workspace, i))
	}
	return out
}

// emptied returns nil when no key of the table has anything in its outbox.
func emptied(t *testing.T, c *kafkatest.Cluster) error {
	t.Helper()
	left := map[string]int{}
	for _, r := range c.Read(t, topics.SpendTable.Name) {
		if left[string(r.Key)] = len(decode(t, r.Value).GetOutbox()); left[string(r.Key)] == 0 {
			delete(left, string(r.Key))
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("entries in the outbox: %v", left)
	}
	return nil
}

func waitPublished(t *testing.T, c *kafkatest.Cluster, want []string) (records int) {
	t.Helper()
	kafkatest.Wait(t, patience, "the outbox to be published and emptied", func() error {
		var got []string
		if got, records = cried(t, c); !slices.Equal(got, want) {
			return fmt.Errorf("got %v, want %v", got, want)
		}
		return emptied(t, c)
	})
	return records
}

func TestWhatAFoldSendsArrives(t *testing.T) {
	c := kafkatest.Start(t)
	r, _, stop := runKit(t, c, crier())
	c.Produce(t, topics.Costs, some("ws_1", 105)...)
	waitCount(t, r, "ws_1", 105)
	if records := waitPublished(t, c, tens("ws_1", 105)); records != 10 {
		t.Errorf("%d records for 10 alerts", records)
	}
	stop()
	for _, record := range c.Read(t, topics.Alerts.Name) {
		if len(record.Headers) != 9 || string(record.Key) != "ws_1" {
			t.Errorf("key %s, headers %v", record.Key, record.Headers)
		}
	}
	// Nothing that was acknowledged is published again, also by a reader that begins anew.
	if _, err := c.Admin.DeleteGroup(t.Context(), topics.SpendGroup+"-outbox"); err != nil {
		kafkatest.Wait(t, patience, "the reader to have left", func() error {
			_, err := c.Admin.DeleteGroup(t.Context(), topics.SpendGroup+"-outbox")
			return err
		})
	}
	r, _, _ = runKit(t, c, crier())
	c.Produce(t, topics.Costs, some("ws_1", 5)...)
	waitCount(t, r, "ws_1", 110)
	waitPublished(t, c, tens("ws_1", 110))
}

// Each step of the outbox is refused for a while: the sums go on, and everything arrives, under one id each.
func TestTheOutboxSurvivesEachOfItsStepsFailing(t *testing.T) {
	for name, fault := range map[string]kfake.Fault{
		"publish":     {Keys: []kmsg.Key{kmsg.Produce}, Topic: topics.Alerts.Name},
		"acknowledge": {Keys: []kmsg.Key{kmsg.Produce}, Topic: topics.SpendLoop.Name},
		"commit":      {Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: topics.SpendGroup + "-outbox"},
		"table":       {Keys: []kmsg.Key{kmsg.Produce}, Topic: topics.SpendTable.Name},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := kafkatest.Start(t)
			r, _, stop := runKit(t, c, crier())
			kafkatest.Wait(t, patience, "readiness", r.Ready)
			fault.Err, fault.Count = kerr.TopicAuthorizationFailed, -1
			handle := c.Fault(fault)
			c.Produce(t, topics.Costs, some("ws_1", 35)...)
			kafkatest.Wait(t, patience, "the faults", func() error {
				if n := handle.Hits(); n < 2 {
					return fmt.Errorf("%d hits", n)
				}
				return nil
			})
			if name != "table" {
				waitCount(t, r, "ws_1", 35)
			}
			handle.Remove()
			c.Produce(t, topics.Costs, some("ws_1", 10)...)
			waitCount(t, r, "ws_1", 45)
			t.Logf("%d records for 4 alerts", waitPublished(t, c, tens("ws_1", 45)))
			stop()
		})
	}
}

func TestIDsOfOutputsAreOfTheirPosition(t *testing.T) {
	ids := func(g group.Graph, topic string, partition int32, offset int64) []string {
		v := new(rateguardv1.TableValue)
		outputs := []group.Output{{Topic: topics.Alerts, Event: alert("a")}, {Topic: topics.Alerts, Event: alert("a")}}
		if notes := gokakit.Enqueue(g, v, gokakit.At(topic, partition, offset), outputs); len(notes) != 0 {
			t.Errorf("notes: %v", notes)
		}
		return []string{v.GetOutbox()[0].GetId(), v.GetOutbox()[1].GetId()}
	}
	later := crier()
	later.Generation++
	first := ids(crier(), "t", 1, 2)
	if again := ids(crier(), "t", 1, 2); !slices.Equal(again, first) {
		t.Errorf("the same position: got %v, want %v", again, first)
	}
	all := slices.Concat(first, ids(later, "t", 1, 2), ids(crier(), "u", 1, 2), ids(crier(), "t", 2, 2), ids(crier(), "t", 1, 3))
	slices.Sort(all)
	if n := len(slices.Compact(all)); n != 10 {
		t.Errorf("%d different ids of 10", n)
	}
}

func TestTheOutboxIsBounded(t *testing.T) {
	v := new(rateguardv1.TableValue)
	big := alert("big")
	big.GetAlert().Title = string(make([]byte, 100<<10))
	for offset := range int64(5) {
		notes := gokakit.Enqueue(crier(), v, gokakit.At("t", 0, offset), []group.Output{{Topic: topics.Alerts, Event: big}})
		if cut := len(notes) == 1 && notes[0].Kind == "outbox_cut"; cut != (offset >= 2) {
			t.Errorf("offset %d: notes %v", offset, notes)
		}
	}
	if n := len(v.GetOutbox()); n != 2 {
		t.Errorf("%d entries of 100 KiB, want 2", n)
	}
	last := v.GetOutbox()[1].GetId()
	if v = gokakit.Acknowledge(v, []string{last, "unknown"}); len(v.GetOutbox()) != 1 || v.GetOutbox()[0].GetId() == last {
		t.Errorf("after its acknowledgement: %d entries", len(v.GetOutbox()))
	}
	if gokakit.Acknowledge(nil, []string{last}) != nil {
		t.Error("an acknowledgement made a value")
	}
}

func TestOutputsThatCannotGoAreNoted(t *testing.T) {
	for kind, output := range map[string]group.Output{
		"output_undeclared": {Topic: topics.Audit, Event: alert("a")},
		"output_unwritable": {Topic: topics.Alerts, Event: &rateguardv1.Event{}},
	} {
		v := new(rateguardv1.TableValue)
		notes := gokakit.Enqueue(crier(), v, gokakit.At("t", 0, 0), []group.Output{output})
		if len(notes) != 1 || notes[0].Kind != kind || len(v.GetOutbox()) != 0 {
			t.Errorf("%s: notes %v, outbox %v", kind, notes, v.GetOutbox())
		}
	}
}
