package explore_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/rateguard/rateguard/proxy/rebuild/keeper/plan"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

// fail emits the faults that may still happen.
func (w *world) fail(s *state, out emit) {
	for p := range producers {
		if s.p[p].phase == dead && s.left.lose > 0 {
			t := *s
			t.p[p].phase, t.p[p].kept = lost, true
			t.left.lose--
			out(move{"lose-disk", p}, t)
		}
		if !s.p[p].alive() {
			continue
		}
		if s.left.crash > 0 {
			t := *s
			t.p[p].phase = dead
			t.left.crash--
			out(move{"crash", p}, t)
		}
		if s.left.lose > 0 {
			t := *s
			t.p[p].phase = lost
			t.left.lose--
			out(move{"crash-and-lose", p}, t)
		}
	}
	for p := range producers {
		w.failWithMachine(s, p, out)
		w.leave(s, p, out)
	}
	if s.left.wipe > 0 {
		t := *s
		t.primary.keys = 0
		t.left.wipe--
		t.forgetLate()
		out(move{"wipe", 0}, t)
	}
	if s.left.failover > 0 {
		if s.replica != s.primary {
			t := *s
			t.replica = t.primary
			out(move{"replicate", 0}, t)
		}
		t := *s
		t.replids++
		t.old, t.primary = s.primary, server{s.replica.keys, t.replids}
		t.replica = t.primary
		t.left.failover--
		t.forgetLate()
		out(move{"failover", 0}, t)
	}
}

// failWithMachine emits the end of a process whose machine loses its power: with the end of its spool, or not.
func (w *world) failWithMachine(s *state, p int, out emit) {
	if s.left.power == 0 || !s.p[p].alive() {
		return
	}
	t := *s
	t.p[p].phase, t.p[p].rebooted = dead, true
	t.left.power--
	for {
		out(move{"power-cut", p}, t)
		if int32(t.p[p].shipped) == w.size(t.p[p].spool) {
			return
		}
		t.p[p].spool = w.lists[t.p[p].spool].before
	}
}

// leave emits the end of a process that stops well: with nothing open, nothing to be cancelled, and all shipped, it closes itself.
func (w *world) leave(s *state, p int, out emit) {
	at := &s.p[p]
	if s.left.leave == 0 || at.phase != serving || at.fenced || int32(at.shipped) < w.size(at.spool) {
		return
	}
	t := *s
	for r := p * perProducer; r < (p+1)*perProducer; r++ {
		if q := s.r[r]; q.at != idle && q.at != ended && q.at != gone {
			return
		}
		t.r[r].calling = false // a process that drains outlasts the deadline of its calls
	}
	if l := s.l[p].at; l != idle && l != ended && l != gone {
		return
	}
	t.l[p].calling = false
	t.producers = w.add(s.producers, w.status(s, p, closed))
	t.p[p].phase = lost
	t.c[p] = closer{step: 5, dead: true}
	t.left.leave--
	out(move{"leave", p}, t)
}

// forgetLate drops the calls whose cancellation was acknowledged: their deadline is over before a lost state can be installed anew.
func (s *state) forgetLate() {
	for r := range s.r {
		if s.r[r].at == gone {
			s.r[r].calling = false
		}
	}
	for p := range s.l {
		if s.l[p].at == gone {
			s.l[p].calling = false
		}
	}
}

// next emits every state that can follow. Optional are those that need not: neither a fault nor a call that may as well be lost has to happen.
func (w *world) next(s *state, out emit) {
	out = w.behind(s, out)
	live := func(m move, t state) {
		w.optional = false
		out(m, t)
	}
	w.serve(s, live)
	w.keep(s, live)
	w.shut(s, live)
	may := func(m move, t state) {
		w.optional = true
		out(m, t)
	}
	w.stray(s, may)
	w.fail(s, may)
}

// drop lets calls of the reconciler end that were made for budgets which are no more, or which nobody asks of the old primary any more: they change nothing, whenever they
// come, and until then no other is made. Without what the scripts check they might.
func (w *world) drop(s *state) {
	if len(w.rules.edits) > 0 {
		return
	}
	for _, call := range []*int32{&s.step, &s.spare} {
		if *call != 0 && !w.meets(s.primary, *call) && (s.old.replid == 0 || !w.meets(s.old, *call) || !w.grants(s)) {
			*call = 0
		}
	}
}

// meets reports whether a call of the reconciler was made for the budgets of a server.
func (w *world) meets(on server, call int32) bool {
	return uint64(w.origins[call].epoch) == w.place(on).Epoch || len(w.rules.edits) > 0
}

// grants reports whether something can still be asked of the old primary.
func (w *world) grants(s *state) bool {
	_, granting := w.reached(s)
	return granting
}

// counts is what requests take of the budget when a grant was just given to one, or a lease to a producer: what was sent and may cost, at its bound, what was served,
// at its cost, and what can still be sent, also by what is left of leases.
func (w *world) counts(s *state, of, lent int) int64 {
	sum := int64(0)
	for p := range producers {
		prod, l := &s.p[p], &s.l[p]
		if p == lent || (l.at == granted || l.at == open) && prod.phase == serving && !prod.fenced && l.epoch >= prod.least {
			sum += w.rest(s, p)
		}
	}
	for r := range requests {
		p, q := &s.p[r/perProducer], &s.r[r]
		switch {
		case r == of:
			sum += w.bound(r)
		case p.declared:
		case q.at == open:
			sum += w.bound(r)
		case q.at == ended:
			sum += cost(r)
		case q.at == granted && p.phase == serving && !p.fenced && q.epoch >= p.least:
			sum += w.bound(r)
		}
	}
	return sum
}

// wrong says what a state must not be; empty where it may.
func (w *world) wrong(s *state) string {
	for r := range requests {
		q := &s.r[r]
		if q.at != open {
			continue
		}
		if q.over {
			return fmt.Sprintf("oversold: request %d was sent, and did not fit when it was granted", r)
		}
		if w.takes(r) {
			continue // it has no number but its lease's
		}
		for o := range requests {
			if p := &s.r[o]; o != r && !w.takes(o) && (p.at == open || p.at == ended) && p.epoch == q.epoch && p.op == q.op {
				return fmt.Sprintf("requests %d and %d are both grant %d of epoch %d", o, r, q.op, q.epoch)
			}
		}
		for p := range producers {
			if l := &s.l[p]; (l.at == open || l.at == ended) && l.epoch == q.epoch && l.op == q.op {
				return fmt.Sprintf("request %d and the lease of %s are both grant %d of epoch %d", r, name(p), q.op, q.epoch)
			}
		}
	}
	if a, b := &s.l[0], &s.l[1]; (a.at == open || a.at == ended) && (b.at == open || b.at == ended) && a.epoch == b.epoch && a.op == b.op {
		return fmt.Sprintf("both leases are grant %d of epoch %d", a.op, a.epoch)
	}
	return w.apart(s)
}

// unfinished says what is left over where nothing more can happen; empty where nothing is.
func (w *world) unfinished(s *state) string {
	latest := w.newest(s)
	if place := w.place(s.primary); !plan.Usable(place, latest) {
		return fmt.Sprintf("the budgets stay closed: %+v, round %d", place, latest)
	}
	ws := w.view(s.costs).Workspace(workspace)
	posted, reserved := int64(0), int64(0)
	for _, b := range ws.State.GetBudgets() {
		for _, balance := range b.GetBalances() {
			for _, p := range balance.GetPeriods() {
				posted, reserved = posted+p.GetSums().GetPostedNanoUsd(), reserved+p.GetSums().GetReservedNanoUsd()
			}
		}
	}
	if reserved != 0 || len(ws.Open) > 0 {
		return fmt.Sprintf("the log holds %d for ever, in %d reservations", reserved, len(ws.Open))
	}
	if sums := w.sums(s); !slices.Contains(sums, posted) {
		return fmt.Sprintf("the log shows %d as posted, which may be one of %v", posted, sums)
	}
	hash := w.states[s.primary.keys][keyspace.State(workspace)]
	if hash["n"] != "0" {
		return fmt.Sprintf("the store holds %s reservations for ever", hash["n"])
	}
	for field, text := range hash {
		if strings.HasPrefix(field, "bbudget") && text != fmt.Sprintf("%d 0 %d", posted, posted) {
			return fmt.Sprintf("the store shows %q, the log %d", text, posted)
		}
		if field[0] == 'q' || field[0] == 'e' && field != "epoch" {
			return fmt.Sprintf("the store keeps %s %q", field, text)
		}
	}
	return ""
}

// sums are what the log may show as posted at the end.
func (w *world) sums(s *state) []int64 {
	sums := []int64{0}
	plus := func(may []int64) {
		var more []int64
		for _, each := range may {
			for _, sum := range sums {
				more = append(more, sum+each)
			}
		}
		sums = more
	}
	for r := range requests {
		plus(w.costsOf(s, r))
	}
	for p := range producers {
		plus(w.charges(s, p))
	}
	return sums
}

// costsOf are the costs that a request may have at the end.
func (w *world) costsOf(s *state, r int) []int64 {
	p, q := &s.p[r/perProducer], &s.r[r]
	switch {
	case w.takes(r) && w.shows(s.costs)>>r&1 == 0:
		return []int64{0} // what was sent is in what is charged for the lease
	case w.takes(r) && p.declared:
		return []int64{cost(r), w.bound(r)}
	case p.declared:
		return []int64{0, cost(r), w.bound(r)}
	case q.at == ended && (p.phase == lost || p.rebooted):
		return []int64{cost(r), w.bound(r)} // the bound where neither the log nor the store was told
	case q.at == ended:
		return []int64{cost(r)}
	case q.at == open:
		return []int64{w.bound(r)} // it died with it
	case q.at != idle && (p.phase == lost || p.rebooted || p.zombie):
		return []int64{0, w.bound(r)} // what was granted may have been sent
	}
	return []int64{0}
}

// outcome is what a search found.
type outcome struct {
	states, moves, ends int
	depth               int
	violation           string
	trace               []string
	last                *state
	cut                 bool
}

func (o *outcome) String() string {
	s := strconv.Itoa(o.states) + " states, " + strconv.Itoa(o.moves) + " moves, " + strconv.Itoa(o.ends) + " ends, depth " + strconv.Itoa(o.depth)
	if o.cut {
		s += " (cut)"
	}
	if o.violation != "" {
		s += ": " + o.violation + " after\n  " + strings.Join(o.trace, "\n  ")
	}
	return s
}

// deep visits one state of each kind that can be reached, so many at most, and ends at the first violation. A kind that comes back behind another is one too: then
// something goes round for ever, unless that takes an old primary which answers each time.
func deep(w *world, most int) *outcome {
	o := new(outcome)
	var seen digests
	underWay := map[uint64]int{} // by how many moves lead there
	var path []move
	stop := func(s *state, violation string) {
		o.violation, o.last = violation, s
		for _, m := range path {
			o.trace = append(o.trace, m.String())
		}
	}
	var visit func(s *state, as uint64)
	visit = func(s *state, as uint64) {
		if o.cut = o.states >= most; o.cut {
			return
		}
		o.states++
		o.depth = max(o.depth, len(path))
		underWay[as] = len(path)
		violation := w.wrong(s)
		if violation == "" {
			alive := false
			w.next(s, func(m move, t state) {
				o.moves++
				if o.violation != "" || o.cut {
					return
				}
				to := w.digest(&t)
				if to == as {
					return // nobody can tell that it happened
				}
				alive = alive || !w.optional
				from, on := underWay[to]
				path = append(path, m)
				switch {
				case on && !slices.ContainsFunc(path[from:], move.onOld):
					stop(&t, "it goes round for ever")
				case seen.add(to):
					visit(&t, to)
				}
				path = path[:len(path)-1]
			})
			if !alive && o.violation == "" && !o.cut {
				o.ends++
				violation = w.unfinished(s)
			}
		}
		if violation != "" {
			stop(s, violation)
		}
		delete(underWay, as)
	}
	first := w.first()
	as := w.digest(&first)
	seen.add(as)
	visit(&first, as)
	return o
}

// frame is a state, how many moves it took, the state that it came from and by which move.
type frame struct {
	state state
	depth int
	from  int32
	by    move
}

// broad visits states in the order of their distance, so many at most: the first violation that it finds has the shortest trace.
func broad(w *world, most int) *outcome {
	o := new(outcome)
	var seen digests
	var queue []frame
	push := func(f frame, as uint64) {
		if seen.add(as) {
			queue = append(queue, f)
		}
	}
	first := w.first()
	push(frame{state: first, from: -1}, w.digest(&first))
	for at := 0; at < len(queue); at++ {
		if o.cut = o.states == most; o.cut {
			return o
		}
		f := queue[at]
		o.states++
		o.depth = f.depth
		o.violation = w.wrong(&f.state)
		if o.violation == "" {
			alive, as := false, w.digest(&f.state)
			w.next(&f.state, func(m move, t state) {
				o.moves++
				if to := w.digest(&t); to != as {
					alive = alive || !w.optional
					push(frame{state: t, depth: f.depth + 1, from: int32(at), by: m}, to)
				}
			})
			if !alive {
				o.ends++
				o.violation = w.unfinished(&f.state)
			}
		}
		if o.violation != "" {
			o.last = &f.state
			for n := f; n.from >= 0; n = queue[n.from] {
				o.trace = append(o.trace, n.by.String())
			}
			slices.Reverse(o.trace)
			return o
		}
	}
	return o
}

// faultEvery is how many moves go by between two faults on a way, so that they do not all come before anything has happened.
const faultEvery = 12

// walk takes ways at random until nothing more can happen, so many times.
func walk(w *world, seed uint64, times int) *outcome {
	o := new(outcome)
	r := rand.New(rand.NewPCG(seed, 0))
	for range times {
		s := w.first()
		o.trace = o.trace[:0]
		for {
			o.states++
			o.depth = max(o.depth, len(o.trace))
			t, by, alive, more := w.choose(&s, r)
			if o.violation = w.wrong(&s); o.violation == "" && !alive {
				o.ends++
				o.violation = w.unfinished(&s)
			}
			if o.violation != "" {
				o.last = &s
				return o
			}
			if !more {
				break
			}
			s = t
			o.trace = append(o.trace, by.String())
		}
	}
	o.trace = nil
	return o
}

// choose takes one of the moves that can follow, seldom a fault. It reports whether something other than a fault can follow, and whether it took one.
func (w *world) choose(s *state, r *rand.Rand) (next state, by move, alive, took bool) {
	fault, moves, faults := r.IntN(faultEvery) == 0, 0, 0
	var broken state
	var how move
	pick := w.behind(s, func(m move, t state) {
		if moves++; r.IntN(moves) == 0 {
			next, by = t, m
		}
	})
	w.serve(s, pick)
	w.keep(s, pick)
	w.shut(s, pick)
	live := moves
	w.stray(s, pick)
	w.fail(s, w.behind(s, func(m move, t state) {
		if faults++; r.IntN(faults) == 0 {
			broken, how = t, m
		}
	}))
	if faults > 0 && (fault || live == 0 && r.IntN(2) == 0) {
		next, by = broken, how
	}
	return next, by, live > 0, by.what != ""
}
