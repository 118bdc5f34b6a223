package runner_test

import (
	"encoding/json"
	"testing"

	"github.com/rateguard/rateguard/projections/runner"
)

func TestMarkTakesEachSequenceOnce(t *testing.T) {
	tests := []struct {
		name    string
		come    []uint64
		fresh   []bool
		skipped uint64
		mark    string
	}{
		{"in order", []uint64{1, 2, 3}, []bool{true, true, true}, 0, `{"Sequence":3,"Holes":null,"Closed":false}`},
		{"repeated", []uint64{1, 2, 1, 2, 3}, []bool{true, true, false, false, true}, 0, `{"Sequence":3,"Holes":null,"Closed":false}`},
		{"a hole", []uint64{1, 5}, []bool{true, true}, 3, `{"Sequence":5,"Holes":[[2,4]],"Closed":false}`},
		{"a hole at the start", []uint64{3}, []bool{true}, 2, `{"Sequence":3,"Holes":[[1,2]],"Closed":false}`},
		{"the middle of a hole", []uint64{1, 5, 3, 3}, []bool{true, true, true, false}, 3, `{"Sequence":5,"Holes":[[2,2],[4,4]],"Closed":false}`},
		{"a hole filled", []uint64{1, 4, 2, 3, 2}, []bool{true, true, true, true, false}, 2, `{"Sequence":4,"Holes":[],"Closed":false}`},
		{"two holes", []uint64{2, 4, 1, 3, 3}, []bool{true, true, true, true, false}, 2, `{"Sequence":4,"Holes":[],"Closed":false}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var m runner.Mark
			var skipped uint64
			for i, s := range test.come {
				fresh, n := m.Observe(s)
				skipped += n
				if fresh != test.fresh[i] {
					t.Errorf("sequence %d (number %d): fresh %v, want %v", s, i, fresh, test.fresh[i])
				}
			}
			if skipped != test.skipped {
				t.Errorf("skipped: got %d, want %d", skipped, test.skipped)
			}
			got, err := json.Marshal(m)
			if err != nil {
				t.Fatalf("writing the mark: %v", err)
			}
			if string(got) != test.mark {
				t.Errorf("mark: got %s, want %s", got, test.mark)
			}
		})
	}
}

func TestMarkIsClosedOnceAndOnlyAtItsSequence(t *testing.T) {
	m := runner.Mark{Sequence: 4}
	for i, test := range []struct {
		sequence uint64
		want     bool
	}{{3, false}, {5, false}, {4, true}, {4, false}} {
		if got := m.Close(test.sequence); got != test.want {
			t.Errorf("closing %d at %d: got %v, want %v", i, test.sequence, got, test.want)
		}
	}
}

func TestRefusedRecordIsAHoleBelowTheMark(t *testing.T) {
	var m runner.Mark
	m.Observe(1)
	m.Refuse(3)
	m.Refuse(3)
	m.Refuse(1)
	if got, err := json.Marshal(m); err != nil || string(got) != `{"Sequence":3,"Holes":[[2,3]],"Closed":false}` {
		t.Errorf("mark: got %s, %v", got, err)
	}
	for _, s := range []uint64{3, 2, 4} {
		if fresh, skipped := m.Observe(s); !fresh || skipped != 0 {
			t.Errorf("sequence %d: fresh %v, %d skipped; want fresh, none", s, fresh, skipped)
		}
	}
	if fresh, _ := m.Observe(3); fresh {
		t.Error("the refused record counts twice")
	}
}
