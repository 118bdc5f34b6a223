package lua_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// subjects is how many buckets a measurement fills: RATEGUARD_FAULT_SUBJECTS, by default few.
func subjects(tb testing.TB) int {
	tb.Helper()
	text := os.Getenv("RATEGUARD_FAULT_SUBJECTS")
	if text == "" {
		return 20_000
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		tb.Fatalf("RATEGUARD_FAULT_SUBJECTS is %q, want a number", text)
	}
	return n
}

// usedMemory is what the server holds, in bytes.
func usedMemory(tb testing.TB, rdb *redis.Client) int64 {
	tb.Helper()
	for line := range strings.Lines(rdb.Info(tb.Context(), "memory").Val()) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "used_memory:"); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				tb.Fatal(err)
			}
			return n
		}
	}
	tb.Fatal("no used_memory")
	return 0
}

// fill takes entries times from each of n buckets, a µs apart, and forgets the marks of the requests, which end after 15 s.
func (d *driver) fill(l *lua.Limit, n, entries int) {
	d.tb.Helper()
	ctx := d.tb.Context()
	if err := d.admit.Load(ctx, d.rdb).Err(); err != nil {
		d.tb.Fatal(err)
	}
	for e := range entries {
		d.set(d.now + 1)
		for from := 0; from < n; from += 500 {
			pipe, marks := d.rdb.Pipeline(), []string{}
			for i := from; i < min(n, from+500); i++ {
				id := fmt.Sprintf("%d-%d", e, i)
				subject := fmt.Sprintf("key_%026d", i) // as long as an id is
				keys, args := admission(id, lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", "lim_0000000000", subject), Amount: 1})
				d.admit.EvalSha(ctx, pipe, keys, args...)
				marks = append(marks, keys[1])
			}
			pipe.Unlink(ctx, marks...)
			if _, err := pipe.Exec(ctx); err != nil {
				d.tb.Fatal(err)
			}
		}
	}
}

// What a bucket costs in Redis, key and overhead included, so that an operator can size it.
func TestWhatABucketWeighs(t *testing.T) {
	for _, tt := range []struct {
		name    string
		l       *rateguardv1.Limit
		entries int
		most    int64 // bytes a bucket
	}{
		{"token bucket", &rateguardv1.Limit{Limit: 600, WindowUs: 60_000_000}, 1, 350},
		{"token bucket of tokens", &rateguardv1.Limit{Limit: 600, WindowUs: 60_000_000, Unit: limit.UnitTokens}, 20, 1000},
		{"leaky bucket", &rateguardv1.Limit{Algorithm: limit.LeakyBucket, Limit: 600, WindowUs: 60_000_000}, 1, 350},
		{"fixed window", &rateguardv1.Limit{Algorithm: limit.FixedWindow, Limit: 600, WindowUs: 60_000_000}, 1, 350},
		{"sliding log of 1 entry", &rateguardv1.Limit{Algorithm: limit.SlidingWindow, Limit: 600, WindowUs: 60_000_000}, 1, 1000},
		{"sliding log of 20 entries", &rateguardv1.Limit{Algorithm: limit.SlidingWindow, Limit: 600, WindowUs: 60_000_000}, 20, 2500},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, n := newDriver(t), subjects(t)/tt.entries
			d.fill(prepared(t, tt.l), 10, tt.entries) // scripts and the state of the workspace
			before := usedMemory(t, d.rdb)
			d.fill(prepared(t, tt.l), n, tt.entries)
			each := (usedMemory(t, d.rdb) - before) / int64(n)
			alone := d.rdb.MemoryUsage(t.Context(), keyspace.Bucket("ws", "lim_0000000000", fmt.Sprintf("key_%026d", 7))).Val()
			t.Logf("FIGURE memory of %d buckets, %s: %d B each of used_memory; MEMORY USAGE of its first key %d B", n, tt.name, each, alone)
			if each > tt.most || each < 100 {
				t.Errorf("%d B a bucket, want at most %d", each, tt.most)
			}
		})
	}
}

// Ids that try to leave the slot of their workspace: in a cluster all keys of a call share one, or Redis would refuse it, and a key's
// length has a bound, whatever the id's is.
func TestHostileIdsKeepTheirSlot(t *testing.T) {
	t.Parallel()
	nodes := redistest.Cluster(t, 0)
	s := openStore(t, lua.StoreConfig{URL: redistest.ClusterURL(nodes), Timeout: patient})
	a := lua.NewAdmissions(s, prometheus.NewRegistry())
	ids := []string{"", "{", "}", "{}", "{}x", "}{", "a{b}c", "x:y", "a b", "a\nb\r\n", "a\x00b", "../..", "*", "[a-z]?", strings.Repeat("é", 5_000), strings.Repeat("x", 10_000)}
	seen := map[string]string{}
	for i, id := range ids {
		for _, l := range []*rateguardv1.Limit{
			{Limit: 1, WindowUs: limit.MaxWindow.Microseconds()},
			{Algorithm: limit.SlidingWindow, Limit: 1, WindowUs: limit.MaxWindow.Microseconds()},
		} {
			bucket := keyspace.Bucket(id, l.GetAlgorithm()+id, id)
			if old, ok := seen[bucket]; ok {
				t.Errorf("%.20q and %.20q meet in %q", id, old, bucket)
			}
			seen[bucket] = id
			if len(bucket) > 250 {
				t.Errorf("%.20q: a key of %d bytes", id, len(bucket))
			}
			for round, want := range []bool{true, false} {
				d, err := a.Admit(t.Context(), &lua.Request{
					Workspace: id, Reservation: fmt.Sprint(i, l.GetAlgorithm(), round), Key: id, PolicyVersion: 1,
					Takes: []lua.Take{{Limit: prepared(t, l), Bucket: bucket, Amount: 1}},
				})
				if err != nil || d.Admitted != want {
					t.Errorf("id %.20q, round %d: admitted %t %v", id, round, d.Admitted, err)
				}
			}
		}
		keys := []string{keyspace.State(id), keyspace.Policy(id), keyspace.Revoked(id), keyspace.Mark(id, "r"), keyspace.Bucket(id, id, id), keyspace.Slotted(keyspace.Bucket(id, id, id), 1)}
		var slots []any
		for _, k := range keys {
			slots = append(slots, nodes[0].Do("cluster", "keyslot", k))
		}
		if len(slices.Compact(slots)) != 1 {
			t.Errorf("id %.20q: slots %v", id, slots)
		}
	}
}
