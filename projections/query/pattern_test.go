package query_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rateguard/rateguard/projections/query"
)

// Slots are 1 s wide here, so that a tenth of the window is 10 s.
func TestBurstOrSteady(t *testing.T) {
	one := query.Use{Requests: 1, Units: 1}
	ago := func(seconds int) time.Time { return at.Add(-time.Duration(seconds) * time.Second) }
	tests := []struct {
		name    string
		agos    []int64
		each    query.Use
		pattern string
		peak    *query.Peak
	}{
		{"nothing", nil, one, "", nil},
		{"one request is neither", []int64{4}, one, "", &query.Peak{Requests: 1, Units: 1, From: ago(4), To: ago(4)}},
		{"two requests are neither", []int64{4, 4}, one, "", &query.Peak{Requests: 2, Units: 2, From: ago(4), To: ago(4)}},
		{"three at once", []int64{7, 7, 7}, one, "burst", &query.Peak{Requests: 3, Units: 3, From: ago(7), To: ago(7)}},
		{"two of three are too few for a burst, and too many for steady use", []int64{1, 3, 80}, one, "", &query.Peak{Requests: 2, Units: 2, From: ago(3), To: ago(1)}},
		{"three far from each other", []int64{1, 30, 80}, one, "steady", &query.Peak{Requests: 1, Units: 1, From: ago(1), To: ago(1)}},
		{"half of all in the last slots of a tenth", []int64{0, 20, 40, 70, 75, 79}, one, "burst", &query.Peak{Requests: 3, Units: 3, From: ago(79), To: ago(70)}},
		{"a slot more than a tenth", []int64{0, 20, 40, 70, 75, 80}, one, "steady", &query.Peak{Requests: 2, Units: 2, From: ago(75), To: ago(70)}},
		{"one slot in ten", []int64{5, 15, 25, 35, 45, 55, 65, 75, 85, 95}, one, "steady", &query.Peak{Requests: 1, Units: 1, From: ago(5), To: ago(5)}},
		{"refusals are no use", []int64{3, 3, 3, 3}, query.Use{Denied: 1}, "", nil},
		{"requests that took nothing", []int64{3, 3, 3, 3}, query.Use{Requests: 1}, "", &query.Peak{Requests: 4, From: ago(3), To: ago(3)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			peak, pattern := query.Pattern(test.agos, test.each, &query.UsedBy{To: at})
			if pattern != test.pattern {
				t.Errorf("pattern: got %q, want %q", pattern, test.pattern)
			}
			if diff := cmp.Diff(test.peak, peak); diff != "" {
				t.Errorf("peak (-want +got):\n%s", diff)
			}
		})
	}
}
