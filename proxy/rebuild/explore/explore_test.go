package explore_test

import (
	"os"
	"strings"
	"testing"
	"time"
)

var configs = []config{
	{name: "plain 2x1", active: [2]int{1, 1}, limit: 1500, keepers: 1},
	{name: "plain 2x2", active: [2]int{2, 2}, limit: 2500, keepers: 1},
	{name: "late", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{late: 2}},
	{name: "crash", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{crash: 1}},
	{name: "lose", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{lose: 1}},
	{name: "zombie", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{zombie: 1}},
	{name: "wipe", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{wipe: 1}},
	{name: "failover", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{failover: 1}},
	{name: "crash+wipe", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{crash: 1, wipe: 1}},
	{name: "lose+wipe", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{lose: 1, wipe: 1}},
	{name: "zombie+wipe", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{zombie: 1, wipe: 1}},
	{name: "late+wipe", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{late: 1, wipe: 1}},
	{name: "wipe wipe", active: [2]int{1, 1}, limit: 1500, keepers: 1, faults: faults{wipe: 2}},
	{name: "starts late", active: [2]int{1, 1}, late: true, limit: 1500, keepers: 1, faults: faults{failover: 1}},
}

func TestSmoke(t *testing.T) {
	only := os.Getenv("ONLY")
	for _, c := range configs {
		if only != "" && !strings.Contains(c.name, only) {
			continue
		}
		w := newWorld(c)
		began := time.Now()
		o := search(w, false, 500000)
		t.Log(c.name, o, time.Since(began), len(w.states), "stores", len(w.lists), "lists")
		if o.violation != "" {
			w = newWorld(c)
			o = search(w, true, 500000)
			t.Log(c.name, o)
			if o.last != nil {
				t.Error(w.describe(o.last))
			}
		}
	}
}
