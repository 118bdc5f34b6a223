package provision_test

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/provision"
)

var update = flag.Bool("update", false, "write the goldens of this package")

func newCluster(t *testing.T, brokers int) *kadm.Client {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(brokers))
	if err != nil {
		t.Fatalf("starting kfake: %v", err)
	}
	t.Cleanup(cluster.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(client.Close)
	return kadm.NewClient(client)
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatalf("writing golden: %v", err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("reading golden: %v", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs, run with -update and read the diff\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}

func TestApplyMakesEveryTopicOnce(t *testing.T) {
	for name, test := range map[string]struct {
		settings provision.Settings
		brokers  int
	}{
		"production": {provision.Production(), 3},
		"standalone": {provision.Standalone(), 1},
	} {
		t.Run(name, func(t *testing.T) {
			client := newCluster(t, test.brokers)
			if err := provision.Verify(t.Context(), client, test.settings); !errors.Is(err, provision.ErrDiffers) {
				t.Fatalf("verify on an empty cluster: got %v, want ErrDiffers", err)
			}
			if err := provision.Apply(t.Context(), client, test.settings); err != nil {
				t.Fatalf("apply: %v", err)
			}
			p, err := provision.NewPlan(t.Context(), client, test.settings)
			if err != nil {
				t.Fatalf("second plan: %v", err)
			}
			if !p.Empty() {
				t.Errorf("second plan: got %v, want no change", p.Changes)
			}
			n, err := provision.Shards(t.Context(), client)
			if err != nil || int(n) != test.settings.Partitions {
				t.Errorf("shards: got %d, %v, want %d", n, err, test.settings.Partitions)
			}
		})
	}
}

func TestPlanTextAndJSONAreStable(t *testing.T) {
	client := newCluster(t, 1)
	p, err := provision.NewPlan(t.Context(), client, provision.Standalone())
	if err != nil {
		t.Fatalf("plan: %v", err)
	}
	var text, js bytes.Buffer
	if err := errors.Join(p.WriteText(&text), p.WriteJSON(&js)); err != nil {
		t.Fatalf("writing: %v", err)
	}
	golden(t, "plan.txt", text.Bytes())
	golden(t, "plan.json", js.Bytes())
}

func TestDocIsTheTable(t *testing.T) {
	var b bytes.Buffer
	if err := provision.Doc(&b); err != nil {
		t.Fatalf("doc: %v", err)
	}
	golden(t, "doc.md", b.Bytes())
	for _, topic := range topics.All() {
		if !strings.Contains(b.String(), topic.Name) {
			t.Errorf("doc lacks %s", topic.Name)
		}
	}
}

func TestDriftIsNamedAndOnlySettingsAreRepaired(t *testing.T) {
	s := provision.Standalone()
	for name, test := range map[string]struct {
		drift    func(*testing.T, *kadm.Client)
		want     string
		conflict bool
	}{
		"a setting": {
			func(t *testing.T, c *kadm.Client) {
				t.Helper()
				set := []kadm.AlterConfig{{Name: "retention.ms", Value: kadm.StringPtr("1000")}}
				if _, err := c.AlterTopicConfigs(t.Context(), set, topics.Costs.Name); err != nil {
					t.Fatalf("drifting: %v", err)
				}
			}, topics.Costs.Name + ": retention.ms is 1000, want 34560000000", false,
		},
		"more partitions": {
			func(t *testing.T, c *kadm.Client) {
				t.Helper()
				if _, err := c.CreatePartitions(t.Context(), 1, topics.Requests.Name); err != nil {
					t.Fatalf("drifting: %v", err)
				}
			}, topics.Requests.Name + ": partitions is 9, want 8", true,
		},
		"a missing topic": {
			func(t *testing.T, c *kadm.Client) {
				t.Helper()
				if _, err := c.DeleteTopic(t.Context(), topics.Keys.Name); err != nil {
					t.Fatalf("drifting: %v", err)
				}
			}, topics.Keys.Name + ": topic is missing", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			client := newCluster(t, 1)
			if err := provision.Apply(t.Context(), client, s); err != nil {
				t.Fatalf("first apply: %v", err)
			}
			test.drift(t, client)
			err := provision.Verify(t.Context(), client, s)
			if !errors.Is(err, provision.ErrDiffers) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("verify: got %v, want it to say %q", err, test.want)
			}
			err = provision.Apply(t.Context(), client, s)
			if test.conflict {
				if !errors.Is(err, provision.ErrConflict) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("apply: got %v, want a conflict that says %q", err, test.want)
				}
				return
			}
			if err != nil {
				t.Errorf("apply: %v", err)
			}
			if err := provision.Verify(t.Context(), client, s); err != nil {
				t.Errorf("verify after apply: %v", err)
			}
		})
	}
}

func TestAConflictLeavesEverythingElseAlone(t *testing.T) {
	client := newCluster(t, 1)
	if _, err := client.CreateTopic(t.Context(), 3, 1, nil, topics.Costs.Name); err != nil {
		t.Fatalf("making the wrong topic: %v", err)
	}
	if err := provision.Apply(t.Context(), client, provision.Standalone()); !errors.Is(err, provision.ErrConflict) {
		t.Fatalf("apply: got %v, want ErrConflict", err)
	}
	there, err := client.ListTopics(t.Context())
	if err != nil {
		t.Fatalf("listing: %v", err)
	}
	if got := there.Names(); len(got) != 1 {
		t.Errorf("topics after a refused plan: got %v, want only the one that was there", got)
	}
}

func TestTwoStartsAtOnceBothSucceed(t *testing.T) {
	client := newCluster(t, 1)
	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { errs <- provision.Apply(t.Context(), client, provision.Standalone()) }()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Errorf("apply: %v", err)
		}
	}
}

func TestSettingsNameTheirFlag(t *testing.T) {
	for name, test := range map[string]struct {
		settings provision.Settings
		want     string
	}{
		"no partitions":       {provision.Settings{Partitions: 0, Replication: 1, MinInsync: 1}, "topic-partitions"},
		"no replicas":         {provision.Settings{Partitions: 1, Replication: 0, MinInsync: 1}, "topic-replication"},
		"insync above copies": {provision.Settings{Partitions: 1, Replication: 1, MinInsync: 2}, "topic-min-insync"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.settings.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want it to name %s", err, test.want)
			}
		})
	}
}
