package gokakit_test

import (
	"fmt"
	gohash "hash"
	"testing"

	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/processors/gokakit"
	"github.com/rateguard/rateguard/topics/hash"
)

// unmasked is murmur2 without the mask: goka negates what is negative, the Java client masks it.
type unmasked struct {
	gohash.Hash32
	key []byte
}

func (u *unmasked) Write(p []byte) (int, error) { u.key = p; return len(p), nil }
func (u *unmasked) Sum32() uint32               { return hash.Murmur2(u.key) }

// T5: with goka's own hasher most keys' state is written to another partition than it is read from.
func TestKeysAreOnThePartitionOfTheirProducers(t *testing.T) {
	const n = 8
	for name, test := range map[string]struct {
		hasher     func() gohash.Hash32
		fewest     int
		startsOnIt bool
	}{
		"goka's FNV-1a":            {func() gohash.Hash32 { return fnv1a() }, 800, false},
		"murmur2 without the mask": {func() gohash.Hash32 { return new(unmasked) }, 100, false},
		"the kit's murmur2":        {gokakit.NewHasher, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			misplaced := 0
			for i := range 1000 {
				key := fmt.Sprintf("ws_%d", i)
				if gokakit.GokaPartition(test.hasher, key, n) != hash.Partition([]byte(key), n) {
					misplaced++
				}
			}
			if misplaced < test.fewest || test.startsOnIt && misplaced > 0 {
				t.Errorf("misplaced keys: got %d of 1000, want at least %d", misplaced, test.fewest)
			}
			if err := gokakit.SelfTest(test.hasher, 48); (err == nil) != test.startsOnIt {
				t.Errorf("self-test: got %v, want success %v", err, test.startsOnIt)
			}
		})
	}
}

func TestHasherIsThePartitionFunctionForAnyKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.String().Draw(t, "key")
		n := rapid.Int32Range(1, 200).Draw(t, "partitions")
		if got, want := gokakit.GokaPartition(gokakit.NewHasher, key, n), hash.Partition([]byte(key), n); got != want {
			t.Fatalf("partition of %q among %d: got %d, want %d", key, n, got, want)
		}
	})
}
