package explore_test

import (
	"os"
	"slices"
	"testing"
	"time"
)

// full says that everything is explored, however long it takes.
var full = os.Getenv("RATEGUARD_EXPLORE_FULL") != ""

// all is how many states of a large configuration are explored where everything is asked for. That many take ten gigabytes.
const all = 500_000_000

// both is a configuration in which each process may serve one request, of which one fits at its bound.
func both(name string, f faults) config {
	return config{name: name, active: [2]int{1, 1}, limit: 15_000, keepers: 1, faults: f}
}

// three is a configuration in which one process may serve two requests and the other one, of which two fit at their bounds.
func three(name string, f faults) config {
	return config{name: name, active: [2]int{2, 1}, limit: 25_000, keepers: 1, faults: f}
}

// one is a configuration in which a process serves two requests, of which one fits at its bound, and the other process nothing.
func one(name string, f faults) config {
	return config{name: name, active: [2]int{2, 0}, limit: 15_000, keepers: 1, faults: f}
}

// four is a configuration in which each process may serve two requests, of which two fit at their bounds.
func four(name string, f faults) config {
	return config{name: name, active: [2]int{2, 2}, limit: 25_000, keepers: 1, faults: f}
}

// leased is a configuration in which one process has a lease, from which as many of its requests take, and the other one a request that no lease leaves room for.
func leased(name string, takers int, f faults) config {
	return config{name: name, active: [2]int{takers, 1}, leases: [2]uint8{alone, unleased}, limit: 240_000, keepers: 1, faults: f}
}

// carried is one in which the lease is asked for along with a request, which is not among those that take from it.
func carried(c config) config {
	c.leases[0] = along
	c.active[0]++
	return c
}

// lonely is one in which the second process serves nothing.
func lonely(c config) config {
	c.active[1] = 0
	return c
}

// rivals is one with two keepers.
func rivals(c config) config {
	c.keepers, c.faults.rival = 2, 1
	return c
}

// joining is one in which the second process starts while the first serves.
func joining(c config) config {
	c.late = true
	return c
}

// each are the faults that can happen, one at a time.
var each = []struct {
	name string
	faults
}{
	{"", faults{}},
	{", an answer too late", faults{late: 1}},
	{", a record shipped again", faults{dup: 1}},
	{", a process stops", faults{leave: 1}},
	{", a crash", faults{crash: 1}},
	{", the disk lost", faults{lose: 1}},
	{", a power cut", faults{power: 1}},
	{", taken for dead", faults{zombie: 1}},
	{", a wipe", faults{wipe: 1}},
	{", a failover", faults{failover: 1}},
}

// withEach are configurations with each fault.
func withEach(of func(string, faults) config, name string) (all []config) {
	for _, f := range each {
		all = append(all, of(name+f.name, f.faults))
	}
	return all
}

// configs are explored in every order of their events. These are small enough for every run of the tests.
var configs = slices.Concat(withEach(one, "two requests of a process"), withEach(both, "two requests"), []config{
	one("two requests of a process, a crash, an answer too late", faults{crash: 1, late: 1}),
	one("two requests of a process, records shipped again", faults{dup: 2}),
	one("two requests of a process, the disk lost, an answer too late", faults{lose: 1, late: 1}),
	one("two requests of a process, a power cut, an answer too late", faults{power: 1, late: 1}),
	one("two requests of a process, it stops, an answer too late", faults{leave: 1, late: 1}),
	one("two requests of a process, a crash, its closer restarts", faults{crash: 1, restart: 1}),
	both("answers too late", faults{late: 2}),
	both("records shipped again", faults{dup: 2}),
	both("a crash, an answer too late", faults{crash: 1, late: 1}),
	both("a process stops, an answer too late", faults{leave: 1, late: 1}),
	both("a crash, its closer restarts", faults{crash: 1, restart: 1}),
	both("two crashes", faults{crash: 2}),
	joining(both("a process starts, a wipe", faults{wipe: 1})),
	three("three requests", faults{}),
	three("three requests, a process stops", faults{leave: 1}),
	four("four requests", faults{}),
	leased("a lease", 2, faults{}),
	carried(lonely(leased("a lease with a request, an answer too late", 1, faults{late: 1}))),
	leased("a lease, an answer too late", 1, faults{late: 1}),
	leased("a lease, a crash", 1, faults{crash: 1}),
	leased("a lease, the disk lost", 1, faults{lose: 1}),
	leased("a lease, a power cut", 1, faults{power: 1}),
	leased("a lease, a process stops", 1, faults{leave: 1}),
	leased("a lease, a wipe", 1, faults{wipe: 1}),
	lonely(leased("a lease alone, taken for dead", 1, faults{zombie: 1})),
	lonely(leased("a lease alone, a failover", 1, faults{failover: 1})),
	lonely(leased("a lease alone, taken for dead, then a crash", 1, faults{zombie: 1, crash: 1})),
	lonely(leased("a lease alone, taken for dead, then the disk lost", 1, faults{zombie: 1, lose: 1})),
	lonely(both("a process alone, a crash, then the disk lost", faults{crash: 1, lose: 1})),
	lonely(leased("a lease alone, a crash, then the disk lost", 1, faults{crash: 1, lose: 1})),
})

// large are explored in full only where that is asked for.
var large = slices.Concat(withEach(three, "three requests"), withEach(four, "four requests"), []config{
	both("a crash, a wipe", faults{crash: 1, wipe: 1}),
	both("a lost disk, a wipe", faults{lose: 1, wipe: 1}),
	both("taken for dead, a wipe", faults{zombie: 1, wipe: 1}),
	both("an answer too late, a wipe", faults{late: 1, wipe: 1}),
	both("two wipes", faults{wipe: 2}),
	both("an answer too late, a failover", faults{late: 1, failover: 1}),
	both("a crash, a failover", faults{crash: 1, failover: 1}),
	both("a lost disk, a failover", faults{lose: 1, failover: 1}),
	both("taken for dead, a failover", faults{zombie: 1, failover: 1}),
	both("two failovers", faults{failover: 2}),
	both("taken for dead, then a crash", faults{zombie: 1, crash: 1}),
	both("a power cut, a wipe", faults{power: 1, wipe: 1}),
	both("a process stops, a failover", faults{leave: 1, failover: 1}),
	both("taken for dead, its closer restarts", faults{zombie: 1, restart: 1}),
	leased("a lease, taken for dead", 1, faults{zombie: 1}),
	leased("a lease, a failover", 1, faults{failover: 1}),
	leased("a lease, a lost disk, a wipe", 1, faults{lose: 1, wipe: 1}),
	leased("a lease, a crash, a wipe", 1, faults{crash: 1, wipe: 1}),
	leased("a lease, taken for dead, then a crash", 1, faults{zombie: 1, crash: 1}),
	leased("a lease, taken for dead, then the disk lost", 1, faults{zombie: 1, lose: 1}),
	lonely(leased("a lease alone, two requests, taken for dead, then the disk lost", 2, faults{zombie: 1, lose: 1})),
	lonely(leased("a lease alone, taken for dead, then a crash, then the disk lost", 1, faults{zombie: 1, crash: 1, lose: 1})),
	lonely(leased("a lease alone, taken for dead, a wipe, the disk lost", 1, faults{zombie: 1, wipe: 1, lose: 1})),
	leased("a lease, an answer too late, a failover", 1, faults{late: 1, failover: 1}),
	carried(leased("a lease with a request", 1, faults{late: 1})),
	rivals(both("two keepers, a wipe", faults{wipe: 1, restart: 1})),
	joining(both("a process starts, a failover", faults{failover: 1})),
})

// visit explores a configuration and reports what it finds.
func visit(t *testing.T, c config, most int) *outcome {
	t.Helper()
	began := time.Now()
	w := newWorld(c)
	o := deep(w, most)
	t.Logf("%s: %s, in %s", c.name, o, time.Since(began).Round(time.Millisecond))
	if o.violation == "" {
		return o
	}
	w = newWorld(c)
	if short := broad(w, 3_000_000); short.violation != "" {
		t.Fatalf("%s: %s\n%s", c.name, short, w.describe(short.last))
	}
	t.Fatalf("%s: %s\n%s", c.name, o, w.describe(o.last))
	return nil
}

func TestEveryOrderOfEvents(t *testing.T) {
	for _, c := range configs {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if o := visit(t, c, most); o.cut && !raced {
				t.Fatal("too large to be explored in full")
			}
		})
	}
}

// TestEveryOrderOfMoreEvents explores the large configurations as far as it is asked to: whole where they are not too large for that, else what is near the start.
func TestEveryOrderOfMoreEvents(t *testing.T) {
	for _, c := range large {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if full {
				visit(t, c, all)
				return
			}
			w := newWorld(c)
			o := broad(w, near)
			t.Logf("%s: %s", c.name, o)
			if o.violation != "" {
				t.Fatal(w.describe(o.last))
			}
		})
	}
}

// wander goes ways of a configuration at random and reports what it finds.
func wander(t *testing.T, c config, seed uint64, times int) {
	t.Helper()
	w := newWorld(c)
	o := walk(w, seed, times)
	t.Logf("faults %+v: %s", c.faults, o)
	if o.violation != "" {
		t.Fatal(w.describe(o.last))
	}
}

// TestWaysAtRandom goes further than everything can be tried: many faults, each way from the start to where nothing more can happen.
func TestWaysAtRandom(t *testing.T) {
	times := ways
	if full {
		times *= 50
	}
	for seed, c := range []config{
		{active: [2]int{2, 2}, limit: 25_000, keepers: 1, faults: faults{crash: 1, wipe: 1, late: 1}},
		{active: [2]int{2, 2}, limit: 25_000, keepers: 2, faults: faults{crash: 1, zombie: 1, wipe: 2, late: 2, restart: 2, rival: 1, dup: 1}},
		{active: [2]int{2, 2}, limit: 25_000, keepers: 2, faults: faults{lose: 1, zombie: 1, failover: 2, late: 2, restart: 2, rival: 1, dup: 1}},
		{active: [2]int{2, 2}, limit: 25_000, keepers: 2, late: true, faults: faults{crash: 1, power: 1, leave: 1, failover: 1, wipe: 1, late: 2, restart: 1, rival: 1}},
		carried(leased("", 2, faults{crash: 1, zombie: 1, wipe: 1, late: 2, restart: 1, dup: 1})),
		carried(leased("", 2, faults{lose: 1, zombie: 1, failover: 1, late: 2, restart: 1})),
		carried(leased("", 2, faults{crash: 1, lose: 1, zombie: 1, wipe: 1, late: 1, dup: 1})),
		{active: [2]int{3, 2}, leases: [2]uint8{along, alone}, limit: 240_000, keepers: 2, faults: faults{crash: 1, lose: 1, zombie: 1, power: 1, failover: 1, wipe: 1, late: 2, rival: 1}},
	} {
		wander(t, c, uint64(seed), times)
	}
}
