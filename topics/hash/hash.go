// Package hash is the one function from a record's key to its partition: murmur2 as the
// Java client and franz-go compute it. goka's own default differs, hence the package.
package hash

import (
	"fmt"
	"strconv"
)

// Murmur2 returns Kafka's 32-bit murmur2 of the key
// (org.apache.kafka.common.utils.Utils.murmur2, seed 0x9747b28c).
func Murmur2(key []byte) uint32 {
	const (
		seed uint32 = 0x9747b28c
		m    uint32 = 0x5bd1e995
		r           = 24
	)
	h := seed ^ uint32(len(key)) //nolint:gosec // keys are far shorter than 4 GiB
	for len(key) >= 4 {
		k := uint32(key[0]) | uint32(key[1])<<8 | uint32(key[2])<<16 | uint32(key[3])<<24
		k *= m
		k ^= k >> r
		k *= m
		h *= m
		h ^= k
		key = key[4:]
	}
	switch len(key) {
	case 3:
		h ^= uint32(key[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(key[1]) << 8
		fallthrough
	case 1:
		h ^= uint32(key[0])
		h *= m
	}
	h ^= h >> 13
	h *= m
	h ^= h >> 15
	return h
}

// Partition returns the partition of a key among n, n > 0. The sign bit is masked as the Java client does.
func Partition(key []byte, n int32) int32 {
	return int32(Murmur2(key)&0x7fffffff) % n
}

// PartitionKey returns a key that Partition maps to p among n, always the same one:
// records that belong to a partition and not to a workspace are keyed by it. No workspace
// id starts with "~".
func PartitionKey(p, n int32) string {
	for i := 0; ; i++ {
		k := fmt.Sprintf("~p%d-%s", p, strconv.Itoa(i))
		if Partition([]byte(k), n) == p {
			return k
		}
	}
}

// IsPartitionKey reports whether the key is one of PartitionKey and no workspace.
func IsPartitionKey(key string) bool { return len(key) > 0 && key[0] == '~' }
