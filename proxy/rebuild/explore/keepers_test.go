package explore_test

import (
	"fmt"

	"github.com/rateguard/rateguard/proxy/rebuild/keeper/plan"
	"github.com/rateguard/rateguard/proxy/rebuild/roster"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

func keeperName(k int) string { return fmt.Sprintf("k%d", k+1) }

// keep emits what keepers do.
func (w *world) keep(s *state, out emit) {
	w.reconcile(s, out)
	for k := range w.keepers {
		w.round(s, k, out)
	}
}

// strayCalls emits the arrival of calls of keepers that nobody waits for.
func (w *world) strayCalls(s *state, out emit) {
	if s.stale != 0 {
		t := *s
		w.run(&t.primary, s.stale)
		t.stale = 0
		out(move{"install-late", 0}, t)
	}
	for i, on := range s.servers() {
		if s.spare != 0 && w.meets(*on, s.spare) {
			t := *s
			w.run(t.servers()[i], s.spare)
			t.spare = 0
			out(move{[]string{"reconcile-late", "reconcile-late-on-old"}[i], 0}, t)
		}
	}
}

// round emits the next step of a keeper's round.
func (w *world) round(s *state, k int, out emit) {
	at, t := &s.k[k], *s
	if at.step > 0 && at.step < 3 && s.left.restart > 0 {
		t.k[k] = keeper{}
		t.left.restart--
		out(move{"keeper-restarts", k}, t)
		t = *s
	}
	switch at.step {
	case 0:
		place := w.place(s.primary)
		newest := w.newest(s)
		if plan.Usable(place, newest) {
			return
		}
		if k > 0 {
			if s.left.rival == 0 {
				return
			}
			t.left.rival--
		}
		n := plan.Next(newest, placesOf(place))
		if w.rules.noRounds {
			t.k[k] = keeper{step: 3, n: uint8(n), install: w.installation(s.costs, s.producers, n)}
			out(move{"install-at-once", k}, t)
			return
		}
		t.k[k] = keeper{step: 1, n: uint8(n)}
		if !w.rules.partitionFirst {
			t.producers = w.add(s.producers, w.roundRecord(roster.RoundKey(0), k, n))
		}
		out(move{"announce-round", k}, t)
	case 1:
		t.costs = w.add(s.costs, w.roundRecord(partitionKey(), k, uint64(at.n)))
		if w.rules.partitionFirst {
			t.k[k].step = 4
		} else {
			t.k[k].step, t.k[k].roster = 2, s.producers
		}
		out(move{"write-round", k}, t)
	case 4: // of the mutation that tells the other topic afterwards
		t.producers = w.add(s.producers, w.roundRecord(roster.RoundKey(0), k, uint64(at.n)))
		t.k[k].step, t.k[k].roster = 2, t.producers
		out(move{"announce-round", k}, t)
	case 2:
		v, n := w.view(s.costs), uint64(at.n)
		if plan.Superseded(v, n, keeperName(k)) {
			t.k[k] = keeper{}
			out(move{"superseded", k}, t)
			return
		}
		if v.Round.N != n {
			return
		}
		// What it reads of the other topic meanwhile it may have read now, or not.
		for i, read := range []int32{s.producers, at.roster} {
			if i > 0 && read == s.producers || !w.rules.deafKeeper && w.waits(s.costs, read, n) {
				continue
			}
			t.k[k].step, t.k[k].install = 3, w.installation(s.costs, read, n)
			out(move{"sealed", k}, t)
		}
	case 3:
		w.run(&t.primary, at.install)
		t.k[k] = keeper{}
		out(move{"install", k}, t)
		if s.left.late > 0 {
			t := *s
			t.left.late--
			t.stale, t.k[k] = at.install, keeper{}
			out(move{"install-unanswered", k}, t)
		}
		if w.rules.installsTwice && s.left.again > 0 {
			t := *s
			w.run(&t.primary, at.install)
			t.left.again--
			t.stale, t.k[k] = at.install, keeper{}
			out(move{"install-and-again", k}, t)
		}
	}
}

// waits reports whether a seal of the round is missing.
func (w *world) waits(costs, producers int32, n uint64) bool {
	key := [3]int32{costs, producers, int32(n)}
	missing, ok := w.owes[key]
	if !ok {
		missing = len(plan.Missing(w.view(costs), w.roster(producers), 0, n)) > 0
		w.owes[key] = missing
	}
	return missing
}

func (w *world) roundRecord(key string, k int, n uint64) int32 {
	return w.once(fact{kind: key, a: int32(k), b: int32(n)}, func() int32 {
		return w.record(key, &rateguardv1.Event{Id: fmt.Sprintf("round-%d", n), ProducerId: keeperName(k), Body: &rateguardv1.Event_Round{Round: &rateguardv1.Round{N: n}}})
	})
}

// installation is the call that installs what a log shows, with the fences of what is read of the producers topic.
func (w *world) installation(costs, producers int32, n uint64) int32 {
	key := [3]int32{costs, producers, int32(n)}
	call, ok := w.installs[key]
	if !ok {
		in, err := plan.Installation(w.view(costs), workspace, n)
		must(err)
		in.PolicyVersion, in.Fenced = 1, w.roster(producers).RetiredSince(longAgo)
		w.on = nil
		_, _ = w.balances.Install(w.ctx(), in) // it is noted
		call = w.sent
		w.installs[key] = call
		w.comes(call, origin{from: -1, to: w.size(costs) - 1, epoch: int32(n), fenced: w.topic(producers).retired})
	}
	return call
}

// reconcile emits the telling of a step of the log: of what was read before the log went on, or is read now.
func (w *world) reconcile(s *state, out emit) {
	for i, on := range s.servers() {
		call := s.step
		switch {
		case call == 0 && w.early:
			if t := *s; w.due(s, i) != 0 {
				t.step = w.due(s, i)
				out(move{[]string{"read-step", "read-step-for-old"}[i], 0}, t)
			}
		case call == 0:
			call = w.due(s, i)
		case !w.meets(*on, call):
			call = 0
		}
		if call == 0 {
			continue
		}
		t := *s
		w.run(t.servers()[i], call)
		t.step = 0
		out(move{[]string{"reconcile", "reconcile-on-old"}[i], 0}, t)
		if s.left.late > 0 && s.spare == 0 {
			t.spare = call
			t.left.late--
			out(move{[]string{"reconcile-twice", "reconcile-twice-on-old"}[i], 0}, t)
		}
	}
}

// behind emits a move, and the same with a step of the log on its way that was read just before, where the move made the log longer. A step that is read at any other time
// can as well be read later, with the same to tell: TestStepsAreReadLate.
func (w *world) behind(s *state, out emit) emit {
	return func(m move, t state) {
		w.drop(&t)
		out(m, t)
		if t.costs == s.costs || s.step != 0 || w.early {
			return
		}
		for i := range s.servers() {
			t := t
			if t.step = w.due(s, i); t.step == 0 {
				continue
			}
			if w.drop(&t); t.step != 0 {
				out(move{m.what + []string{", a step was read", ", a step for the old one was read"}[i], m.who}, t)
			}
		}
	}
}

// due is the call that tells a server the next step of the log; 0 where there is none, or nobody looks at that server any more.
func (w *world) due(s *state, i int) int32 {
	if w.rules.noReconciler || i > 0 && !w.grants(s) {
		return 0
	}
	return w.step(*s.servers()[i], s.costs)
}

// step is the call that tells a server how the log went on behind where it stands; 0 where no reservation ended and nothing was taken from a lease.
func (w *world) step(on server, costs int32) int32 {
	at := plan.Standing{Place: w.place(on)}
	if at.Epoch == 0 || at.At+1 >= int64(w.size(costs)) {
		return 0
	}
	key := [3]int32{costs, int32(at.At), int32(at.Epoch)}
	call, ok := w.steps[key]
	if ok {
		return call
	}
	v := w.newView()
	v.Touch(workspace)
	w.read(v, costs, 0, int(at.At)+1)
	v.Steps()
	if at.At%2 == 0 && v.Workspace(workspace) != nil { // whole sums and those that changed in turn
		at.Posted = plan.Fields(v.Workspace(workspace).Posted())
	}
	w.read(v, costs, int(at.At)+1, len(w.of(costs)))
	for _, step := range v.Steps() {
		w.hidden(v, &step)
		if len(step.Ended) == 0 && len(step.Taken) == 0 || at.Ahead(&step) || at.Behind(&step) {
			continue
		}
		w.on = nil
		_, _, _, _ = w.balances.Reconcile(w.ctx(), w.told(at.Step(&step, v.Workspace(workspace), plan.Fields(v.Workspace(workspace).Posted())))) // it is noted
		call = w.sent
		w.comes(call, origin{from: int32(at.At), to: w.size(costs) - 1, epoch: int32(at.Epoch)})
	}
	w.steps[key] = call
	return call
}
