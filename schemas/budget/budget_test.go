package budget_test

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/schemas/budget"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

func TestDefaultsFillWhatWasLeftOut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		in, want *rateguardv1.Budget
	}{
		{
			"hard", &rateguardv1.Budget{Id: "a", LimitNanoUsd: 5},
			&rateguardv1.Budget{
				Id: "a", Scope: "workspace", LimitNanoUsd: 5, Period: "month", Timezone: "UTC", Enforcement: "hard", AlertAt: []float64{0.5, 0.8, 1},
				OnStoreFailure: "closed", Mode: "strict",
			},
		},
		{
			"leased", &rateguardv1.Budget{LimitNanoUsd: 5, Mode: "leased"},
			&rateguardv1.Budget{
				Scope: "workspace", LimitNanoUsd: 5, Period: "month", Timezone: "UTC", Enforcement: "hard", AlertAt: []float64{0.5, 0.8, 1},
				OnStoreFailure: "closed", Mode: "leased", LeasePercent: 5,
			},
		},
		{
			"soft", &rateguardv1.Budget{LimitNanoUsd: 5, Enforcement: "soft"},
			&rateguardv1.Budget{
				Scope: "workspace", LimitNanoUsd: 5, Period: "month", Timezone: "UTC", Enforcement: "soft", AlertAt: []float64{0.5, 0.8, 1}, OnStoreFailure: "open",
				Mode: "strict",
			},
		},
		{
			"what is said stays", &rateguardv1.Budget{
				Id: "b", Generation: 7, Scope: "key", Match: &rateguardv1.Match{Model: "gpt-*"}, LimitNanoUsd: 1, Period: "hour", Timezone: "Asia/Tokyo",
				Enforcement: "soft", AlertAt: []float64{10}, OnStoreFailure: "closed", BoundariesUnixUs: []int64{1, 2}, Mode: "leased", LeasePercent: 50,
			}, &rateguardv1.Budget{
				Id: "b", Generation: 7, Scope: "key", Match: &rateguardv1.Match{Model: "gpt-*"}, LimitNanoUsd: 1, Period: "hour", Timezone: "Asia/Tokyo",
				Enforcement: "soft", AlertAt: []float64{10}, OnStoreFailure: "closed", BoundariesUnixUs: []int64{1, 2}, Mode: "leased", LeasePercent: 50,
			},
		},
	} {
		before := proto.Clone(tt.in)
		got := budget.WithDefaults(tt.in)
		if !proto.Equal(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
		if !proto.Equal(tt.in, before) {
			t.Errorf("%s: the argument was changed to %v", tt.name, tt.in)
		}
		if p := budget.Check(got); len(p) > 0 {
			t.Errorf("%s: %v", tt.name, p)
		}
	}
}

func TestEachFieldIsChecked(t *testing.T) {
	t.Parallel()
	at := func(values ...float64) func(*rateguardv1.Budget) {
		return func(b *rateguardv1.Budget) { b.AlertAt = values }
	}
	for _, tt := range []struct {
		name   string
		change func(*rateguardv1.Budget)
		fields []string
	}{
		{"nothing is wrong", func(*rateguardv1.Budget) {}, nil},
		{"scope", func(b *rateguardv1.Budget) { b.Scope = "endpoint" }, []string{"scope"}},
		{"nothing to spend", func(b *rateguardv1.Budget) { b.LimitNanoUsd = 0 }, []string{"usd"}},
		{"a negative limit", func(b *rateguardv1.Budget) { b.LimitNanoUsd = -1 }, []string{"usd"}},
		{"the smallest limit", func(b *rateguardv1.Budget) { b.LimitNanoUsd = 1 }, nil},
		{"the largest limit", func(b *rateguardv1.Budget) { b.LimitNanoUsd = 4_000_000_000_000_000 }, nil},
		{"too large a limit", func(b *rateguardv1.Budget) { b.LimitNanoUsd = 4_000_000_000_000_001 }, []string{"usd"}},
		{"period", func(b *rateguardv1.Budget) { b.Period = "year" }, []string{"period"}},
		{"total", func(b *rateguardv1.Budget) { b.Period = "total" }, nil},
		{"no zone", func(b *rateguardv1.Budget) { b.Timezone = "Mars/Phobos" }, []string{"timezone"}},
		{"the machine's zone", func(b *rateguardv1.Budget) { b.Timezone = "Local" }, []string{"timezone"}},
		{"a path", func(b *rateguardv1.Budget) { b.Timezone = "../../etc/passwd" }, []string{"timezone"}},
		{"a folder of zones", func(b *rateguardv1.Budget) { b.Timezone = "Europe/" }, []string{"timezone"}},
		{"enforcement", func(b *rateguardv1.Budget) { b.Enforcement = "firm" }, []string{"enforcement"}},
		{"on_store_failure", func(b *rateguardv1.Budget) { b.OnStoreFailure = "ajar" }, []string{"on_store_failure"}},
		{"hard and open", func(b *rateguardv1.Budget) { b.OnStoreFailure = "open" }, []string{"on_store_failure"}},
		{"soft and open", func(b *rateguardv1.Budget) { b.Enforcement, b.OnStoreFailure = "soft", "open" }, nil},
		{"soft and closed", func(b *rateguardv1.Budget) { b.Enforcement = "soft" }, nil},
		{"no alerts", at(), []string{"alert_at"}},
		{"an alert at nothing", at(0, 1), []string{"alert_at"}},
		{"an alert below nothing", at(-1), []string{"alert_at"}},
		{"no number", at(math.NaN()), []string{"alert_at"}},
		{"no end", at(math.Inf(1)), []string{"alert_at"}},
		{"the largest alert", at(0.1, 10), nil},
		{"too large an alert", at(10.5), []string{"alert_at"}},
		{"the same twice", at(1, 1), []string{"alert_at"}},
		{"descending", at(1, 0.5), []string{"alert_at"}},
		{"ten alerts", at(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), nil},
		{"eleven alerts", at(0.5, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10), []string{"alert_at"}},
		{"mode", func(b *rateguardv1.Budget) { b.Mode = "lent" }, []string{"mode"}},
		{"a leased budget without a share", func(b *rateguardv1.Budget) { b.Mode = budget.ModeLeased }, []string{"lease_percent"}},
		{"the smallest share", func(b *rateguardv1.Budget) { b.Mode, b.LeasePercent = budget.ModeLeased, 1 }, nil},
		{"the largest share", func(b *rateguardv1.Budget) { b.Mode, b.LeasePercent = budget.ModeLeased, budget.MaxLeasePercent }, nil},
		{"too large a share", func(b *rateguardv1.Budget) { b.Mode, b.LeasePercent = budget.ModeLeased, budget.MaxLeasePercent+1 }, []string{"lease_percent"}},
		{"a strict budget's share", func(b *rateguardv1.Budget) { b.LeasePercent = 5 }, []string{"lease_percent"}},
		{"all at once", func(b *rateguardv1.Budget) { proto.Reset(b) }, []string{"scope", "usd", "period", "timezone", "enforcement", "alert_at", "on_store_failure", "mode"}},
	} {
		b := budget.WithDefaults(&rateguardv1.Budget{LimitNanoUsd: 600})
		tt.change(b)
		var fields []string
		for _, p := range budget.Check(b) {
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

// What the script adds up stays exact: a limit that is posted, reserved over again, and the largest call on top.
func TestTheLargestLimitIsExactInADouble(t *testing.T) {
	t.Parallel()
	if sum := 2*budget.MaxUSD + 100_000*1_000_000_000; sum >= 1<<53 {
		t.Errorf("%d nano-USD are not exact in a double", sum)
	}
}

func TestWhichBudgetsAreDivided(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		scope string
		match *rateguardv1.Match
		want  bool
	}{
		{"workspace", nil, false},
		{"key", nil, true},
		{"route", nil, true},
		{"model", &rateguardv1.Match{}, true},
		{"key", &rateguardv1.Match{Key: "k"}, false},
		{"model", &rateguardv1.Match{Route: "r"}, false},
		{"route", &rateguardv1.Match{Model: "m"}, false},
	} {
		if got := budget.Divided(&rateguardv1.Budget{Scope: tt.scope, Match: tt.match}); got != tt.want {
			t.Errorf("%s %v: got %t, want %t", tt.scope, tt.match, got, tt.want)
		}
	}
}

// TestZonesComeFromTheRelease has a machine whose data says that Berlin is in Tokyo: nobody asks it.
func TestZonesComeFromTheRelease(t *testing.T) {
	t.Setenv("ZONEINFO", t.TempDir())
	z, err := budget.Zone("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	if got := time.Date(2026, 7, 1, 0, 0, 0, 0, z).UTC().Hour(); got != 22 {
		t.Errorf("midnight in Berlin in July is at %d h UTC, want 22", got)
	}
	for _, name := range []string{"", "Local", "local", "Europe", "Europe/", "europe/berlin", "/etc/localtime"} {
		if _, err := budget.Zone(name); !errors.Is(err, budget.ErrZone) {
			t.Errorf("%q: got %v, want ErrZone", name, err)
		}
	}
}
