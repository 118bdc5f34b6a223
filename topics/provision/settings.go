// Package provision makes the topics of the table on a cluster and checks that they are as
// the table says. It is separate from the table because only operators, start-up and tests
// change a cluster; everybody else only reads names.
package provision

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"time"

	"github.com/rateguard/rateguard/topics"
)

// Settings are what differs between deployments; everything else stands in the table of topics.
type Settings struct {
	// Partitions of every sharded topic.
	Partitions int
	// Replication is the number of replicas of every partition.
	Replication int
	// MinInsync is the number of replicas that must hold a record before it is acknowledged.
	MinInsync int
}

// Production returns the settings of a cluster that survives the loss of any one broker.
func Production() Settings { return Settings{Partitions: 48, Replication: 3, MinInsync: 2} }

// Standalone returns the settings of a single broker.
func Standalone() Settings { return Settings{Partitions: 8, Replication: 1, MinInsync: 1} }

// Register adds the settings to a flag set.
func (s *Settings) Register(fs *flag.FlagSet) {
	fs.IntVar(&s.Partitions, "topic-partitions", s.Partitions, "partitions of every topic keyed by workspace; never changed in place")
	fs.IntVar(&s.Replication, "topic-replication", s.Replication, "replicas of every partition")
	fs.IntVar(&s.MinInsync, "topic-min-insync", s.MinInsync, "replicas that must have a record before it counts as written")
}

// maxPartitions is far above what one cluster serves well and far below an int32.
const maxPartitions = 1 << 16

// Validate returns every problem of the settings, joined.
func (s Settings) Validate() error {
	var errs []error
	if s.Partitions < 1 || s.Partitions > maxPartitions {
		errs = append(errs, fmt.Errorf("topic-partitions: %d is not between 1 and %d", s.Partitions, maxPartitions))
	}
	if s.Replication < 1 || s.Replication > 16 {
		errs = append(errs, fmt.Errorf("topic-replication: %d is not between 1 and 16", s.Replication))
	}
	if s.MinInsync < 1 || s.MinInsync > s.Replication {
		errs = append(errs, fmt.Errorf("topic-min-insync: %d is not between 1 and topic-replication", s.MinInsync))
	}
	return errors.Join(errs...)
}

// partitionsOf returns how many partitions a topic has under the settings.
func (s Settings) partitionsOf(t topics.Topic) int {
	if t.Sharded {
		return s.Partitions
	}
	return 1
}

// Names of the topic settings that are set.
const (
	cleanupPolicy     = "cleanup.policy"
	retentionMS       = "retention.ms"
	retentionBytes    = "retention.bytes"
	minCompactionLag  = "min.compaction.lag.ms"
	minCleanableDirty = "min.cleanable.dirty.ratio"
	segmentBytes      = "segment.bytes"
	segmentMS         = "segment.ms"
	maxMessageBytes   = "max.message.bytes"
	minInsync         = "min.insync.replicas"
)

// Compaction never touches the segment that is written to. Whoever reads a compacted topic
// from its start reads every record in it, so segments are small and rolled often.
const (
	compactSegmentBytes = 64 << 20
	compactSegmentAge   = 6 * time.Hour
	compactDirtyRatio   = "0.1"
)

// configOf returns the topic's settings by name. All that the promises rest on are set, so
// that no default of a broker can shorten a log.
func (s Settings) configOf(t topics.Topic) map[string]string {
	c := map[string]string{
		cleanupPolicy:   string(t.Cleanup),
		maxMessageBytes: strconv.Itoa(int(t.MaxMessageBytes)),
		minInsync:       strconv.Itoa(s.MinInsync),
	}
	if t.Cleanup == topics.Delete {
		c[retentionMS] = milliseconds(t.Retention)
		c[retentionBytes] = "-1"
		return c
	}
	c[minCompactionLag] = milliseconds(t.MinCompactionLag)
	c[minCleanableDirty] = compactDirtyRatio
	c[segmentBytes] = strconv.Itoa(compactSegmentBytes)
	c[segmentMS] = milliseconds(compactSegmentAge)
	return c
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
