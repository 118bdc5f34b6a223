package spool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rateguard/rateguard/topics"
)

// A process that is killed between the beginning of a segment and its first frame leaves a place behind its last frame
// at which no frame ends. What waits for that place has to see that nothing is left, or later processes are never shipped.
func TestKilledBehindARotation(t *testing.T) {
	k := startKafka(t)
	for _, tc := range []struct {
		name string
		size int64 // of the last segment, in which no frame is
	}{{"before the header", 0}, {"in the header", 5}, {"behind the header", 8}} {
		t.Run(tc.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "spool")
			workspace := "ws_" + strings.ReplaceAll(tc.name, " ", "_")
			for life := range 2 {
				s := open(t, config(t, dir, nil))
				must(t, failure(s.AppendOpen(opened(t, workspace, fmt.Sprintf("r%d", life), 10))))
				id := s.ProducerID()
				must(t, s.Close())
				first := filepath.Join(dir, id, "0000000000000001.wal")
				content, err := os.ReadFile(first)
				must(t, err)
				must(t, os.WriteFile(filepath.Join(dir, id, "0000000000000002.wal"), content[:tc.size], 0o600))
			}
			s := open(t, config(t, dir, k))
			run(t, s)
			flush(t, s)
			n := 0
			for _, e := range consume(t, k.records(topics.Costs)).applied {
				if e.GetReservationOpened() != nil && e.GetWorkspaceId() == workspace {
					n++
				}
			}
			if n != 2 {
				t.Errorf("%d of 2 requests are in the log", n)
			}
		})
	}
}
