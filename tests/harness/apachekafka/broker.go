// Package apachekafka starts a real Apache Kafka broker as a child process, from the jars
// that pom.xml names. The embedded broker shares our language and our reading of the
// protocol; this one does not, and it is what production runs.
package apachekafka

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/tests/harness/ports"
)

// Version is the release of Apache Kafka, as in pom.xml.
const Version = "4.4.0"

//go:embed pom.xml
var pom []byte

// Broker is one running broker in combined mode.
type Broker struct {
	dir     string
	jars    string
	address string
	cmd     *exec.Cmd
	exited  chan struct{}
}

// Start formats dir and starts a broker on it.
func Start(ctx context.Context, dir string) (*Broker, error) {
	jars, err := fetch(ctx)
	if err != nil {
		return nil, err
	}
	addresses, err := ports.Addresses(ctx, 2)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the data folder: %w", err)
	}
	b := &Broker{dir: dir, jars: jars, address: addresses[0]}
	if err := b.configure(addresses[0], addresses[1]); err != nil {
		return nil, err
	}
	format := b.command("kafka.tools.StorageTool", "format", "--standalone", "-t", "cmF0ZWd1YXJkLXRlc3QwMQ", "-c", b.properties())
	if out, err := format.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("formatting the broker's data: %w\n%s", err, out)
	}
	return b, b.Run(ctx)
}

// Brokers returns the bootstrap address.
func (b *Broker) Brokers() string { return b.address }

// Run starts the process on the existing data and waits until it answers.
func (b *Broker) Run(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(b.dir, "broker.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening the broker's log: %w", err)
	}
	b.cmd = b.command("-Xmx512m", "kafka.Kafka", b.properties())
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("starting Kafka: %w", err), log.Close())
	}
	exited := make(chan struct{})
	b.exited = exited
	go func(cmd *exec.Cmd) {
		defer close(exited)
		_ = cmd.Wait()
		_ = log.Close()
	}(b.cmd)
	if err := b.awaitReady(ctx); err != nil {
		return errors.Join(err, b.Close())
	}
	return nil
}

// Close ends the process at once, as a crash does. Its data stays for Run.
func (b *Broker) Close() error {
	err := b.cmd.Process.Kill()
	<-b.exited
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func (b *Broker) awaitReady(ctx context.Context) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address))
	if err != nil {
		return fmt.Errorf("making a client: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	ask := func() error {
		select {
		case <-b.exited:
			return backoff.Permanent(errors.New("the broker exited"))
		default:
		}
		_, err := kadm.NewClient(client).ListTopics(ctx)
		return err
	}
	if err := backoff.Retry(ask, backoff.WithContext(backoff.NewConstantBackOff(100*time.Millisecond), ctx)); err != nil {
		return fmt.Errorf("waiting for Kafka: %w\n%s", err, b.logTail())
	}
	return nil
}

func (b *Broker) configure(client, controller string) error {
	settings := []string{
		"process.roles=broker,controller",
		"node.id=1",
		fmt.Sprintf("listeners=PLAINTEXT://%s,CONTROLLER://%s", client, controller),
		fmt.Sprintf("advertised.listeners=PLAINTEXT://%s,CONTROLLER://%s", client, controller),
		"controller.listener.names=CONTROLLER",
		"controller.quorum.bootstrap.servers=" + controller,
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
		return fmt.Errorf("writing the broker's settings: %w", err)
	}
	return nil
}

func (b *Broker) properties() string { return filepath.Join(b.dir, "server.properties") }

func (b *Broker) command(args ...string) *exec.Cmd {
	// Bound to no context: Close ends it, and the death of this process does.
	cmd := exec.Command("java", append([]string{"-cp", b.jars + "/*"}, args...)...)
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
func fetch(ctx context.Context) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the cache: %w", err)
	}
	jars := filepath.Join(cache, "rateguard", "apachekafka-"+Version)
	if _, err := os.Stat(jars); err == nil {
		return jars, nil
	}
	partial := fmt.Sprintf("%s.%d", jars, os.Getpid())
	if err := os.MkdirAll(partial, 0o750); err != nil {
		return "", fmt.Errorf("making the folder of the jars: %w", err)
	}
	defer func() { _ = os.RemoveAll(partial) }()
	if err := os.WriteFile(filepath.Join(partial, "pom.xml"), pom, 0o600); err != nil {
		return "", fmt.Errorf("writing pom.xml: %w", err)
	}
	mvn := exec.CommandContext(ctx, "mvn", "-q", "-B",
		"org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies", "-DoutputDirectory="+partial)
	mvn.Dir = partial
	if out, err := mvn.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetching Apache Kafka with Maven: %w\n%s", err, out)
	}
	if err := os.Rename(partial, jars); err != nil {
		if _, other := os.Stat(jars); other != nil {
			return "", fmt.Errorf("moving the jars: %w", err)
		}
	}
	return jars, nil
}
