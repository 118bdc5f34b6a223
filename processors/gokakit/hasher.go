package gokakit

import (
	"fmt"
	gohash "hash"

	"github.com/rateguard/rateguard/topics/hash"
)

// newHasher returns murmur2 for goka, whose own default is FNV-1a: goka reads state on the
// partition of the input and writes it on the partition of its hasher, so a wrong one loses
// most keys.
func newHasher() gohash.Hash32 { return new(murmur2) }

// murmur2 collects a key. goka writes a key once and reads the sum once.
type murmur2 struct{ key []byte }

var _ gohash.Hash32 = (*murmur2)(nil)

func (m *murmur2) Write(p []byte) (int, error) {
	m.key = append(m.key, p...)
	return len(p), nil
}

func (m *murmur2) Sum(b []byte) []byte {
	s := m.Sum32()
	return append(b, byte(s>>24), byte(s>>16), byte(s>>8), byte(s)) //nolint:gosec // the bytes of s, most significant first
}

// Sum32 masks the sign bit as the Java client does: goka negates a negative hash instead, which is another partition.
func (m *murmur2) Sum32() uint32 { return hash.Murmur2(m.key) & 0x7fffffff }

func (m *murmur2) Reset()         { m.key = m.key[:0] }
func (m *murmur2) Size() int      { return 4 }
func (m *murmur2) BlockSize() int { return 4 }

// gokaPartition is goka's arithmetic on a hasher, of processor, view and emitter alike.
func gokaPartition(newHasher func() gohash.Hash32, key string, n int32) int32 {
	h := newHasher()
	_, _ = h.Write([]byte(key))
	p := int32(h.Sum32()) //nolint:gosec // goka does so
	if p < 0 {
		p = -p
	}
	return p % n
}

// selfTest checks before any record is read that goka would find every partition's keys where the producers put them.
func selfTest(newHasher func() gohash.Hash32, n int32) error {
	for p := range n {
		for _, key := range []string{hash.PartitionKey(p, n), fmt.Sprintf("ws_%d", p)} {
			if got, want := gokaPartition(newHasher, key, n), hash.Partition([]byte(key), n); got != want {
				return fmt.Errorf("hasher self-test: key %q is on partition %d of %d for goka and on %d for its producers", key, got, n, want)
			}
		}
	}
	return nil
}
