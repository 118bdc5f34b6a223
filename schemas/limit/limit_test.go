package limit_test

import (
	"math/big"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
)

const minute = int64(time.Minute / time.Microsecond)

func TestDefaultsFillWhatWasLeftOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		in, want *rateguardv1.Limit
	}{
		{
			"a token bucket", &rateguardv1.Limit{Id: "a", Limit: 600, WindowUs: minute},
			&rateguardv1.Limit{
				Id: "a", Scope: "workspace", Unit: "requests", Algorithm: "token_bucket", Limit: 600, WindowUs: minute, Burst: 600, Mode: "strict",
				OnStoreFailure: "open",
			},
		},
		{
			"a window has no burst", &rateguardv1.Limit{Algorithm: limit.SlidingWindow, Limit: 5, WindowUs: minute},
			&rateguardv1.Limit{
				Scope: "workspace", Unit: "requests", Algorithm: "sliding_window", Limit: 5, WindowUs: minute, Mode: "strict", OnStoreFailure: "open",
			},
		},
		{
			"a leaky bucket has a delay", &rateguardv1.Limit{Algorithm: limit.LeakyBucket, Limit: 5, WindowUs: minute},
			&rateguardv1.Limit{
				Scope: "workspace", Unit: "requests", Algorithm: "leaky_bucket", Limit: 5, WindowUs: minute, Burst: 5, Mode: "strict",
				OnStoreFailure: "open", MaxDelayUs: 1_000_000,
			},
		},
		{
			"a leased limit", &rateguardv1.Limit{Limit: 5, WindowUs: minute, Mode: "leased"}, &rateguardv1.Limit{
				Scope: "workspace", Unit: "requests", Algorithm: "token_bucket", Limit: 5, WindowUs: minute, Burst: 5, Mode: "leased",
				OnStoreFailure: "open", LeasePercent: 5,
			},
		},
		{
			"what is said stays", &rateguardv1.Limit{
				Id: "b", Scope: "model", Match: &rateguardv1.Match{Model: "gpt-*"}, Unit: "tokens", Algorithm: "token_bucket", Limit: 9, WindowUs: minute, Burst: 3,
				Mode: "leased", LeasePercent: 7, OnStoreFailure: "closed",
			}, &rateguardv1.Limit{
				Id: "b", Scope: "model", Match: &rateguardv1.Match{Model: "gpt-*"}, Unit: "tokens", Algorithm: "token_bucket", Limit: 9, WindowUs: minute, Burst: 3,
				Mode: "leased", LeasePercent: 7, OnStoreFailure: "closed",
			},
		},
	} {
		before := proto.Clone(tt.in)
		got := limit.WithDefaults(tt.in)
		if !proto.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
		if !proto.Equal(tt.in, before) {
			t.Errorf("%s: the argument was changed to %v", tt.name, tt.in)
		}
		if !proto.Equal(limit.WithDefaults(got), got) {
			t.Errorf("%s: a second time it is %v", tt.name, limit.WithDefaults(got))
		}
		if p := limit.Check(got); len(p) > 0 {
			t.Errorf("%s: %v", tt.name, p)
		}
	}
}

func TestEachFieldIsChecked(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*rateguardv1.Limit)
		fields []string
	}{
		{"nothing is wrong", func(*rateguardv1.Limit) {}, nil},
		{"scope", func(l *rateguardv1.Limit) { l.Scope = "planet" }, []string{"scope"}},
		{"unit", func(l *rateguardv1.Limit) { l.Unit = "bytes" }, []string{"unit"}},
		{"algorithm", func(l *rateguardv1.Limit) { l.Algorithm = "none" }, []string{"algorithm", "burst"}},
		{"mode", func(l *rateguardv1.Limit) { l.Mode = "lax" }, []string{"mode"}},
		{"on_store_failure", func(l *rateguardv1.Limit) { l.OnStoreFailure = "ajar" }, []string{"on_store_failure"}},
		{"no limit", func(l *rateguardv1.Limit) { l.Limit = 0 }, []string{"limit"}},
		{"a negative limit", func(l *rateguardv1.Limit) { l.Limit = -1 }, []string{"limit"}},
		{"the largest limit", func(l *rateguardv1.Limit) { l.Limit = limit.MaxAmount }, nil},
		{"too large a limit", func(l *rateguardv1.Limit) { l.Limit = limit.MaxAmount + 1 }, []string{"limit"}},
		{"no window", func(l *rateguardv1.Limit) { l.WindowUs = 0 }, []string{"window"}},
		{"the shortest window", func(l *rateguardv1.Limit) { l.WindowUs = 10_000 }, nil},
		{"too short a window", func(l *rateguardv1.Limit) { l.WindowUs = 9_999 }, []string{"window"}},
		{"the longest window", func(l *rateguardv1.Limit) { l.WindowUs = limit.MaxWindow.Microseconds() }, nil},
		{"too long a window", func(l *rateguardv1.Limit) { l.WindowUs = limit.MaxWindow.Microseconds() + 1 }, []string{"window"}},
		{"a window that overflows", func(l *rateguardv1.Limit) { l.WindowUs = 1<<63 - 1 }, []string{"window"}},
		{"a window that overflows to a valid one", func(l *rateguardv1.Limit) { l.WindowUs = 18_446_744_073_709_552 + minute }, []string{"window"}},
		{"no burst", func(l *rateguardv1.Limit) { l.Burst = 0 }, []string{"burst"}},
		{"too large a burst", func(l *rateguardv1.Limit) { l.Burst = limit.MaxAmount + 1 }, []string{"burst"}},
		{"a burst that the rate cannot keep", func(l *rateguardv1.Limit) {
			l.Limit, l.WindowUs, l.Burst = 1, limit.MaxWindow.Microseconds()-1, limit.MaxAmount
		}, []string{"burst"}},
		{"a window with a burst", func(l *rateguardv1.Limit) { l.Algorithm = limit.FixedWindow }, []string{"burst"}},
		{"a window without one", func(l *rateguardv1.Limit) { l.Algorithm, l.Burst = limit.FixedWindow, 0 }, nil},
		{"a delay of a token bucket", func(l *rateguardv1.Limit) { l.MaxDelayUs = 1 }, []string{"max_delay"}},
		{"the longest delay", func(l *rateguardv1.Limit) { l.Algorithm, l.MaxDelayUs = limit.LeakyBucket, minute }, nil},
		{"too long a delay", func(l *rateguardv1.Limit) { l.Algorithm, l.MaxDelayUs = limit.LeakyBucket, minute+1 }, []string{"max_delay"}},
		{"a negative delay", func(l *rateguardv1.Limit) { l.Algorithm, l.MaxDelayUs = limit.LeakyBucket, -1 }, []string{"max_delay"}},
		{"tokens of a leaky bucket", func(l *rateguardv1.Limit) { l.Algorithm, l.Unit = limit.LeakyBucket, limit.UnitTokens }, []string{"unit"}},
		{"a leased window", func(l *rateguardv1.Limit) { l.Algorithm, l.Burst, l.Mode = limit.SlidingWindow, 0, limit.ModeLeased }, []string{"mode"}},
		{"a leased limit without a share", func(l *rateguardv1.Limit) { l.Mode = limit.ModeLeased }, []string{"lease_percent"}},
		{"the smallest share", func(l *rateguardv1.Limit) { l.Mode, l.LeasePercent = limit.ModeLeased, 1 }, nil},
		{"the largest share", func(l *rateguardv1.Limit) { l.Mode, l.LeasePercent = limit.ModeLeased, limit.MaxLeasePercent }, nil},
		{"too large a share", func(l *rateguardv1.Limit) { l.Mode, l.LeasePercent = limit.ModeLeased, limit.MaxLeasePercent+1 }, []string{"lease_percent"}},
		{"a strict limit's share", func(l *rateguardv1.Limit) { l.LeasePercent = 5 }, []string{"lease_percent"}},
		{"all at once", func(l *rateguardv1.Limit) { proto.Reset(l) }, []string{"scope", "unit", "algorithm", "mode", "on_store_failure", "limit", "window"}},
	} {
		l := limit.WithDefaults(&rateguardv1.Limit{Limit: 600, WindowUs: minute})
		tt.change(l)
		var fields []string
		for _, p := range limit.Check(l) {
			fields = append(fields, p.Field)
			if p.Message == "" {
				t.Errorf("%s: nothing is said of %s", tt.name, p.Field)
			}
		}
		if !slices.Equal(fields, tt.fields) {
			t.Errorf("%s: %q, want %q", tt.name, fields, tt.fields)
		}
	}
}

// A scale never lets more through than the rate, at most a thousandth less, and its numbers stay exact in a double.
func TestAScaleKeepsTheRate(t *testing.T) {
	t.Parallel()
	given := 0
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.OneOf(rapid.Int64Range(1, 10_000), rapid.Int64Range(1, limit.MaxAmount)).Draw(t, "limit")
		window := rapid.Int64Range(limit.MinWindow.Microseconds(), limit.MaxWindow.Microseconds()).Draw(t, "window")
		burst := rapid.OneOf(rapid.Just(most), rapid.Int64Range(1, 1_000_000), rapid.Int64Range(1, limit.MaxAmount)).Draw(t, "burst")
		s, err := limit.NewScale(most, window, burst)
		if err != nil {
			return
		}
		given++
		if s.Unit < 1 || s.Drain < 1 {
			t.Fatalf("scale %+v", s)
		}
		const exact = 1 << 52
		if new(big.Int).Mul(big.NewInt(s.Unit), big.NewInt(burst)).Cmp(big.NewInt(exact)) > 0 || s.Drain > exact {
			t.Fatalf("scale %+v of a burst of %d is not exact", s, burst)
		}
		rate, got := big.NewRat(most, window), big.NewRat(s.Drain, s.Unit)
		if got.Cmp(rate) > 0 {
			t.Fatalf("scale %+v is faster than %s", s, rate)
		}
		if least := new(big.Rat).Mul(rate, big.NewRat(999, 1000)); got.Cmp(least) < 0 {
			t.Fatalf("scale %+v is slower than %s by more than a thousandth", s, rate)
		}
	})
	if given == 0 {
		t.Error("no scale was made")
	}
}

func TestTheScaleOfOrdinaryLimitsIsExact(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		limit, window, burst int64
		want                 limit.Scale
	}{
		{600, minute, 600, limit.Scale{Unit: 100_000, Drain: 1}},
		{7, 1_000_000, 7, limit.Scale{Unit: 1_000_000, Drain: 7}},
		{1, limit.MaxWindow.Microseconds(), 1, limit.Scale{Unit: limit.MaxWindow.Microseconds(), Drain: 1}},
		{limit.MaxAmount, 10_000, 1000, limit.Scale{Unit: 1, Drain: 100_000_000}},
		{10, 1_000_000, 0, limit.Scale{Unit: 100_000, Drain: 1}},
	} {
		got, err := limit.NewScale(tt.limit, tt.window, tt.burst)
		if err != nil || got != tt.want {
			t.Errorf("%d in %d µs: %+v %v, want %+v", tt.limit, tt.window, got, err, tt.want)
		}
	}
}

// Slots cover the window, and only a limit that may need more entries than the log holds has any.
func TestSlots(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ limit, window, want int64 }{
		{1, minute, 1}, {limit.ExactEntries, minute, 1}, {limit.ExactEntries + 1, minute, 234_375}, {5000, 1_000_001, 3907}, {5000, 10_000, 40},
	} {
		got := limit.Slot(tt.limit, tt.window)
		if got != tt.want {
			t.Errorf("%d in %d µs: a slot of %d, want %d", tt.limit, tt.window, got, tt.want)
		}
		if got > 1 && got*limit.Slots < tt.window {
			t.Errorf("%d slots of %d µs do not cover %d", limit.Slots, got, tt.window)
		}
	}
}
