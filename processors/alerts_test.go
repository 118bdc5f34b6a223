package processors_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/schemas/fold"
	"github.com/rateguard/rateguard/topics"
)

// raised returns the alerts in the log of each workspace, sorted, each event once, and how many records there are. It fails when an alert
// was raised by two events, which a reader that drops repeats by id would hear twice.
func raised(t *testing.T, cluster *kafkatest.Cluster) (alerts map[string][]string, records int) {
	t.Helper()
	alerts = map[string][]string{}
	events, about := map[string]bool{}, map[string]bool{}
	for _, r := range cluster.Read(t, topics.Alerts.Name) {
		e, err := envelope.Decode(r.Value)
		if err != nil {
			t.Fatalf("reading an alert: %v", err)
		}
		records++
		if events[e.GetId()] {
			continue
		}
		events[e.GetId()] = true
		if id := e.GetAlert().GetAlertId(); about[id] {
			t.Errorf("alert %v is in two events", e)
		} else {
			about[id] = true
		}
		if string(r.Key) != e.GetWorkspaceId() {
			t.Errorf("alert of %s under %s", e.GetWorkspaceId(), r.Key)
		}
		what := e.GetAlert().GetLabels()["threshold"]
		if what == "" {
			what = e.GetAlert().GetKind()
		}
		alerts[e.GetWorkspaceId()] = append(alerts[e.GetWorkspaceId()], what)
	}
	for _, list := range alerts {
		slices.Sort(list)
	}
	return alerts, records
}

// due is what n reservations of life raise in every workspace.
func due(n int) map[string][]string {
	var list []string
	for at, what := range map[int]string{45: "0.1", 100: "0.5", 142: "1"} {
		if n >= at {
			list = append(list, what)
		}
	}
	if n >= 142 { // 9,900 is no sum of the first costs
		list = append(list, "budget_overrun")
	}
	slices.Sort(list)
	all := map[string][]string{}
	for w := range workspaces {
		if len(list) > 0 {
			all[name(w)] = list
		}
	}
	return all
}

// outboxes returns nil when no key of the table waits for something to be published.
func outboxes(t *testing.T, cluster *kafkatest.Cluster) error {
	t.Helper()
	left := map[string]int{}
	for _, r := range cluster.Read(t, topics.SpendTable.Name) {
		v, err := fold.DecodeValue(r.Value)
		if err != nil {
			t.Fatalf("reading the table: %v", err)
		}
		left[string(r.Key)] = len(v.GetOutbox())
	}
	maps.DeleteFunc(left, func(_ string, n int) bool { return n == 0 })
	if len(left) > 0 {
		return fmt.Errorf("outboxes: %v", left)
	}
	return nil
}

// waitRaised waits until the alerts that n reservations are due are in the log, and everybody knows it.
func waitRaised(t *testing.T, cluster *kafkatest.Cluster, n int) (records int) {
	t.Helper()
	kafkatest.Wait(t, patience, "alerts", func() error {
		var got map[string][]string
		if got, records = raised(t, cluster); !maps.EqualFunc(got, due(n), slices.Equal) {
			return fmt.Errorf("got %v, want %v", got, due(n))
		}
		return outboxes(t, cluster)
	})
	return records
}

// The outbox gets as far as each of its steps and no further; then the process is killed. The next one begins there.
func TestAKillBetweenTheStepsOfAnAlertRaisesItOnce(t *testing.T) {
	const each = 150
	for name, test := range map[string]struct {
		stuck kfake.Fault
		// once: nothing was published before the kill, so that every alert is one record.
		once bool
	}{
		"table and publication":           {kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topics.Alerts.Name}, true},
		"publication and acknowledgement": {kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topics.SpendLoop.Name}, false},
		"acknowledgement and commit":      {kfake.Fault{Keys: []kmsg.Key{kmsg.OffsetCommit}, Group: topics.SpendGroup + "-outbox"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			cluster := kafkatest.Start(t)
			test.stuck.Err, test.stuck.Count = kerr.TopicAuthorizationFailed, -1
			fault := cluster.Fault(test.stuck)
			c := child(t, cluster.Kafka, "one")
			feed(t, cluster, 0, each)
			waitWritten(t, cluster, 2*each*workspaces)
			kafkatest.Wait(t, patience, "the fault", func() error {
				if fault.Hits() == 0 {
					return errors.New("no hit")
				}
				return nil
			})
			kill(c)
			before, _ := raised(t, cluster)
			if (len(before) == 0) != test.once {
				t.Errorf("alerts before the kill: %v", before)
			}
			fault.Remove()
			survivor, _ := start(t, cluster.Kafka, "one")
			waitSums(t, survivor, each)
			records := waitRaised(t, cluster, each)
			if alerts := 4 * workspaces; records < alerts || test.once && records != alerts {
				t.Errorf("%d records for %d alerts", records, alerts)
			}
			t.Logf("%d records for %d alerts", records, 4*workspaces)
		})
	}
}
