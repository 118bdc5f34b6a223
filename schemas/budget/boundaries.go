package budget

import (
	"time"
)

const (
	secondsAnHour = 3600
	// maxOffset is more seconds than any zone is from UTC.
	maxOffset = 27 * secondsAnHour
)

// Boundaries returns the starts of n periods in UTC, ascending: first that of the period that holds from, then the next ones. Each
// period ends where the next one starts, so that every instant is in exactly one. Total has none, and neither has an unknown period.
//
// A day, week or month starts at the first instant at which the zone's clocks show 00:00 of its first day or, where that time is skipped,
// later. So a day has 23 or 25 hours where the clocks change, a midnight that comes twice counts once, and a day that the zone never
// had is no period. Weeks start on Mondays. An hour starts whenever the clocks show a full hour, and where they skip one: an hour that comes
// twice is two periods, and where clocks change by half an hour one has 90 or 30 minutes.
func Boundaries(period string, zone *time.Location, from time.Time, n int) []time.Time {
	if n < 1 {
		return nil
	}
	switch period {
	case Hour:
		return hours(zone, from, n)
	case Day, Week, Month:
		return days(period, zone, from, n)
	}
	return nil
}

// span is a time during which a zone's clocks do not change; seconds since 1970, end excluded.
type span struct{ start, end, offset int64 }

// maxSpan is the length of a span in seconds. Clocks were never changed and changed back within it.
const maxSpan = 6 * secondsAnHour

// spanAt returns the span that starts at an instant: up to the next change of the clocks, at most maxSpan. Time.ZoneBounds is not asked: on
// the last day of a leap year Go 1.26 takes the zones' rules for those of a year of 365 days, and bounds that end before the instant.
func spanAt(zone *time.Location, unix int64) span {
	s := span{start: unix, end: unix + maxSpan, offset: offsetAt(zone, unix)}
	if offsetAt(zone, s.end) == s.offset {
		return s
	}
	for same := unix; s.end-same > 1; {
		if mid := same + (s.end-same)/2; offsetAt(zone, mid) == s.offset {
			same = mid
		} else {
			s.end = mid
		}
	}
	return s
}

func offsetAt(zone *time.Location, unix int64) int64 {
	_, offset := time.Unix(unix, 0).In(zone).Zone()
	return int64(offset)
}

// firstShowing returns the first instant at which the clocks show the wall time or a later one; wall is what UTC's clocks would
// show, in seconds since 1970.
func firstShowing(zone *time.Location, wall int64) int64 {
	s := spanAt(zone, wall-maxOffset)
	for {
		if at := max(s.start, wall-s.offset); at < s.end {
			return at
		}
		s = spanAt(zone, s.end)
	}
}

func days(period string, zone *time.Location, from time.Time, n int) []time.Time {
	y, m, d := from.In(zone).Date()
	first := time.Date(y, m, d, 0, 0, 0, 0, time.UTC) // a date, not an instant
	switch period {
	case Week:
		first = first.AddDate(0, 0, -(int(first.Weekday())+6)%7)
	case Month:
		first = time.Date(y, m, 1, 0, 0, 0, 0, time.UTC)
	}
	next := func(date time.Time) time.Time {
		switch period {
		case Week:
			return date.AddDate(0, 0, 7)
		case Month:
			return date.AddDate(0, 1, 0)
		}
		return date.AddDate(0, 0, 1)
	}
	start, now := firstShowing(zone, first.Unix()), from.Unix()
	out := make([]time.Time, 0, n)
	for date := next(first); len(out) < n; date = next(date) {
		end := firstShowing(zone, date.Unix())
		// The clocks may show the day before once more: it has ended all the same. And a day that was skipped begins with the next one.
		if end > now && end > start {
			out = append(out, time.Unix(start, 0).UTC())
		}
		start = end
	}
	return out
}

func hours(zone *time.Location, from time.Time, n int) []time.Time {
	// The hour that holds from starts less than two hours before it, as no change of the clocks skips the marks on both sides.
	now := from.Unix()
	var out []time.Time
	for s := spanAt(zone, now-2*secondsAnHour); len(out) <= n; s = spanAt(zone, s.end) {
		for at := firstHour(zone, s); at < s.end && len(out) <= n; at += secondsAnHour - floorMod(at+s.offset, secondsAnHour) {
			if at <= now {
				out = out[:0]
			}
			out = append(out, time.Unix(at, 0).UTC())
		}
	}
	return out[:n]
}

// firstHour returns the first start of an hour in the span. It may lie behind the span's end.
func firstHour(zone *time.Location, s span) int64 {
	// Is there a full hour among the times that the clocks skip at the start? The start itself is one of them.
	if ceilHour(s.start+offsetAt(zone, s.start-1)) <= s.start+s.offset {
		return s.start
	}
	return ceilHour(s.start+s.offset) - s.offset
}

func ceilHour(wall int64) int64 { return wall + floorMod(-wall, secondsAnHour) }

func floorMod(a, b int64) int64 { return ((a % b) + b) % b }
