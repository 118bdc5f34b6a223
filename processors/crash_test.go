package processors_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kadm"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/processors"
	"github.com/rateguard/rateguard/processors/internal/kafkatest"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/provision"
)

// Environment of a child process: where its broker is and what it is called.
const (
	childBrokers  = "RATEGUARD_TEST_CHILD_BROKERS"
	childInstance = "RATEGUARD_TEST_CHILD_INSTANCE"
)

// TestMain runs the role instead of the tests in a child, which a test may then kill or stop.
func TestMain(m *testing.M) {
	if brokers := os.Getenv(childBrokers); brokers != "" {
		os.Exit(runChild(brokers, os.Getenv(childInstance)))
	}
	os.Exit(m.Run())
}

func runChild(brokers, instance string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	c := processors.Config{Kafka: broker.Config{Brokers: brokers}, Instance: instance, Session: 2 * time.Second}
	s, err := processors.New(ctx, c, slog.New(slog.NewTextHandler(os.Stderr, nil)), prometheus.NewRegistry())
	if err == nil {
		err = s.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// child starts the role in a process of its own, which is dead at the end of the test at the latest.
func child(t *testing.T, kafka broker.Config, instance string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("finding the test binary: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), childBrokers+"="+kafka.Brokers, childInstance+"="+instance)
	cmd.Stderr = testWriter{t}
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting a child: %v", err)
	}
	t.Cleanup(func() { kill(cmd) })
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// written returns how many records the table's topic has got so far.
func written(t *testing.T, cluster *kafkatest.Cluster) int64 {
	t.Helper()
	ends, err := cluster.Admin.ListEndOffsets(t.Context(), topics.SpendTable.Name)
	if err != nil {
		t.Fatalf("listing offsets: %v", err)
	}
	var n int64
	ends.Each(func(o kadm.ListedOffset) { n += o.Offset })
	return n
}

// waitWritten waits until the table's topic has got that many records.
func waitWritten(t *testing.T, cluster *kafkatest.Cluster, n int64) {
	t.Helper()
	kafkatest.Wait(t, patience, "progress", func() error {
		if got := written(t, cluster); got < n {
			return fmt.Errorf("%d table records, want %d", got, n)
		}
		return nil
	})
}

const workspaces = 20

// feed appends n reservations of a producer to every workspace, from the from-th on, in small batches.
func feed(t *testing.T, cluster *kafkatest.Cluster, from, n int) {
	t.Helper()
	for done := 0; done < n; done += 10 {
		var batch []*rateguardv1.Event
		for w := range workspaces {
			batch = append(batch, life("p1", name(w), from+done, min(10, n-done))...)
		}
		cluster.Produce(t, topics.Costs, batch...)
	}
}

func name(w int) string { return fmt.Sprintf("ws_%d", w) }

// digest returns a hash of the last record of every key of the table, and how often a record took its key back.
func digest(t *testing.T, cluster *kafkatest.Cluster) (sum string, regressions int) {
	t.Helper()
	last := map[string][]byte{}
	offset := map[string]int64{}
	for _, r := range cluster.Read(t, topics.SpendTable.Name) {
		v := new(rateguardv1.TableValue)
		if err := proto.Unmarshal(r.Value, v); err != nil {
			t.Fatalf("reading the table: %v", err)
		}
		key := string(r.Key)
		if v.GetApplied()[0].GetOffset() < offset[key] {
			regressions++
		}
		last[key], offset[key] = r.Value, v.GetApplied()[0].GetOffset()
	}
	h := sha256.New()
	for _, key := range slices.Sorted(maps.Keys(last)) {
		fmt.Fprintf(h, "%q %x\n", key, last[key])
	}
	return fmt.Sprintf("%x", h.Sum(nil)), regressions
}

func waitSums(t *testing.T, server *processors.Server, n int) {
	t.Helper()
	for w := range workspaces {
		kafkatest.Wait(t, patience, "sums", func() error { return has(t.Context(), server, name(w), n) })
	}
}

func TestKilledProcessesNeitherLoseNorDouble(t *testing.T) {
	cluster := kafkatest.Start(t)
	const each = 500 // two records each, 20,000 in all
	fed := make(chan struct{})
	go func() { defer close(fed); feed(t, cluster, 0, each) }()
	for i := range 8 {
		c := child(t, cluster.Kafka, "one")
		waitWritten(t, cluster, int64(i+1)*2000)
		kill(c)
	}
	<-fed
	survivor, _ := start(t, cluster.Kafka, "one")
	waitSums(t, survivor, each)
	t.Logf("%d records for %d alerts", waitRaised(t, cluster, each), 4*workspaces)
	t.Logf("%d table records for %d inputs", written(t, cluster), 2*each*workspaces)
}

func TestAPausedProcessCannotTakeTheStateBack(t *testing.T) {
	cluster := kafkatest.Start(t)
	const each = 300
	zombie := child(t, cluster.Kafka, "zombie")
	fed := make(chan struct{})
	go func() { defer close(fed); feed(t, cluster, 0, each) }()
	waitWritten(t, cluster, 2000)
	if err := zombie.Process.Signal(syscall.SIGSTOP); err != nil { // far past its session of 2 s
		t.Fatalf("stopping: %v", err)
	}
	heir, stop := start(t, cluster.Kafka, "heir")
	<-fed
	waitSums(t, heir, each)
	if err := zombie.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatalf("continuing: %v", err)
	}
	feed(t, cluster, each, each)
	waitSums(t, heir, 2*each)
	kill(zombie)
	stop()
	again, _ := start(t, cluster.Kafka, "heir")
	waitSums(t, again, 2*each)
	t.Logf("%d records for %d alerts", waitRaised(t, cluster, 2*each), 4*workspaces)
	_, regressions := digest(t, cluster)
	t.Logf("the zombie wrote %d stale records", regressions)
}

func TestTheTableIsTheSameAfterAWipe(t *testing.T) {
	cluster := kafkatest.Start(t)
	const each = 50 // 1,225 nano-USD: one alert each
	feed(t, cluster, 0, each)
	server, stop := start(t, cluster.Kafka, "one")
	waitSums(t, server, each)
	waitRaised(t, cluster, each)
	stop()
	want, _ := digest(t, cluster)

	t.Run("of the local store", func(t *testing.T) { // every start is one
		server, stop := start(t, cluster.Kafka, "one")
		waitSums(t, server, each)
		waitRaised(t, cluster, each)
		stop()
		if got, _ := digest(t, cluster); got != want {
			t.Errorf("digest: got %s, want %s", got, want)
		}
	})
	t.Run("of the table and the group", func(t *testing.T) {
		if _, err := cluster.Admin.DeleteTopic(t.Context(), topics.SpendTable.Name); err != nil {
			t.Fatalf("deleting the table: %v", err)
		}
		// A static member does not leave: its session has to end first.
		kafkatest.Wait(t, patience, "the group to be empty", func() error {
			_, err := cluster.Admin.DeleteGroup(t.Context(), topics.SpendGroup)
			return err
		})
		s := provision.Settings{Partitions: kafkatest.Partitions, Replication: 1, MinInsync: 1}
		if err := provision.Apply(t.Context(), cluster.Admin, s); err != nil {
			t.Fatalf("provisioning: %v", err)
		}
		server, stop := start(t, cluster.Kafka, "two")
		waitSums(t, server, each)
		waitRaised(t, cluster, each)
		stop()
		if got, _ := digest(t, cluster); got != want {
			t.Errorf("digest: got %s, want %s", got, want)
		}
	})
}
