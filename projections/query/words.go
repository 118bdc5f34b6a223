package query

import (
	"strconv"
	"strings"
	"time"

	"github.com/rateguard/rateguard/schemas/money"
)

// maxName is how many bytes of a name a sentence shows: clients choose the names of models.
const maxName = 100

// name is an id or a client's text as part of a sentence, quoted where it could break that.
func name(s string) string {
	if len(s) > maxName {
		s = strings.ToValidUTF8(s[:maxName], "") + "…"
	}
	if q := strconv.Quote(s); s == "" || len(q) != len(s)+2 || strings.ContainsAny(s, " ,;") {
		return q
	}
	return s
}

func usd(nano int64) string { return "$" + money.Nano(nano).String() }

func plural(n int64, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return strconv.FormatInt(n, 10) + " " + noun
}

func was(n int64) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// per names a window after "per".
func per(window time.Duration) string {
	switch window {
	case time.Second:
		return "second"
	case time.Minute:
		return "minute"
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "day"
	}
	return near(window.Microseconds())
}

// near writes a time in µs, rounded to what a reader cares for.
func near(us int64) string {
	d := time.Duration(us) * time.Microsecond
	return duration(d.Round(grain(d)))
}

// up is near, never less than the time is.
func up(us int64) string {
	d := time.Duration(us) * time.Microsecond
	g := grain(d)
	return duration((d + g - 1).Truncate(g))
}

func grain(d time.Duration) time.Duration {
	switch {
	case d < time.Millisecond:
		return 10 * time.Microsecond
	case d < 100*time.Millisecond:
		return time.Millisecond
	case d < 2*time.Minute:
		return 100 * time.Millisecond
	}
	return time.Second
}

func duration(d time.Duration) string {
	switch {
	case d < 100*time.Millisecond:
		return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', -1, 64) + " ms"
	case d < 2*time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) + " s"
	case d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + " h"
	case d%time.Minute == 0:
		return strconv.FormatInt(int64(d/time.Minute), 10) + " min"
	}
	return d.String()
}

func digits(n int64) string { return strconv.FormatInt(n, 10) }
