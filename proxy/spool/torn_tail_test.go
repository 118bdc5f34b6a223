package spool_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

func decode(tb testing.TB, value []byte) *rateguardv1.Event {
	tb.Helper()
	e, err := envelope.Decode(value)
	must(tb, err)
	return e
}

// A segment cut or damaged at any byte keeps exactly the whole frames before that byte.
func TestTornTailAtEveryByte(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	s := open(t, config(t, dir, nil))
	ends := []int64{0} // ends[i] is the size of the segment after i frames
	for i := range 3 {
		must(t, failure(s.AppendOpen(opened(t, "ws_1", fmt.Sprintf("r%d", i), 10))))
		ends = append(ends, s.Stats().DiskBytes)
	}
	must(t, s.Close())
	ends[0] = 8
	segment := segmentsOf(t, dir)[0]
	whole, err := os.ReadFile(segment)
	must(t, err)
	rel, err := filepath.Rel(dir, segment)
	must(t, err)
	frames := func(n int) int64 {
		var c int64
		for _, e := range ends[1:] {
			if int64(n) >= e {
				c++
			}
		}
		return c
	}
	if int64(len(whole)) != ends[3] {
		t.Fatalf("segment of %d bytes, want %d", len(whole), ends[3])
	}
	for n := 0; n <= len(whole); n++ {
		cut := append([]byte(nil), whole[:n]...)
		checkTail(t, dir, rel, cut, frames(n), fmt.Sprintf("cut at %d", n))
		if n < len(whole) {
			flipped := append([]byte(nil), whole...)
			flipped[n] ^= 0x40
			checkTail(t, dir, rel, flipped, frames(n), fmt.Sprintf("byte %d flipped", n))
		}
	}
	checkTail(t, dir, rel, append(append([]byte(nil), whole...), make([]byte, 100)...), 3, "zeros behind the end")
}

func checkTail(t *testing.T, dir, rel string, content []byte, want int64, what string) {
	t.Helper()
	tmp, err := os.MkdirTemp(t.TempDir(), "spool")
	must(t, err)
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(tmp, rel)), 0o700))
	must(t, os.WriteFile(filepath.Join(tmp, rel), content, 0o600))
	meta := filepath.Join(filepath.Dir(rel), "producer.json")
	b, err := os.ReadFile(filepath.Join(dir, meta))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(tmp, meta), b, 0o600))
	c := config(t, tmp, nil)
	c.Log = discard()
	s := open(t, c)
	if got := s.Stats().Depth; got != want {
		t.Errorf("%s: %d records, want %d", what, got, want)
	}
	must(t, s.Close())
	must(t, os.RemoveAll(tmp))
}
