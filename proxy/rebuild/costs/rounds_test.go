package costs_test

import (
	"maps"
	"testing"

	"github.com/rateguard/rateguard/proxy/rebuild/costs"
)

func TestRoundsAndSeals(t *testing.T) {
	p := startKafka(t).partition(2)
	one, two, three := p.producer("one"), p.producer("two"), p.producer("three")
	one.started()
	two.started()
	first := one.round(4)
	two.round(4) // a second rebuilder that read as far as the first
	one.seal(4)
	two.seal(4)
	one.seal(4) // shipped twice
	three.started()
	two.round(3)
	last := two.round(5)
	one.round(5)
	three.seal(5)
	for name, test := range map[string]struct {
		from, folded int64
		round        costs.Round
		sealed       map[string]costs.Seal
		started      map[string]int64
	}{
		"all of it":                       {-1, -1, costs.Round{N: 5, By: "two", At: last}, map[string]costs.Seal{"one": {4, 4}, "two": {4, 5}, "three": {5, 11}}, map[string]int64{"one": 0, "two": 1, "three": 7}},
		"the round is in the table too":   {7, 9, costs.Round{N: 5, By: "two", At: last}, map[string]costs.Seal{"three": {5, 11}}, map[string]int64{"three": 7}},
		"an old one is in the table":      {7, 6, costs.Round{N: 5, By: "two", At: last}, map[string]costs.Seal{"three": {5, 11}}, map[string]int64{"three": 7}},
		"only the other's record is read": {10, 9, costs.Round{N: 5, By: "two", At: -1}, map[string]costs.Seal{"three": {5, 11}}, map[string]int64{}},
		"nothing is read":                 {12, 11, costs.Round{N: 5, By: "two", At: -1}, map[string]costs.Seal{}, map[string]int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			p := startKafka(t).copy(p)
			if test.folded >= 0 {
				p.fold(test.folded)
			}
			v := p.read(test.from).toEnd()
			if v.Round != test.round {
				t.Errorf("round: got %+v, want %+v", v.Round, test.round)
			}
			if !maps.Equal(v.Sealed, test.sealed) || !maps.Equal(v.Started, test.started) {
				t.Errorf("sealed %v, started %v; want %v, %v", v.Sealed, v.Started, test.sealed, test.started)
			}
			if len(v.Workspaces()) != 0 {
				t.Errorf("workspaces %v", v.Workspaces())
			}
		})
	}
	if first != 2 {
		t.Errorf("the first round stands at %d", first)
	}
}

// copy writes the records of another cluster's partition to this one's.
func (k *cluster) copy(from *partition) *partition {
	k.tb.Helper()
	p := k.partition(from.n)
	for _, e := range from.events {
		p.write(e)
	}
	return p
}
