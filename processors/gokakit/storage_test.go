package gokakit_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/lovoo/goka/storage"

	"github.com/rateguard/rateguard/processors/gokakit"
)

// T11: goka's memory storage sorts all keys whenever one is new.
func TestMillionsOfKeysAreStoredInSeconds(t *testing.T) {
	fill := func(s storage.Storage, n int) time.Duration {
		started := time.Now()
		for i := range n {
			if err := s.Set(fmt.Sprintf("%d", i*7919%n), []byte("v")); err != nil {
				t.Fatalf("storing: %v", err)
			}
		}
		return time.Since(started)
	}
	const n = 10_000
	plain, ours := fill(storage.NewMemory(), n), fill(gokakit.NewMapStorage(), n)
	if plain < 10*ours {
		t.Errorf("goka's memory storage took %s for %d keys and ours %s: the trap is gone", plain, n, ours)
	}
	if took := fill(gokakit.NewMapStorage(), 1_000_000); took > 10*time.Second {
		t.Errorf("a million keys took %s", took)
	}
}

// T10: goka's disk storage keeps its offset under a key of the table.
func TestNoKeyIsReserved(t *testing.T) {
	disk, err := storage.DefaultBuilder(t.TempDir())("table", 0)
	if err != nil {
		t.Fatalf("opening: %v", err)
	}
	for name, test := range map[string]struct {
		storage storage.Storage
		broken  bool
	}{
		"goka's disk storage": {disk, true},
		"ours":                {gokakit.NewMapStorage(), false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.storage.Set("__offset", []byte("a workspace of that name")); err != nil {
				t.Fatalf("storing: %v", err)
			}
			got, err := test.storage.GetOffset(-3)
			if broken := err != nil || got != -3; broken != test.broken {
				t.Errorf("offset: got %d, %v, want broken %v", got, err, test.broken)
			}
		})
	}
}

func TestStorageKeepsWhatItIsGiven(t *testing.T) {
	s := gokakit.NewMapStorage()
	for _, k := range []string{"b", "a", "c"} {
		if err := s.Set(k, []byte("v"+k)); err != nil {
			t.Fatalf("storing: %v", err)
		}
	}
	if err := s.Delete("c"); err != nil {
		t.Fatalf("deleting: %v", err)
	}
	if err := s.SetOffset(7); err != nil {
		t.Fatalf("setting the offset: %v", err)
	}
	if at, err := s.GetOffset(-3); err != nil || at != 7 {
		t.Errorf("offset: got %d, %v", at, err)
	}
	it, err := s.Iterator()
	if err != nil {
		t.Fatalf("iterating: %v", err)
	}
	got := ""
	for it.Next() {
		v, err := it.Value()
		got += fmt.Sprintf("%s=%s,%v ", it.Key(), v, err)
	}
	if want := "a=va,<nil> b=vb,<nil> "; got != want {
		t.Errorf("iterated: got %q, want %q", got, want)
	}
	if err := s.Set("k", nil); err == nil {
		t.Error("a nil value was stored")
	}
}
