package costs_test

import (
	"context"
	"testing"

	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

func (w *writer) generation(n uint64, ws string) int64 {
	return w.p.write(&rateguardv1.Event{ProducerId: w.id, Body: &rateguardv1.Event_GenerationStarted{GenerationStarted: &rateguardv1.GenerationStarted{
		ProducerId: w.id, Generation: n, Marks: []*rateguardv1.WorkspaceMarks{{WorkspaceId: ws, Costs: w.seq[ws]}},
	}}})
}

// Reading begins behind the end of what an old disk ships again: before the generation, and behind it. Neither is open, and what is of the generation is.
func TestRepeatsOfWhatIsOlderThanTheGenerationAreNotOpen(t *testing.T) {
	p := startKafka(t).partition(0)
	ws := p.workspace(0)
	one, two := p.producer("one"), p.producer("two")
	zeroth := one.opening(ws, "r0", 3)
	p.write(zeroth)
	one.settle(ws, "r0", 3, 1)
	first := one.opening(ws, "r1", 100)
	p.write(first)
	one.settle(ws, "r1", 100, 70)
	late := one.opening(ws, "late", 5)
	p.write(late)
	from := two.open(ws, "t1", 10)
	p.write(first)
	one.generation(1, ws) // of another one, while a reservation is open
	one.settle(ws, "late", 5, 4)
	one.generation(2, ws)
	p.write(zeroth)
	one.open(ws, "r2", 20)
	one.generation(3, ws) // not published yet
	p.write(late)
	for folded := int64(-1); folded < int64(len(p.events)); folded++ {
		if folded >= 0 {
			p.fold(folded)
		}
		for _, offset := range []int64{from, -1} {
			o := p.options(0)
			o.From = func(context.Context) (costs.From, error) {
				return costs.From{Offset: offset, Generations: map[string]uint64{"one": 2}}, nil
			}
			r, err := costs.New(t.Context(), o)
			must(t, err)
			t.Cleanup(r.Close)
			want(t, (&reading{Reader: r, tb: t}).toEnd(), ws, 75, "r2", "t1")
			if t.Failed() {
				t.Fatalf("read from %d, table at %d", offset, folded)
			}
		}
	}
}
