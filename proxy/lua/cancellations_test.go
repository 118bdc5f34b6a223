package lua_test

import (
	"testing"

	"github.com/rateguard/rateguard/proxy/lua"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/limit"
)

// Who lost the answer does not know when the request was admitted: its cancellation gives back what it took all the same, less
// what has leaked out since then.
func TestACancellationWithoutAnAnswerGivesBack(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		algorithm string
		used      int64 // 400 ms after two requests of 5 and 3, when the one of 5 is cancelled
	}{
		{limit.TokenBucket, 3},   // 4 of 8 have leaked; of the 5 one is left to be given back
		{limit.SlidingWindow, 3}, // nothing has left the window
		{limit.FixedWindow, 3},
	} {
		t.Run(tt.algorithm, func(t *testing.T) {
			t.Parallel()
			d := newDriver(t)
			l := prepared(t, &rateguardv1.Limit{Algorithm: tt.algorithm, Limit: 10, WindowUs: 1_000_000})
			take := lua.Take{Limit: l, Bucket: keyspace.Bucket("ws", "l", ""), Amount: 5}
			if got := d.as("lost", take); got[0] != 1 {
				t.Fatalf("got %v", got)
			}
			d.call(lua.Take{Limit: l, Bucket: take.Bucket, Amount: 3})
			d.set(d.now + 400_000)
			for range 2 {
				d.change("cancel", "lost", 0, take)
			}
			if used := d.call(lua.Take{Limit: l, Bucket: take.Bucket})[4]; used != tt.used {
				t.Errorf("%d used, want %d", used, tt.used)
			}
		})
	}
}
