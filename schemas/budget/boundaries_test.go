package budget_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rateguard/rateguard/schemas/budget"
)

// The zones of the walks: clocks that change at midnight, at a minute past it, by half an hour, across the date line, twice in a
// Ramadan, never; offsets of quarters of an hour.
var walked = []string{
	"UTC", "Europe/Berlin", "Europe/London", "Africa/Casablanca", "Africa/Cairo", "America/New_York", "America/St_Johns", "America/Sao_Paulo",
	"America/Havana", "America/Asuncion", "America/Santiago", "America/Scoresbysund", "America/Caracas", "Asia/Kolkata", "Asia/Kathmandu",
	"Asia/Beirut", "Asia/Amman", "Asia/Gaza", "Asia/Tehran", "Asia/Pyongyang", "Australia/Lord_Howe", "Australia/Eucla", "Pacific/Apia",
	"Pacific/Kwajalein", "Pacific/Chatham", "Antarctica/Troll",
}

func zone(t interface {
	Helper()
	Fatal(args ...any)
}, name string,
) *time.Location {
	t.Helper()
	z, err := budget.Zone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// walk is the oracle: it looks at the zone's clocks each minute between two instants and writes down when they first show another period.
// It knows nothing of when they change. What it finds is right where it began more than two periods earlier.
func walk(period string, z *time.Location, from, to time.Time) []time.Time {
	var found []time.Time
	var latest, before int64
	step := time.Minute
	if period == budget.Week || period == budget.Month {
		step *= 15 // for speed: since 1985 clocks that were changed over a midnight showed it at a quarter of an hour of UTC
	}
	for at := from.Truncate(step); at.Before(to); at = at.Add(step) {
		_, ahead := at.In(z).Zone() // asked once a minute, as it takes the most time
		clock := time.Unix(at.Unix()+int64(ahead), 0).UTC()
		var shown int64 // grows with the periods that the clocks show
		switch period {
		case budget.Month:
			shown = int64(clock.Year())*12 + int64(clock.Month())
		case budget.Week:
			shown = (clock.Unix()/86400 + 3) / 7 // 1970-01-01 was a Thursday
		case budget.Day:
			shown = clock.Unix() / 86400
		case budget.Hour:
			// An hour may be shown a second time: the full hour itself begins it, or a jump over it.
			shown = clock.Unix() / 3600
			if clock.Minute() == 0 || shown > before {
				found = append(found, at.UTC())
			}
			before = shown
			continue
		}
		if shown > latest {
			latest = shown
			found = append(found, at.UTC())
		}
	}
	return found[1:] // the walk began in the middle of one
}

// lengths are longer than a period, and half as long as a walk goes back and forth.
var lengths = map[string]time.Duration{budget.Hour: 9 * time.Hour, budget.Day: 38 * time.Hour, budget.Week: 10 * 24 * time.Hour, budget.Month: 35 * 24 * time.Hour}

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// check compares the boundaries from each instant, none of them far from the first, with one walk around them.
func check(t failer, period string, z *time.Location, around ...time.Time) {
	t.Helper()
	const n = 2
	all := walk(period, z, around[0].Add(-2*lengths[period]), around[0].Add(2*lengths[period]))
	for _, from := range around {
		i := len(all) - 1
		for all[i].After(from) {
			i--
		}
		want := all[i : i+n]
		if got := budget.Boundaries(period, z, from, n); !slices.EqualFunc(got, want, time.Time.Equal) {
			t.Fatalf("%s in %s from %s (%s):\n got %v\nwant %v", period, z, from.UTC(), from.In(z), local(got, z), local(want, z))
		}
	}
}

func local(all []time.Time, z *time.Location) []string {
	var out []string
	for _, at := range all {
		out = append(out, fmt.Sprintf("%s (%s)", at.Format(time.RFC3339), at.In(z).Format("2006-01-02 15:04:05 -0700")))
	}
	return out
}

// changes returns the instants at which the clocks of a zone change between two years, found by looking.
func changes(z *time.Location, from, to int) []time.Time {
	var out []time.Time
	const stride = 24 * time.Hour
	offset := func(at time.Time) int {
		_, o := at.In(z).Zone()
		return o
	}
	end := time.Date(to, 1, 1, 0, 0, 0, 0, time.UTC)
	for at := time.Date(from, 1, 1, 0, 0, 0, 0, time.UTC); at.Before(end); at = at.Add(stride) {
		for near := at; offset(at) != offset(at.Add(stride)) && !near.After(at.Add(stride)); near = near.Add(time.Minute) {
			if offset(near) != offset(near.Add(-time.Minute)) {
				out = append(out, near)
			}
		}
	}
	return out
}

// TestPeriodsAroundEveryChangeOfTheClocks walks around the changes of a decade.
func TestPeriodsAroundEveryChangeOfTheClocks(t *testing.T) {
	t.Parallel()
	total := 0
	for _, name := range walked {
		z := zone(t, name)
		for i, at := range changes(z, 2010, 2020) {
			total++
			m := func(n int) time.Time { return at.Add(time.Duration(n) * time.Minute) }
			check(t, budget.Hour, z, at, m(-61), m(-30), m(-1), m(1), m(29), m(30), m(59), m(60), m(61), m(119), m(120))
			check(t, budget.Day, z, at, m(-25*60), m(-61), m(-1), m(1), m(59), m(60), m(23*60), m(25*60))
			if i%16 == 0 {
				check(t, budget.Week, z, at, m(-1))
				check(t, budget.Month, z, at, m(-1))
			}
		}
	}
	if total < 300 {
		t.Errorf("only %d changes were found", total)
	}
}

// TestTheEndsOfLeapYears looks at days of which Go's time.Time.ZoneBounds says that they are not in any zone's year.
func TestTheEndsOfLeapYears(t *testing.T) {
	t.Parallel()
	for _, name := range walked {
		z := zone(t, name)
		for year := 2020; year <= 2096; year += 4 {
			last := time.Date(year, 12, 31, 12, 0, 0, 0, time.UTC)
			check(t, budget.Hour, z, last, last.Add(-13*time.Hour), last.Add(13*time.Hour))
			check(t, budget.Day, z, last, last.Add(-24*time.Hour), last.Add(13*time.Hour))
		}
		last := time.Date(2028, 12, 31, 12, 0, 0, 0, time.UTC)
		check(t, budget.Week, z, last)
		check(t, budget.Month, z, last)
	}
}

// TestPeriodsAtAnyTime walks anywhere, in any zone.
func TestPeriodsAtAnyTime(t *testing.T) {
	t.Parallel()
	names := append(slices.Clone(walked), "Africa/Monrovia", "America/Anchorage", "Asia/Singapore", "Asia/Manila", "Europe/Dublin", "Europe/Moscow", "Pacific/Auckland", "Etc/GMT+12", "EST5EDT")
	rapid.Check(t, func(t *rapid.T) {
		z := zone(t, rapid.SampledFrom(names).Draw(t, "zone"))
		period := rapid.SampledFrom([]string{budget.Hour, budget.Day, budget.Week, budget.Month}).Draw(t, "period")
		at := time.UnixMicro(rapid.Int64Range(time.Date(1985, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()).Draw(t, "at"))
		check(t, period, z, at)
	})
}

// Wherever one begins, the list is part of one and the same: what control publishes today and in a week agree where both speak.
func TestBoundariesAgreeWhereverTheyBegin(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		z := zone(t, rapid.SampledFrom(walked).Draw(t, "zone"))
		period := rapid.SampledFrom([]string{budget.Hour, budget.Day, budget.Week, budget.Month}).Draw(t, "period")
		at := time.UnixMicro(rapid.Int64Range(0, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()).Draw(t, "at"))
		n := rapid.IntRange(2, 60).Draw(t, "n")
		all := budget.Boundaries(period, z, at, n)
		if len(all) != n || all[0].After(at) || !all[1].After(at) {
			t.Fatalf("%d boundaries from %s: %v", len(all), at, all)
		}
		for i := 1; i < n; i++ {
			if !all[i].After(all[i-1]) {
				t.Fatalf("boundary %d does not ascend: %v", i, local(all, z))
			}
			if all[i].Location() != time.UTC {
				t.Fatalf("boundary %d is not in UTC", i)
			}
		}
		i := rapid.IntRange(0, n-1).Draw(t, "i")
		for _, later := range []time.Time{all[i], all[i].Add(time.Microsecond)} {
			if got := budget.Boundaries(period, z, later, n-i); !slices.EqualFunc(got, all[i:], time.Time.Equal) {
				t.Fatalf("from %s:\n got %v\nwant %v", later, local(got, z), local(all[i:], z))
			}
		}
	})
}

// TestPeriodsByHand has the cases that are known from calendars, in local time.
func TestPeriodsByHand(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, zone, period, from string
		want                     []string
	}{
		{"a month", "UTC", budget.Month, "2026-12-31T23:59:59.999999Z", []string{"2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"}},
		{"the first instant of a month", "UTC", budget.Month, "2027-01-01T00:00:00Z", []string{"2027-01-01T00:00:00Z"}},
		{"a month in Berlin", "Europe/Berlin", budget.Month, "2026-10-31T23:30:00Z", []string{"2026-11-01T00:00:00+01:00", "2026-12-01T00:00:00+01:00"}},
		{"a week begins on Monday", "UTC", budget.Week, "2026-11-29T12:00:00Z", []string{"2026-11-23T00:00:00Z", "2026-11-30T00:00:00Z"}},
		{"Sunday night is of the old week", "America/New_York", budget.Week, "2026-03-09T03:59:59Z", []string{"2026-03-02T00:00:00-05:00", "2026-03-09T00:00:00-04:00", "2026-03-16T00:00:00-04:00"}},
		{"a day of 23 hours", "Europe/Berlin", budget.Day, "2026-03-29T12:00:00Z", []string{"2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"}},
		{"a day of 25 hours", "Europe/Berlin", budget.Day, "2026-10-25T12:00:00Z", []string{"2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"}},
		{"a midnight that is skipped", "America/Sao_Paulo", budget.Day, "2018-11-04T12:00:00Z", []string{"2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"}},
		{"a midnight that comes twice", "America/Havana", budget.Day, "2026-11-01T05:30:00Z", []string{"2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00"}},
		{"clocks that go back over midnight", "America/St_Johns", budget.Day, "2010-11-07T03:00:00Z", []string{"2010-11-07T00:00:00-02:30", "2010-11-08T00:00:00-03:30"}},
		{"a day that never was", "Pacific/Apia", budget.Day, "2011-12-30T09:00:00Z", []string{"2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"}},
		{"an hour that comes twice", "Europe/Berlin", budget.Hour, "2026-10-25T00:59:59Z", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}},
		{"an hour that is skipped", "Europe/Berlin", budget.Hour, "2026-03-29T00:59:59Z", []string{"2026-03-29T01:00:00+01:00", "2026-03-29T03:00:00+02:00"}},
		{"an hour of 90 minutes", "Australia/Lord_Howe", budget.Hour, "2026-04-04T15:10:00Z", []string{"2026-04-05T01:00:00+11:00", "2026-04-05T02:00:00+10:30"}},
		{"an hour of 30 minutes", "Australia/Lord_Howe", budget.Hour, "2026-10-03T15:40:00Z", []string{"2026-10-04T02:30:00+11:00", "2026-10-04T03:00:00+11:00"}},
		{"hours of Nepal", "Asia/Kathmandu", budget.Hour, "2026-01-01T00:20:00Z", []string{"2026-01-01T06:00:00+05:45", "2026-01-01T07:00:00+05:45"}},
		{"total has no periods", "UTC", budget.Total, "2026-01-01T00:00:00Z", nil},
		{"no such period", "UTC", "year", "2026-01-01T00:00:00Z", nil},
	} {
		from, err := time.Parse(time.RFC3339Nano, tt.from)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, at := range budget.Boundaries(tt.period, zone(t, tt.zone), from, max(1, len(tt.want))) {
			got = append(got, at.In(zone(t, tt.zone)).Format(time.RFC3339))
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n got %v\nwant %v", tt.name, got, tt.want)
		}
	}
	if got := budget.Boundaries(budget.Day, time.UTC, time.Now(), 0); got != nil {
		t.Errorf("no boundaries asked for: got %v", got)
	}
}
