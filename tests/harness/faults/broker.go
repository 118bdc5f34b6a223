package faults

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Broker is a Kafka broker in a process of its own, which can be stopped.
type Broker struct {
	*Ordered
	// Address is host:port.
	Address string
}

// StartBroker starts a broker.
func StartBroker(tb testing.TB) *Broker {
	tb.Helper()
	b := &Broker{Ordered: startOrdered(tb, "broker", filepath.Join(tb.TempDir(), "broker.log"), nil)}
	b.Address = b.answer()
	return b
}

// Away breaks all connections to the broker, with what is under way on them, and every new one: unlike a stopped broker, it never gets what was sent to it meanwhile.
func (b *Broker) Away() { b.tb.Helper(); b.must("away") }

// Back ends Away.
func (b *Broker) Back() { b.tb.Helper(); b.must("back") }

// Refuse makes the broker refuse for good, as too large, what has a record of a type whose value is longer than that many bytes. Only one type is refused at a time.
func (b *Broker) Refuse(kind string, above int) {
	b.tb.Helper()
	b.must(fmt.Sprintf("refuse %s %d", kind, above))
}

// Take ends Refuse.
func (b *Broker) Take() { b.tb.Helper(); b.must("take") }

// Refused is how many produce requests were refused.
func (b *Broker) Refused() int {
	b.tb.Helper()
	n, err := strconv.Atoi(b.order("refused"))
	if err != nil {
		b.tb.Fatalf("asking a broker: %v", err)
	}
	return n
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
	holding, refusing := &holder{waits: map[string]*wait{}}, new(refusals)
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		produce, ok := r.(*kmsg.ProduceRequest)
		if !ok || !holding.holds() && !refusing.refuses() {
			return nil, nil, false
		}
		records := produced(c, produce)
		if answer, refused := refusing.control(produce, records); refused {
			return answer, nil, true
		}
		if w := holding.match(records); w != nil {
			c.SleepControl(func() { <-w.released })
		}
		return nil, nil, false
	})
	_, _ = fmt.Println(c.ListenAddrs()[0])
	obey(func(order string) string {
		switch word, rest, _ := strings.Cut(order, " "); word {
		case "refuse", "take", "refused":
			return refusing.follow(word, rest)
		case "away", "back":
			l.set(word == "away")
			return word
		default:
			return holding.follow(word, rest)
		}
	})
	return 0
}

// produced are the records that a client wants to be appended.
func produced(c *kfake.Cluster, r *kmsg.ProduceRequest) (all []*kgo.Record) {
	for _, t := range r.Topics {
		topic := t.Topic
		if topic == "" { // newer clients name topics by their ids
			if info := c.TopicIDInfo(t.TopicID); info != nil {
				topic = info.Topic
			}
		}
		for _, p := range t.Partitions {
			batches := kmsg.FetchResponseTopicPartition{Partition: p.Partition, RecordBatches: p.Records}
			read, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{Topic: topic, Partition: p.Partition}, &batches, kgo.DefaultDecompressor(), nil)
			all = append(all, read.Records...)
		}
	}
	return all
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
