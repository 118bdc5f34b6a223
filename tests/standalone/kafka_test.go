package standalone_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/standalone/kafka"
)

const (
	tableKeys   = 200
	tableRounds = 300
)

func broker(t *testing.T, dir string) (*kafka.Server, *kgo.Client) {
	t.Helper()
	s, err := kafka.Start(t.Context(), kafka.Config{Dir: dir, Progress: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatalf("starting the broker: %v", err)
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers()), kgo.ProducerBatchCompression(kgo.NoCompression()))
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func stop(t *testing.T, s *kafka.Server, c *kgo.Client) {
	t.Helper()
	c.Close()
	if err := s.Close(); err != nil {
		t.Fatalf("closing the broker: %v", err)
	}
}

// fill writes every key in many rounds, so that most of the log is superseded.
func fill(t *testing.T, c *kgo.Client) {
	t.Helper()
	compact := "compact"
	if _, err := kadm.NewClient(c).CreateTopic(t.Context(), 2, 1, map[string]*string{"cleanup.policy": &compact}, "table"); err != nil {
		t.Fatal(err)
	}
	pad := make([]byte, 700)
	for i := range pad {
		pad[i] = byte(rand.IntN(256))
	}
	for round := range tableRounds {
		for key := range tableKeys {
			value := append(fmt.Appendf(nil, "%d ", round), pad...)
			c.Produce(t.Context(), &kgo.Record{Topic: "table", Key: fmt.Appendf(nil, "key %d", key), Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("producing: %v", err)
				}
			})
		}
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// last reads the topic and returns its number of records and the last round of each key.
func last(t *testing.T, c *kgo.Client) (records int, rounds map[string]int) {
	t.Helper()
	ends, err := kadm.NewClient(c).ListEndOffsets(t.Context(), "table")
	if err != nil {
		t.Fatal(err)
	}
	from := map[int32]kgo.Offset{}
	open := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		from[o.Partition] = kgo.NewOffset().AtStart()
		if o.Offset > 0 {
			open[o.Partition] = o.Offset
		}
	})
	c.AddConsumePartitions(map[string]map[int32]kgo.Offset{"table": from})
	rounds = map[string]int{}
	for len(open) > 0 {
		fetches := c.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for r := range fetches.RecordsAll() {
			var round int
			if _, err := fmt.Sscan(string(r.Value[:5]), &round); err != nil {
				t.Fatal(err)
			}
			records++
			rounds[string(r.Key)] = round
			if r.Offset+1 >= open[r.Partition] {
				delete(open, r.Partition)
			}
		}
	}
	return records, rounds
}

func wantWhole(t *testing.T, rounds map[string]int) {
	t.Helper()
	if len(rounds) != tableKeys {
		t.Errorf("got %d keys, want %d", len(rounds), tableKeys)
	}
	for key, round := range rounds {
		if round != tableRounds-1 {
			t.Errorf("%s: got round %d, want %d", key, round, tableRounds-1)
		}
	}
}

func TestCompactionAtStartKeepsTheLastOfEachKey(t *testing.T) {
	dir := t.TempDir()
	s, c := broker(t, dir)
	fill(t, c)
	stop(t, s, c)
	s, c = broker(t, dir)
	records, rounds := last(t, c)
	stop(t, s, c)
	wantWhole(t, rounds)
	if records > tableKeys*tableRounds/4 {
		t.Errorf("%d of %d records are left: nothing was compacted", records, tableKeys*tableRounds)
	}
	for _, leftover := range []string{"log.new", "log.old"} {
		if _, err := os.Stat(filepath.Join(dir, leftover)); err == nil {
			t.Errorf("%s is left", leftover)
		}
	}
}

// Whichever step of the swap a kill interrupts, the next start has one whole log.
func TestAnUnfinishedCompactionIsUndone(t *testing.T) {
	for name, interrupt := range map[string]func(dir string) error{
		"while the copy was made": func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, "log.new", "partitions"), 0o700)
		},
		"between the renames": func(dir string) error {
			if err := os.MkdirAll(filepath.Join(dir, "log.new"), 0o700); err != nil {
				return err
			}
			return os.Rename(filepath.Join(dir, "log"), filepath.Join(dir, "log.old"))
		},
		"before the old log was removed": func(dir string) error {
			return os.MkdirAll(filepath.Join(dir, "log.old", "partitions"), 0o700)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, c := broker(t, dir)
			fill(t, c)
			stop(t, s, c)
			if err := interrupt(dir); err != nil {
				t.Fatal(err)
			}
			s, c = broker(t, dir)
			_, rounds := last(t, c)
			stop(t, s, c)
			wantWhole(t, rounds)
		})
	}
}

// Who was in a group when the broker stopped is not in it when it starts again, also where the member keeps its seat on leaving.
func TestABrokerStartsWithoutMembers(t *testing.T) {
	dir := t.TempDir()
	s, c := broker(t, dir)
	if _, err := kadm.NewClient(c).CreateTopic(t.Context(), 1, 1, nil, "topic"); err != nil {
		t.Fatal(err)
	}
	member, err := kgo.NewClient(
		kgo.SeedBrokers(s.Brokers()), kgo.ConsumerGroup("group"), kgo.InstanceID("standalone"), kgo.ConsumeTopics("topic"), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.ProduceSync(t.Context(), &kgo.Record{Topic: "topic"}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	read := member.PollFetches(t.Context()).Records()
	if len(read) != 1 {
		t.Fatalf("read %d records", len(read))
	}
	if err := member.CommitRecords(t.Context(), read...); err != nil {
		t.Fatal(err)
	}
	member.Close()
	if n := members(t, c); n != 1 {
		t.Fatalf("%d members are left before the broker stops, want the one that has a seat", n)
	}
	stop(t, s, c)
	s, c = broker(t, dir)
	if n := members(t, c); n != 0 {
		t.Errorf("%d members", n)
	}
	committed, err := kadm.NewClient(c).FetchOffsets(t.Context(), "group")
	if err != nil {
		t.Fatal(err)
	}
	if at, ok := committed.Lookup("topic", 0); !ok || at.At != 1 {
		t.Errorf("the group is at %+v, want 1", at)
	}
	stop(t, s, c)
}

// members is how many the group has.
func members(t *testing.T, c *kgo.Client) int {
	t.Helper()
	groups, err := kadm.NewClient(c).DescribeGroups(t.Context(), "group")
	if err != nil {
		t.Fatal(err)
	}
	return len(groups["group"].Members)
}
