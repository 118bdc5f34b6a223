package spool_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const (
	writerDir     = "SPOOL_TEST_WRITER_DIR"
	writerBrokers = "SPOOL_TEST_WRITER_BROKERS"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerDir); dir != "" {
		writeForEver(dir, os.Getenv(writerBrokers))
	}
	os.Exit(m.Run())
}

// writeForEver is the child process: it appends and says so after each append that returned.
func writeForEver(dir, brokers string) {
	tb := &testing.B{}
	s, err := spool.Open(context.Background(), spool.Config{Dir: dir, Log: discard(), SegmentBytes: 32 << 10, Kafka: broker.Config{Brokers: brokers}})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	go func() { _ = s.Run(context.Background()) }()
	var wg sync.WaitGroup
	for g := range 3 {
		wg.Go(func() {
			for i := 0; ; i++ {
				id := fmt.Sprintf("r%d-%d", g, i)
				if _, err := s.AppendOpen(opened(tb, "ws_1", id, 10)); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				if _, err := os.Stdout.WriteString("open " + s.ProducerID() + " " + id + "\n"); err != nil {
					os.Exit(1)
				}
				if err := s.AppendEnd(1, ended(tb, "ws_1", id, 7)...); err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				if _, err := os.Stdout.WriteString("end " + s.ProducerID() + " " + id + "\n"); err != nil {
					os.Exit(1)
				}
			}
		})
	}
	wg.Wait()
}

// kill -9 at any moment, several lives on one folder, shipping under way: every append that returned
// stands in Kafka once behind the marks, and no sequence is missing.
func TestKillNineLosesNothing(t *testing.T) {
	k := startKafka(t)
	dir := filepath.Join(t.TempDir(), "spool")
	said := map[string]bool{}
	for life := range 4 {
		for _, line := range runUntilKilled(t, dir, k.config().Brokers, 300*(life+1)) {
			said[line] = true
		}
	}
	s := open(t, config(t, dir, k))
	run(t, s)
	flush(t, s)
	costs := consume(t, k.records(topics.Costs))
	if costs.missing() != 0 {
		t.Errorf("%d sequences missing", costs.missing())
	}
	got := map[string]int{}
	for _, e := range costs.applied {
		switch {
		case e.GetReservationOpened() != nil:
			got["open "+e.GetProducerId()+" "+e.GetReservationOpened().GetSubject().GetRequestId()]++
		case e.GetCostSettled() != nil:
			got["end "+e.GetProducerId()+" "+e.GetCostSettled().GetOutcome().GetSubject().GetRequestId()]++
		}
	}
	for line := range said {
		if got[line] != 1 {
			t.Errorf("%q is in the log %d times", line, got[line])
		}
	}
	rows := consume(t, k.records(topics.Requests))
	ends := 0
	for line, n := range got {
		if n != 1 {
			t.Errorf("%q is in the log %d times", line, n)
		}
		if strings.HasPrefix(line, "end ") {
			ends++
		}
	}
	if len(rows.applied) != ends || rows.missing() != 0 {
		t.Errorf("%d rows for %d ends, %d holes", len(rows.applied), ends, rows.missing())
	}
	t.Logf("%s appends returned, %d repeats dropped", strconv.Itoa(len(said)), costs.repeats)
}

// runUntilKilled starts a writer, kills it after n lines and returns what it said.
func runUntilKilled(t *testing.T, dir, brokers string, n int) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), writerDir+"="+dir, writerBrokers+"="+brokers)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	var lines []string
	sc := bufio.NewScanner(out)
	for sc.Scan() {
		if strings.HasPrefix(sc.Text(), "error") {
			t.Fatal(sc.Text())
		}
		lines = append(lines, sc.Text())
		if len(lines) == n {
			must(t, cmd.Process.Kill())
		}
	}
	_ = cmd.Wait()
	if len(lines) > 0 && strings.Count(lines[len(lines)-1], " ") < 2 {
		lines = lines[:len(lines)-1] // cut by the kill
	}
	return lines
}
