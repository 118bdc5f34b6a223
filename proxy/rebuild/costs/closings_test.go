package costs_test

import (
	"fmt"
	"slices"
	"testing"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// Every case is read with the table at each offset: a closing may be in the sums already, or not, and its producer's records may
// stand before what is read.
func TestClosings(t *testing.T) {
	k := startKafka(t)
	for i, test := range []struct {
		name  string
		write func(p *partition, ws string)
		// from is where reading begins, beside the partition's start.
		from   int64
		posted int64
		open   []string
		// ended has to be among what the steps report, each id at least once; others must not be.
		ended  []string
		closed bool
	}{
		{"accepted", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			one.open(ws, "r1", 100)
			one.open(ws, "r2", 50)
			one.settle(ws, "r1", 100, 70)
			two.open(ws, "t1", 10)
			two.close(ws, "one", 3, outcome("r2", 50, 50))
		}, 3, 120, []string{"t1"}, []string{"r2"}, true},
		{"ignored, since the producer still wrote", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			one.open(ws, "r1", 100)
			one.open(ws, "r2", 50)
			two.close(ws, "one", 1, outcome("r1", 100, 100))
		}, 0, 0, []string{"r1", "r2"}, nil, false},
		{"ignored, then accepted with the right mark", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			one.open(ws, "r1", 100)
			one.open(ws, "r2", 50)
			one.open(ws, "r3", 7)
			two.open(ws, "t1", 10)
			two.close(ws, "one", 2, outcome("r1", 100, 100), outcome("r2", 50, 50))
			two.close(ws, "one", 3, outcome("r1", 100, 100), outcome("r2", 50, 50), outcome("r3", 7, 7))
		}, 3, 157, []string{"t1"}, []string{"r1", "r2", "r3"}, true},
		{"a second one is ignored", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			one.open(ws, "r1", 100)
			two.open(ws, "t1", 10)
			two.close(ws, "one", 1, outcome("r1", 100, 100))
			two.close(ws, "one", 1, outcome("r1", 100, 100), outcome("t1", 10, 10))
		}, 1, 100, []string{"t1"}, []string{"r1"}, true},
		{"a late end is a correction", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			one.open(ws, "r1", 100)
			two.open(ws, "t1", 10)
			two.close(ws, "one", 1, outcome("r1", 100, 100))
			one.settle(ws, "r1", 100, 30)
		}, 1, 30, []string{"t1"}, []string{"r1"}, true},
		{"an old disk brings an opening behind it", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			one.open(ws, "r1", 100)
			two.open(ws, "t1", 10)
			two.close(ws, "one", 1, outcome("r1", 100, 100))
			one.open(ws, "r2", 20)
		}, 1, 100, []string{"r2", "t1"}, []string{"r1"}, true},
		{"an old disk brings an opening from a lease that it has charged", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			p.write(one.lease(ws, "l1", 100))
			two.open(ws, "t1", 10)
			two.close(ws, "one", 1, rest("l1", 100, 100))
			p.write(one.taking(ws, "r2", "l1", 20))
		}, 1, 100, []string{"t1"}, []string{"l1"}, true},
		{"or one of so many leases that nobody knows", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			p.write(one.lease(ws, "l1", 100))
			two.open(ws, "t1", 10)
			ends := []*rateguardv1.Outcome{rest("l1", 100, 100)}
			for i := range 1600 {
				ends = append(ends, rest(fmt.Sprintf("x%d", i), 0, 0))
			}
			two.close(ws, "one", 1, ends...)
			p.write(one.taking(ws, "r2", "l1", 20))
			p.write(one.taking(ws, "r3", "x1599", 20))
		}, 1, 100, []string{"t1"}, []string{"l1"}, true},
		{"an old disk ships again what was closed", func(p *partition, ws string) {
			one, two := p.producer("one"), p.producer("two")
			first := one.opening(ws, "r1", 100)
			p.write(first)
			two.close(ws, "one", 1, outcome("r1", 100, 100))
			two.open(ws, "t1", 10)
			p.write(first)
			two.open(ws, "t2", 1)
		}, 2, 100, []string{"t1", "t2"}, nil, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := k.partition(int32(i % partitions))
			if i >= partitions {
				p = startKafka(t).partition(0)
			}
			ws := p.workspace(0)
			test.write(p, ws)
			for folded := int64(-1); folded < int64(len(p.events)); folded++ {
				if folded >= 0 {
					p.fold(folded)
				}
				for _, from := range []int64{test.from, -1} {
					r := p.read(from)
					v := r.toEnd()
					want(t, v, ws, test.posted, test.open...)
					if got := v.Closed["one"][ws]; got != test.closed {
						t.Errorf("closed: got %t, want %t", got, test.closed)
					}
					ids, _, to := r.ended(ws)
					for _, id := range test.ended {
						if !slices.Contains(ids, id) {
							t.Errorf("%s is not among the ended %v", id, ids)
						}
					}
					for _, id := range test.open {
						if slices.Contains(ids, id) {
							t.Errorf("%s is open and among the ended %v", id, ids)
						}
					}
					if to != int64(len(p.events))-1 {
						t.Errorf("steps reach %d, want the last record", to)
					}
					if t.Failed() {
						t.Fatalf("read from %d, table at %d", from, folded)
					}
				}
			}
		})
	}
}

func TestRecordsAtTwoOffsetsCountOnce(t *testing.T) {
	p := startKafka(t).partition(3)
	ws := p.workspace(0)
	one := p.producer("one")
	first, second, third := one.opening(ws, "r1", 100), one.settling(ws, "r1", 100, 70), one.opening(ws, "r2", 10)
	for _, e := range []*rateguardv1.Event{first, second, first, second, third, second, third} {
		p.write(e)
	}
	for folded := int64(-1); folded < int64(len(p.events)); folded++ {
		if folded >= 0 {
			p.fold(folded)
		}
		r := p.read(0)
		want(t, r.toEnd(), ws, 70, "r2")
		if ids, _, _ := r.ended(ws); !slices.Equal(ids, []string{"r1"}) {
			t.Errorf("table at %d: ended %v, want r1 once", folded, ids)
		}
	}
}

// A record that was refused and is sent again later fills its hole: an opening may come behind its end.
func TestOpeningThatFillsAHoleBehindItsEndIsNotOpen(t *testing.T) {
	p := startKafka(t).partition(0)
	ws := p.workspace(0)
	one := p.producer("one")
	late, end := one.opening(ws, "r1", 100), one.settling(ws, "r1", 100, 70)
	p.write(end)
	one.open(ws, "r2", 10)
	p.write(late)
	for folded := int64(-1); folded < int64(len(p.events)); folded++ {
		if folded >= 0 {
			p.fold(folded)
		}
		want(t, p.read(0).toEnd(), ws, 70, "r2")
	}
}
