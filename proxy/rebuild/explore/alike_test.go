package explore_test

import (
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
)

// future is what follows a state: digests of what can and is not like itself, whether anything has to, and whether it is wrong.
type future struct {
	next  uint64
	alive bool
	wrong bool
}

// onwards is the future of a state.
func (w *world) onwards(s *state) future {
	var all []uint64
	f := future{wrong: w.wrong(s) != ""}
	own := w.digest(s)
	w.next(s, func(_ move, t state) {
		if d := w.digest(&t); d != own {
			f.alive = f.alive || !w.optional
			all = append(all, d)
		}
	})
	if !f.alive && w.unfinished(s) != "" {
		f.wrong = true
	}
	slices.Sort(all)
	for _, d := range slices.Compact(all) {
		f.next = mix(f.next, d)
	}
	return f
}

// alikeWhole are configurations of which all states are compared.
var alikeWhole = slices.Concat(withEach(one, "two requests of a process"), withEach(both, "two requests"), []config{
	one("two requests of a process, answers too late", faults{late: 2}),
	lonely(both("one request, an answer too late, a wipe", faults{late: 1, wipe: 1})),
	lonely(both("one request, an answer too late, a failover", faults{late: 1, failover: 1})),
	lonely(both("one request, a crash, then the disk lost", faults{crash: 1, lose: 1})),
	lonely(both("one request, taken for dead, a wipe", faults{zombie: 1, wipe: 1})),
	lonely(leased("a lease alone, an answer too late", 1, faults{late: 1})),
	carried(lonely(leased("a lease with a request, an answer too late", 1, faults{late: 1}))),
	lonely(leased("a lease alone, a crash, then the disk lost", 1, faults{crash: 1, lose: 1})),
	leased("a lease, a wipe", 1, faults{wipe: 1}),
})

// alikePart are those of which some are.
var alikePart = slices.Concat(withEach(three, "three requests"), withEach(four, "four requests"), []config{
	joining(both("a process starts, a wipe", faults{wipe: 1})),
	leased("a lease, the disk lost", 1, faults{lose: 1}),
	leased("a lease, a failover", 1, faults{failover: 1}),
	rivals(both("two keepers, a wipe", faults{wipe: 1, restart: 1})),
	both("taken for dead, a wipe", faults{zombie: 1, wipe: 1}),
	both("a lost disk, a failover", faults{lose: 1, failover: 1}),
	lonely(both("one request, taken for dead, a failover", faults{zombie: 1, failover: 1})),
	lonely(both("one request, taken for dead, then a crash, a failover", faults{zombie: 1, crash: 1, failover: 1})),
})

// member is one of the states that are alike.
type member struct {
	state state
	future
}

// compared is what a comparison found.
type compared struct {
	// states are those that were visited, kinds what is left of them when one of those that are alike counts, wrong those that must not be, left those still to be visited.
	states, kinds, wrong, left int
}

// compare visits the states of a configuration, so many at most, and fails where two that are alike go on differently.
func compare(t *testing.T, c config, most int) compared {
	t.Helper()
	w := newWorld(c)
	seen, kinds, wrong := map[uint64]bool{}, map[uint64]member{}, 0
	var queue []state
	push := func(s state) {
		if d := maphash.Comparable(seed, s); !seen[d] {
			seen[d] = true
			queue = append(queue, s)
		}
	}
	push(w.first())
	for len(queue) > 0 && len(seen) < most {
		s := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		d, f := w.digest(&s), w.onwards(&s)
		if was, known := kinds[d]; !known {
			kinds[d] = member{s, f}
		} else if was.future != f {
			t.Fatalf("these are taken for alike:\n%s%s\n%s%s", w.describe(&was.state), w.follow(&was.state), w.describe(&s), w.follow(&s))
		}
		if f.wrong {
			wrong++
		}
		w.next(&s, func(_ move, t state) { push(t) })
	}
	return compared{len(seen), len(kinds), wrong, len(queue)}
}

// TestAlikeStatesGoOnAlike shows that states with one digest have one future, so that it is enough to visit one of them.
func TestAlikeStatesGoOnAlike(t *testing.T) {
	test := func(name string, c config, most int, check func(t *testing.T, got compared)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := compare(t, c, most)
			t.Logf("%+v", got)
			check(t, got)
		})
	}
	for _, c := range alikeWhole {
		test(c.name, c, most, func(t *testing.T, got compared) {
			if got.left > 0 && !raced {
				t.Error("too large to be compared in full")
			}
		})
	}
	limit := often
	if full {
		limit *= 100
	}
	for _, c := range alikePart {
		test(c.name, c, limit, func(*testing.T, compared) {})
	}
	// What only the checks look at tells states apart where something goes wrong.
	var wrong atomic.Int64
	for _, c := range needed() {
		test("without "+c.rule, c.config, limit, func(_ *testing.T, got compared) { wrong.Add(int64(min(1, got.wrong))) })
	}
	t.Cleanup(func() {
		if n := wrong.Load(); n < 10 && !raced {
			t.Errorf("only %d of the worlds without a rule went wrong", n)
		}
	})
}

// TestStepsAreReadLate shows that nothing is left out where a step is read as it is told, or before a move that makes the log longer: only states in which a step is on
// its way that tells all of the log.
func TestStepsAreReadLate(t *testing.T) {
	for _, c := range alikeWhole {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(c)
			reached := func(early bool) map[uint64]bool {
				w.early = early
				seen, left := map[uint64]bool{}, map[uint64]bool{}
				var visit func(s state)
				visit = func(s state) {
					d := w.digest(&s)
					if seen[d] || len(seen) == most {
						return
					}
					seen[d] = true
					if s.step == 0 || int(w.origins[s.step].to) < int(w.size(s.costs))-1 {
						left[d] = true
					}
					w.next(&s, func(_ move, t state) { visit(t) })
				}
				visit(w.first())
				t.Logf("early %v: %d kinds of states, %d without a step that tells all", early, len(seen), len(left))
				return left
			}
			if late, early := reached(false), reached(true); !maps.Equal(late, early) && !raced {
				t.Errorf("%d kinds of states and %d", len(late), len(early))
			}
		})
	}
}

// play makes moves.
func (w *world) play(t *testing.T, s state, moves ...string) state {
	t.Helper()
	for _, name := range moves {
		var to *state
		w.next(&s, func(m move, t state) {
			if m.String() == name {
				to = &t
			}
		})
		if to == nil {
			t.Fatalf("no %q here: %s", name, w.follow(&s))
		}
		s = *to
	}
	return s
}

// TestWhatACloserMayReadTellsStatesApart has closers that may still come to the old primary: of a process that serves, and of one that dies after it was closed. Too far from
// the start for what TestAlikeStatesGoOnAlike compares.
func TestWhatACloserMayReadTellsStatesApart(t *testing.T) {
	w := newWorld(lonely(both("", faults{zombie: 1, failover: 1})))
	s := w.play(t, w.first(), "failover 0", "ask 0", "begin-closing 0", "grant-on-old 0", "open 0", "end 0", "hear-fence 0")
	a, b := w.play(t, s, "settle-on-old 0"), w.play(t, s, "settle 0")
	if w.digest(&a) == w.digest(&b) {
		t.Error("a closer of a process that serves is forgotten")
	}
	w = newWorld(lonely(both("", faults{zombie: 1, crash: 1, failover: 1})))
	s = w.play(t, w.first(), "ask 0", "grant 0", "open 0", "end 0", "begin-closing 0", "hear-fence 0", "retire 0", "read-for-closing 0", "append-closing 0", "read-all-ended 0", "closed 0")
	a, b = w.play(t, s, "settle 0", "failover 0", "crash 0"), w.play(t, s, "failover 0", "settle 0", "crash 0")
	if w.digest(&a) == w.digest(&b) {
		t.Error("a closer that will begin again is forgotten")
	}
}

// follow renders what follows of a state.
func (w *world) follow(s *state) string {
	var out string
	w.next(s, func(m move, t state) { out += fmt.Sprintf("%s: %x\n", m, w.digest(&t)) })
	return out
}
