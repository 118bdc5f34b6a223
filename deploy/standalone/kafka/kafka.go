// Package kafka runs a single broker in this process, with its log on disk: what `rateguard
// up` uses when no Kafka is configured. It speaks Kafka's protocol on the loopback
// address; nothing else of the project knows that it is not Apache Kafka.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/rateguard/rateguard/deploy/standalone/fetch"
)

const (
	// never turns the broker's own cleaner off: it deletes segments before it writes their
	// successors, so a kill in between loses every key of the topic.
	never = 365 * 24 * time.Hour
	// retentionInterval is how often expired segments of topics with a retention are dropped.
	retentionInterval = 10 * time.Minute
	// maxBatchBytes bounds one produced batch where a topic does not say so.
	maxBatchBytes = 16 << 20
	// minSession lets groups notice a dead member quickly.
	minSession = time.Second
)

// Config says where the broker keeps its log.
type Config struct {
	// Dir holds the log; it is created.
	Dir string
	// Log gets the broker's warnings; nil: nothing.
	Log *slog.Logger
	// Progress is told when compacted topics are rewritten; nil: nothing.
	Progress fetch.Progress
}

// Server is a running broker.
type Server struct {
	cluster *kfake.Cluster
	address string
	stop    chan struct{}
	done    chan struct{}
	once    sync.Once
}

// Start starts the broker on the log of cfg.Dir, whose compacted topics it first rewrites when
// they have grown much.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the log folder: %w", err)
	}
	c := compactor{dir: cfg.Dir, log: cfg.Log, progress: cfg.Progress}
	if err := c.recover(); err != nil {
		return nil, err
	}
	if err := forgetMembers(c.live()); err != nil {
		return nil, err
	}
	if err := c.run(ctx); err != nil {
		// The log is as it was; a start with an uncompacted log is better than none.
		cfg.Log.Error("compacting the log", slog.Any("error", err))
	}
	cluster, err := open(c.live(), &logger{log: cfg.Log})
	if err != nil {
		return nil, fmt.Errorf("starting the embedded broker: %w", err)
	}
	addresses := cluster.ListenAddrs()
	if len(addresses) != 1 {
		cluster.Close()
		return nil, errors.New("starting the embedded broker: it has no address")
	}
	s := &Server{cluster: cluster, address: addresses[0], stop: make(chan struct{}), done: make(chan struct{})}
	go s.retain()
	return s, nil
}

// forgetMembers makes a start after a clean stop one like any other, of groups that nobody is in. The broker would keep the members
// of its former life, which have all ended, until their sessions do; and when the session of one ends in the instant in which its
// successor joins under the same instance id, it is taken off twice, and nobody can join that group again.
func forgetMembers(dir string) error {
	if err := os.Remove(filepath.Join(dir, "session_state.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the sessions of the embedded broker: %w", err)
	}
	return nil
}

// open starts the broker on a folder.
func open(dir string, log kfake.Logger) (*kfake.Cluster, error) {
	return kfake.NewCluster(
		kfake.Ports(0), kfake.ClusterID("rateguard"), kfake.DataDir(dir), kfake.SyncWrites(), kfake.WithLogger(log),
		kfake.GroupMinSessionTimeout(minSession),
		kfake.BrokerConfigs(map[string]string{
			"log.cleaner.backoff.ms": strconv.FormatInt(never.Milliseconds(), 10),
			// The broker applies its default retention to compacted topics too, which would forget keys and
			// policies after a week: only topics that name a retention have one.
			"log.retention.ms":  "-1",
			"message.max.bytes": strconv.Itoa(maxBatchBytes),
			// Offsets of a group that is down for long are kept, as the topics' data are.
			"offsets.retention.minutes": strconv.FormatInt(int64(never/time.Minute), 10),
		}),
	)
}

// retain applies retentions; the broker's own ticker does not run for topics that it found on disk.
func (s *Server) retain() {
	defer close(s.done)
	ticker := time.NewTicker(retentionInterval)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
			s.cluster.ApplyRetention()
		}
	}
}

// Brokers returns the address to connect to, host:port.
func (s *Server) Brokers() string { return s.address }

// Done is closed when the broker is closed; it does not die alone.
func (s *Server) Done() <-chan struct{} { return s.done }

// Err returns nil: the broker lives and dies with this process.
func (s *Server) Err() error { return nil }

// Close writes the broker's state and stops it.
func (s *Server) Close() error {
	s.once.Do(func() {
		close(s.stop)
		<-s.done
		s.cluster.Close()
	})
	return nil
}

// live is the folder that the broker runs on.
func (c compactor) live() string { return filepath.Join(c.dir, "log") }
