// Package apachekafka starts a real Apache Kafka broker as a child process, from the jars
// that pom.xml names. The embedded broker shares our language and our reading of the
// protocol; this one does not, and it is what production runs.
package apachekafka

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Version is the release of Apache Kafka, as in pom.xml.
const Version = "4.4.0"

//go:embed pom.xml
var pom []byte

// Broker is one running broker in combined mode.
type Broker struct {
	tb      testing.TB
	dir     string
	jars    string
	address string
	cmd     *exec.Cmd
	exited  chan struct{}
}

// Start formats a data folder below tb's temporary folder and starts a broker that ends with the test.
func Start(tb testing.TB) *Broker {
	tb.Helper()
	ports := freePorts(tb, 2)
	b := &Broker{tb: tb, dir: tb.TempDir(), jars: fetch(tb), address: fmt.Sprintf("127.0.0.1:%d", ports[0])}
	b.configure(ports[0], ports[1])
	b.java("kafka.tools.StorageTool", "format", "--standalone", "-t", "cmF0ZWd1YXJkLXRlc3QwMQ", "-c", b.properties())
	b.Run()
	tb.Cleanup(b.Kill)
	return b
}

// Brokers returns the bootstrap address.
func (b *Broker) Brokers() string { return b.address }

// Run starts the process on the existing data and waits until it answers.
func (b *Broker) Run() {
	b.tb.Helper()
	log, err := os.OpenFile(filepath.Join(b.dir, "broker.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.tb.Fatalf("opening the broker's log: %v", err)
	}
	b.cmd = b.command("-Xmx512m", "kafka.Kafka", b.properties())
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.cmd.Start(); err != nil {
		b.tb.Fatalf("starting Kafka: %v", err)
	}
	exited := make(chan struct{})
	b.exited = exited
	go func(cmd *exec.Cmd) {
		defer close(exited)
		_ = cmd.Wait()
		_ = log.Close()
	}(b.cmd)
	b.waitReady()
}

// Kill ends the process at once, as a crash does. Its data stays for Run.
func (b *Broker) Kill() {
	_ = b.cmd.Process.Kill()
	<-b.exited
}

func (b *Broker) waitReady() {
	b.tb.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address))
	if err != nil {
		b.tb.Fatalf("making a client: %v", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(b.tb.Context(), 90*time.Second)
	defer cancel()
	ask := func() error {
		select {
		case <-b.exited:
			return backoff.Permanent(fmt.Errorf("the broker exited:\n%s", b.logTail()))
		default:
		}
		_, err := kadm.NewClient(client).ListTopics(ctx)
		return err
	}
	if err := backoff.Retry(ask, backoff.WithContext(backoff.NewConstantBackOff(100*time.Millisecond), ctx)); err != nil {
		b.tb.Fatalf("waiting for Kafka: %v\n%s", err, b.logTail())
	}
}

func (b *Broker) configure(client, controller int) {
	b.tb.Helper()
	settings := []string{
		"process.roles=broker,controller",
		"node.id=1",
		fmt.Sprintf("listeners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", client, controller),
		fmt.Sprintf("advertised.listeners=PLAINTEXT://127.0.0.1:%d,CONTROLLER://127.0.0.1:%d", client, controller),
		"controller.listener.names=CONTROLLER",
		fmt.Sprintf("controller.quorum.bootstrap.servers=127.0.0.1:%d", controller),
		"log.dirs=" + filepath.Join(b.dir, "data"),
		"offsets.topic.replication.factor=1",
		"offsets.topic.num.partitions=4",
		"transaction.state.log.replication.factor=1",
		"transaction.state.log.min.isr=1",
		"share.coordinator.state.topic.replication.factor=1",
		"share.coordinator.state.topic.min.isr=1",
		"group.initial.rebalance.delay.ms=0",
		"group.min.session.timeout.ms=1000",
		"auto.create.topics.enable=false",
		// A killed node otherwise waits 9 s for its own old registration.
		"broker.session.timeout.ms=2000",
		"broker.heartbeat.interval.ms=500",
	}
	if err := os.WriteFile(b.properties(), []byte(strings.Join(settings, "\n")+"\n"), 0o600); err != nil {
		b.tb.Fatalf("writing the broker's settings: %v", err)
	}
}

func (b *Broker) properties() string { return filepath.Join(b.dir, "server.properties") }

func (b *Broker) java(args ...string) {
	b.tb.Helper()
	if out, err := b.command(args...).CombinedOutput(); err != nil {
		b.tb.Fatalf("java %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (b *Broker) command(args ...string) *exec.Cmd {
	// Not bound to the test's context: the broker must outlive it until the last cleanup has run.
	cmd := exec.Command("java", append([]string{"-cp", b.jars + "/*"}, args...)...) //nolint:gosec,noctx // arguments are this package's own
	cmd.Dir = b.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (b *Broker) logTail() string {
	log, err := os.ReadFile(filepath.Join(b.dir, "broker.log"))
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-4000):])
}

// fetch returns the folder of the jars; Maven fills it once for each version.
func fetch(tb testing.TB) string {
	tb.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		tb.Fatalf("finding the cache: %v", err)
	}
	jars := filepath.Join(cache, "rateguard", "apachekafka-"+Version)
	if _, err := os.Stat(jars); err == nil {
		return jars
	}
	work := tb.TempDir()
	if err := os.WriteFile(filepath.Join(work, "pom.xml"), pom, 0o600); err != nil {
		tb.Fatalf("writing pom.xml: %v", err)
	}
	partial := fmt.Sprintf("%s.%d", jars, os.Getpid())
	mvn := exec.CommandContext(tb.Context(), "mvn", "-q", "-B", //nolint:gosec // arguments are this package's own
		"org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies", "-DoutputDirectory="+partial)
	mvn.Dir = work
	if out, err := mvn.CombinedOutput(); err != nil {
		tb.Fatalf("fetching Apache Kafka with Maven: %v\n%s", err, out)
	}
	if err := os.Rename(partial, jars); err != nil {
		if _, other := os.Stat(jars); other != nil {
			tb.Fatalf("moving the jars: %v", err)
		}
	}
	return jars
}

// freePorts takes all ports at once: taken one by one, the kernel may give the same one twice.
func freePorts(tb testing.TB, n int) []int {
	tb.Helper()
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // closed below
		if err != nil {
			tb.Fatalf("taking a port: %v", err)
		}
		defer func() { _ = l.Close() }()
		ports[i] = l.Addr().(*net.TCPAddr).Port //nolint:errcheck // a TCP listener has a TCP address
	}
	return ports
}
