package lua_test

import (
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// permanent are the keys that never end, each with the reason. Only control writes them; the proxy writes none.
var permanent = map[string]string{
	keyspace.RevokedKeys:    "a revoked key must be refused for ever, by proxies that poll",
	keyspace.Revoked("ws0"): "the same, for the script that decides",
	keyspace.Policy("ws0"):  "what a proxy reads whose policy is old; control replaces it with the workspace's next one",
}

// After every kind of call there is, on every kind of limit, each key has an end, but for those that are named above.
func TestEveryKeyEndsButForThoseNamed(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t)
	a := admissions(t, r.URL())
	kinds := []*rateguardv1.Limit{
		{Limit: 5, WindowUs: 200_000},
		{Limit: 3, WindowUs: limit.MaxWindow.Microseconds()},
		{Algorithm: limit.SlidingWindow, Limit: 5, WindowUs: 20_000},
		{Algorithm: limit.SlidingWindow, Limit: 2000, WindowUs: 3_600_000_000},
		{Algorithm: limit.FixedWindow, Limit: 5, WindowUs: 30_000},
		{Algorithm: limit.LeakyBucket, Limit: 100, WindowUs: 1_000_000},
		{Unit: limit.UnitTokens, Limit: 1_000_000, WindowUs: 60_000_000, Burst: 5_000_000},
	}
	r.Do("sadd", keyspace.Revoked("ws0"), "gone")
	r.Do("zadd", keyspace.RevokedKeys, 1, "gone")
	r.Do("hset", keyspace.Policy("ws0"), keyspace.PolicyVersion, "1")
	limits := make([]*lua.Limit, len(kinds))
	for i, k := range kinds {
		limits[i] = prepared(t, k)
	}
	c := newCrowd(t, nil)
	for i := range 600 {
		c.policy.Store(&policy{limits[(i+i/len(limits)%3)%len(limits)], uint64(i/200 + 1)}) // algorithms change on live keys
		o := outcome{workspace: "ws" + string(rune('0'+i%len(limits))), reservation: time.Duration(i).String(), amount: int64(i % 4)}
		q := c.request(o)
		d, err := a.Admit(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 5 {
		case 0:
			q.Takes[0].Amount = 1
			err = a.Adjust(t.Context(), lua.Settle, q, d.NowUS)
		case 1:
			q.Takes[0].Amount = -2
			err = a.Adjust(t.Context(), lua.Settle, q, d.NowUS)
		case 2:
			err = a.Adjust(t.Context(), lua.Cancel, q, 0)
		case 3:
			q.Reservation += "/charge"
			err = a.Adjust(t.Context(), lua.Charge, q, 0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	p := lua.NewProducers(r.Client())
	if _, _, err := p.Heartbeat(t.Context(), "one", time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := p.Fence(t.Context(), "two", "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Elect(t.Context(), lua.Reaper, "one", time.Minute); err != nil {
		t.Fatal(err)
	}
	rdb, seen, ends := r.Client(), map[string]bool{}, 0
	var longest time.Duration
	for keys := rdb.Scan(t.Context(), 0, "*", 1000).Iterator(); keys.Next(t.Context()); {
		k := keys.Val()
		ttl, err := rdb.PTTL(t.Context(), k).Result()
		switch {
		case err != nil:
			t.Fatal(err)
		case !strings.HasPrefix(k, "rg:"):
			t.Errorf("key %q is not ours", k)
		case ttl == -1 && permanent[k] != "":
			seen[k] = true
		case ttl == -1 || ttl == 0:
			t.Errorf("key %q has no end: %s", k, ttl)
		default:
			ends++
			longest = max(longest, ttl)
		}
	}
	t.Logf("FIGURE keys: %d end, the last in %s; permanent are %d", ends, longest.Round(time.Second), len(seen))
	if len(seen) != len(permanent) || ends < 100 {
		t.Errorf("%d keys end and %d are permanent", ends, len(seen))
	}
}
