package hash_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/topics/hash"
)

// counts are the numbers of partitions that deployments use: one, standalone and production.
var counts = []int32{1, 8, 48}

// The file is made by golden/generate.sh with the Java client.
func TestHashIsTheJavaClients(t *testing.T) {
	b, err := os.ReadFile("testdata/murmur2.tsv")
	if err != nil {
		t.Fatalf("reading golden: %v", err)
	}
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	if len(lines) < 200 {
		t.Fatalf("golden has %d vectors, want at least 200", len(lines))
	}
	for _, line := range lines {
		f := strings.Split(line, "\t")
		key, err := hex.DecodeString(f[0])
		if err != nil || len(f) != 5 {
			t.Fatalf("bad vector %q: %v", line, err)
		}
		if got := strconv.FormatUint(uint64(hash.Murmur2(key)), 10); got != f[1] {
			t.Errorf("murmur2(%x): got %s, want %s", key, got, f[1])
		}
		for i, n := range counts {
			if got := fmt.Sprint(hash.Partition(key, n)); got != f[2+i] {
				t.Errorf("partition of %x among %d: got %s, want %s", key, n, got, f[2+i])
			}
		}
	}
}

func TestHashIsFranzGos(t *testing.T) {
	topic := kgo.StickyKeyPartitioner(nil).ForTopic("any")
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.SliceOfN(rapid.Byte(), 0, 80).Draw(t, "key")
		if len(key) == 0 {
			key = []byte{} // a nil key has no partition of its own
		}
		n := rapid.Int32Range(1, 200).Draw(t, "partitions")
		want := topic.Partition(&kgo.Record{Key: key}, int(n))
		if got := hash.Partition(key, n); int(got) != want {
			t.Fatalf("partition of %x among %d: got %d, want %d", key, n, got, want)
		}
	})
}

func TestPartitionKeyMapsToItsPartition(t *testing.T) {
	for _, n := range counts {
		for p := range n {
			key := hash.PartitionKey(p, n)
			if got := hash.Partition([]byte(key), n); got != p {
				t.Errorf("PartitionKey(%d, %d) = %q maps to %d", p, n, key, got)
			}
			if !hash.IsPartitionKey(key) {
				t.Errorf("IsPartitionKey(%q) is false", key)
			}
		}
	}
	for _, key := range []string{"", "ws_demo", "p~0"} {
		if hash.IsPartitionKey(key) {
			t.Errorf("IsPartitionKey(%q) is true", key)
		}
	}
}
