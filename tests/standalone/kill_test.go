package standalone_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"
	goredis "github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/deploy/standalone/clickhouse"
	"github.com/rateguard/rateguard/deploy/standalone/kafka"
	"github.com/rateguard/rateguard/deploy/standalone/postgres"
	"github.com/rateguard/rateguard/deploy/standalone/redis"
)

// victim is the child process that owns an engine, writes to it and is killed.
const victim = "test-victim"

func init() { child.Register(victim, victimMain) }

// victimConfig is the standard input of a victim.
type victimConfig struct {
	Engine string
	Dir    string
	// Acks gets the engine's process id, then every number whose write was acknowledged.
	Acks string
}

func victimMain(in *os.File) int {
	var cfg victimConfig
	if err := json.NewDecoder(in).Decode(&cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	acks, err := os.OpenFile(cfg.Acks, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx := context.Background()
	s, err := open(ctx, cfg.Engine, cfg.Dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fmt.Fprintln(acks, "pid", s.pid)
	for n := s.first; ; n++ {
		if err := s.write(ctx, n); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		fmt.Fprintln(acks, n)
	}
}

// store is an engine in the shape that the test needs.
type store struct {
	pid, first int
	write      func(context.Context, int) error
	read       func(context.Context) (map[int]bool, error)
	close      func() error
}

func open(ctx context.Context, engine, dir string) (*store, error) {
	switch engine {
	case "postgres":
		return openPostgres(ctx, dir)
	case "redis":
		return openRedis(ctx, dir)
	case "kafka":
		return openKafka(ctx, dir)
	case "clickhouse":
		return openClickHouse(ctx, dir)
	default:
		return nil, fmt.Errorf("no engine %q", engine)
	}
}

func openPostgres(ctx context.Context, dir string) (*store, error) {
	s, err := postgres.Start(ctx, postgres.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return nil, err
	}
	if _, err := conn.Exec(ctx, "CREATE TABLE IF NOT EXISTS n (n bigint PRIMARY KEY)"); err != nil {
		return nil, err
	}
	return &store{
		pid: s.PID(),
		write: func(ctx context.Context, n int) error {
			_, err := conn.Exec(ctx, "INSERT INTO n VALUES ($1)", n)
			return err
		},
		read: func(ctx context.Context) (map[int]bool, error) {
			rows, err := conn.Query(ctx, "SELECT n FROM n")
			if err != nil {
				return nil, err
			}
			all, err := pgx.CollectRows(rows, pgx.RowTo[int])
			return set(all), err
		},
		close: func() error {
			if err := conn.Close(ctx); err != nil {
				return err
			}
			return s.Close()
		},
	}, nil
}

func openRedis(ctx context.Context, dir string) (*store, error) {
	s, err := redis.Start(ctx, redis.Config{Dir: dir, NoFallback: true})
	if err != nil {
		return nil, err
	}
	options, err := goredis.ParseURL(s.URL())
	if err != nil {
		return nil, err
	}
	c := goredis.NewClient(options)
	return &store{
		pid:   s.PID(),
		write: func(ctx context.Context, n int) error { return c.SAdd(ctx, "n", n).Err() },
		read: func(ctx context.Context) (map[int]bool, error) {
			members, err := c.SMembers(ctx, "n").Result()
			if err != nil {
				return nil, err
			}
			var all []int
			for _, m := range members {
				n, err := strconv.Atoi(m)
				if err != nil {
					return nil, err
				}
				all = append(all, n)
			}
			return set(all), nil
		},
		close: func() error {
			if err := c.Close(); err != nil {
				return err
			}
			return s.Close()
		},
	}, nil
}

func openKafka(ctx context.Context, dir string) (*store, error) {
	s, err := kafka.Start(ctx, kafka.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(s.Brokers()), kgo.DefaultProduceTopic("n"), kgo.ProducerLinger(0))
	if err != nil {
		return nil, err
	}
	if _, err := kadm.NewClient(c).CreateTopic(ctx, 1, 1, nil, "n"); err != nil && !strings.Contains(err.Error(), "already exists") {
		return nil, err
	}
	return &store{
		pid: os.Getpid(), // the broker lives in the process itself
		write: func(ctx context.Context, n int) error {
			return c.ProduceSync(ctx, kgo.StringRecord(strconv.Itoa(n))).FirstErr()
		},
		read: func(ctx context.Context) (map[int]bool, error) {
			ends, err := kadm.NewClient(c).ListEndOffsets(ctx, "n")
			if err != nil {
				return nil, err
			}
			end, _ := ends.Lookup("n", 0)
			c.AddConsumePartitions(map[string]map[int32]kgo.Offset{"n": {0: kgo.NewOffset().AtStart()}})
			var all []int
			for at := int64(0); at < end.Offset; {
				fetches := c.PollFetches(ctx)
				if err := fetches.Err(); err != nil {
					return nil, err
				}
				for r := range fetches.RecordsAll() {
					n, err := strconv.Atoi(string(r.Value))
					if err != nil {
						return nil, err
					}
					all, at = append(all, n), r.Offset+1
				}
			}
			return set(all), nil
		},
		close: func() error {
			c.Close()
			return s.Close()
		},
	}, nil
}

func openClickHouse(ctx context.Context, dir string) (*store, error) {
	s, err := clickhouse.Start(ctx, clickhouse.Config{Dir: dir})
	if err != nil {
		return nil, err
	}
	options, err := ch.ParseDSN(s.URL())
	if err != nil {
		return nil, err
	}
	c, err := ch.Open(options)
	if err != nil {
		return nil, err
	}
	if err := c.Exec(ctx, "CREATE TABLE IF NOT EXISTS n (n Int64) ENGINE = MergeTree ORDER BY n"); err != nil {
		return nil, err
	}
	return &store{
		pid: s.PID(),
		write: func(ctx context.Context, n int) error {
			b, err := c.PrepareBatch(ctx, "INSERT INTO n")
			if err != nil {
				return err
			}
			if err := b.Append(int64(n)); err != nil {
				return err
			}
			return b.Send()
		},
		read: func(ctx context.Context) (map[int]bool, error) {
			var all []struct {
				N int64 `ch:"n"`
			}
			if err := c.Select(ctx, &all, "SELECT n FROM n"); err != nil {
				return nil, err
			}
			got := map[int]bool{}
			for _, r := range all {
				got[int(r.N)] = true
			}
			return got, nil
		},
		close: func() error {
			if err := c.Close(); err != nil {
				return err
			}
			return s.Close()
		},
	}, nil
}

func set(all []int) map[int]bool {
	m := map[int]bool{}
	for _, n := range all {
		m[n] = true
	}
	return m
}

// Whatever was acknowledged is there after kill -9 of the process that owned the engine, nothing of it
// runs on, and the next start is quick. Redis promises less: it may forget the end of what it acknowledged,
// when the kill comes during a slow fsync, but nothing from the middle.
func TestKillKeepsWhatWasAcknowledgedAndLeavesNothingBehind(t *testing.T) {
	for _, engine := range []string{"postgres", "redis", "kafka", "clickhouse"} {
		t.Run(engine, func(t *testing.T) {
			dir := t.TempDir()
			acks := filepath.Join(t.TempDir(), "acks")
			kill(t, victimConfig{Engine: engine, Dir: dir, Acks: acks}, 40)
			pid, acknowledged := readAcks(t, acks)
			waitGone(t, pid)

			begin := time.Now()
			s, err := open(t.Context(), engine, dir)
			if err != nil {
				t.Fatalf("starting again: %v", err)
			}
			took := time.Since(begin)
			defer func() {
				if err := s.close(); err != nil {
					t.Errorf("closing: %v", err)
				}
			}()
			if limit := 30 * time.Second; took > limit {
				t.Errorf("starting again took %s, want at most %s", took, limit)
			}
			got, err := s.read(t.Context())
			if err != nil {
				t.Fatalf("reading back: %v", err)
			}
			forgot := false
			for _, n := range acknowledged {
				switch {
				case got[n] && forgot:
					t.Errorf("%d is there and one that was acknowledged before it is not", n)
				case !got[n] && engine != "redis":
					t.Errorf("%d was acknowledged and is lost", n)
				case !got[n]:
					forgot = true
				}
			}
			t.Logf("%d acknowledged, %d there, started again in %s", len(acknowledged), len(got), took)
		})
	}
}

// kill lets a victim write until it has so many acknowledgements, then kills it.
func kill(t *testing.T, cfg victimConfig, atLeast int) {
	t.Helper()
	input, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p, err := child.Exec(t.Context(), child.Spec{
		Name: victim, Input: append(input, '\n'),
		Ready: func(context.Context) error {
			raw, err := os.ReadFile(cfg.Acks)
			if err != nil {
				return err
			}
			if n := strings.Count(string(raw), "\n"); n <= atLeast {
				return fmt.Errorf("%d acknowledgements", n)
			}
			return nil
		},
	})
	if err != nil {
		t.Fatalf("running the victim: %v", err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
}

func readAcks(t *testing.T, path string) (pid int, numbers []int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "pid "); ok {
			if pid, err = strconv.Atoi(rest); err != nil {
				t.Fatal(err)
			}
			continue
		}
		n, err := strconv.Atoi(s.Text())
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	return pid, numbers
}

// waitGone waits until a process is no more; a zombie that its new parent has not collected is none.
func waitGone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for ; ; <-ticker.C {
		if syscall.Kill(pid, 0) != nil || zombie(pid) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d outlives its killed parent", pid)
		}
	}
}

func zombie(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}
