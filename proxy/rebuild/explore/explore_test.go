package explore_test

import "testing"

func TestSmoke(t *testing.T) {
	w := newWorld(config{name: "plain", active: [2]int{1, 1}, limit: 1500, keepers: 1})
	o := search(w, true, 200000)
	t.Log(o)
	if o.violation != "" {
		t.Fatal(w.describe(o.last))
	}
}
