package faults

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// brokerChild is set for a child of this program that is a broker: a process of its own can be stopped.
const brokerChild = "RATEGUARD_FAULTS_BROKER"

// Broker is a Kafka broker in a process of its own.
type Broker struct {
	*Child
	// Address is host:port.
	Address string

	orders  *os.File
	answers *bufio.Reader
}

// StartBroker starts a broker.
func StartBroker(tb testing.TB) *Broker {
	tb.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), os.Args[0])
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatalf("starting a broker: %v", err)
	}
	in, orders, err := os.Pipe()
	if err != nil {
		tb.Fatalf("starting a broker: %v", err)
	}
	cmd.Stdin = in
	b := &Broker{Child: start(tb, filepath.Join(tb.TempDir(), "broker.log"), []string{brokerChild + "=1"}, cmd), orders: orders, answers: bufio.NewReader(out)}
	_ = in.Close()
	tb.Cleanup(func() { _ = orders.Close() })
	b.Address = b.answer()
	return b
}

// Away breaks all connections to the broker, with what is under way on them, and every new one: unlike a stopped broker, it never gets what was sent to it meanwhile.
func (b *Broker) Away() { b.tb.Helper(); b.order("away") }

// Back ends Away.
func (b *Broker) Back() { b.tb.Helper(); b.order("back") }

func (b *Broker) order(word string) {
	b.tb.Helper()
	if got := b.ask(word); got != word {
		b.tb.Fatalf("a broker was ordered %q and answers %q", word, got)
	}
}

func (b *Broker) ask(order string) (answer string) {
	b.tb.Helper()
	if _, err := fmt.Fprintln(b.orders, order); err != nil {
		b.tb.Fatalf("ordering a broker: %v", err)
	}
	return b.answer()
}

func (b *Broker) answer() string {
	b.tb.Helper()
	line, err := b.answers.ReadString('\n')
	if err != nil {
		b.tb.Fatalf("waiting for a broker: %v", err)
	}
	return strings.TrimSpace(line)
}

// broker is the child: it says its address, and follows orders until there are no more.
func broker() int {
	l := &breakable{conns: map[net.Conn]bool{}}
	c, err := kfake.NewCluster(kfake.Ports(0), kfake.ClusterID("rateguard"), kfake.ListenFn(l.listen), kfake.GroupMinSessionTimeout(time.Second), kfake.BrokerConfigs(map[string]string{
		"log.retention.ms": "-1", "log.cleaner.backoff.ms": "86400000", "message.max.bytes": "16777216",
	}))
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Close()
	h := &holder{cluster: c, waits: map[string]*wait{}}
	c.ControlKey(int16(kmsg.Produce), h.control)
	_, _ = fmt.Println(c.ListenAddrs()[0])
	for orders := bufio.NewScanner(os.Stdin); orders.Scan(); {
		switch word, rest, _ := strings.Cut(orders.Text(), " "); word {
		case "away", "back":
			l.set(word == "away")
			_, _ = fmt.Println(word)
		default:
			_, _ = fmt.Println(h.follow(word, rest))
		}
	}
	return 0
}

// breakable is a listener whose connections break.
type breakable struct {
	net.Listener

	// mu guards what follows.
	mu    sync.Mutex
	away  bool
	conns map[net.Conn]bool
}

func (l *breakable) listen(network, address string) (net.Listener, error) {
	var err error
	l.Listener, err = new(net.ListenConfig).Listen(context.Background(), network, address)
	return l, err
}

// Accept returns the next connection that is not to break at once.
func (l *breakable) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		l.mu.Lock()
		away := l.away
		if !away {
			l.conns[c] = true
		}
		l.mu.Unlock()
		if !away {
			return &counted{Conn: c, of: l}, nil
		}
		_ = c.Close()
	}
}

// set breaks everything, or lets it be.
func (l *breakable) set(away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
	if away {
		for c := range l.conns {
			_ = c.Close() // what it has sent and nobody has read is gone
		}
	}
}

// counted is a connection that its listener knows.
type counted struct {
	net.Conn
	of *breakable
}

// Close ends it.
func (c *counted) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c.Conn)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
