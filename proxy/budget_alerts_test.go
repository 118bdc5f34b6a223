package proxy_test

import (
	"math"
	"net/http"
	"slices"
	"testing"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// The folds that raise alerts see no policy: opening and end say at which shares of the limit somebody wants to hear of it.
func TestHoldsSayWhenToAlert(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		budget     *rateguardv1.Budget
		thresholds []float64
		want       []uint32
		hard       bool
	}{
		"a hard budget":          {hard("b", usd), []float64{0.5, 0.8, 1}, []uint32{500, 800, 1000}, true},
		"a soft one":             {soft("b", usd), []float64{10}, []uint32{10_000}, false},
		"none":                   {hard("b", usd), nil, nil, true},
		"rounded, in order":      {hard("b", usd), []float64{1, 0.0004, 0.3333, 0.33349}, []uint32{1, 333, 1000}, true},
		"what no policy may say": {hard("b", usd), []float64{math.NaN(), math.Inf(1), 0, -1, 10.5}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.budget.AlertAt = test.thresholds
			r, _ := budgeted(t, answerJSON(chatAnswer), rigConfig{budgets: []*rateguardv1.Budget{test.budget}})
			if got := r.chat(t); got.status != http.StatusOK {
				t.Fatalf("%d %s", got.status, got.body)
			}
			r.log.rows(t, 1)
			var holds []*rateguardv1.Hold
			for _, f := range r.log.all() {
				for _, e := range f.events {
					holds = append(append(holds, e.GetReservationOpened().GetHolds()...), e.GetCostSettled().GetOutcome().GetHolds()...)
				}
			}
			if len(holds) != 2 {
				t.Fatalf("holds: %v", holds)
			}
			for _, h := range holds {
				if !slices.Equal(h.GetAlertPermille(), test.want) || h.GetHard() != test.hard {
					t.Errorf("hold: %v, want %v, hard %t", h, test.want, test.hard)
				}
			}
		})
	}
}
