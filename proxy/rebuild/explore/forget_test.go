package explore_test

import (
	"maps"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// reading is what a server holds, by number, if its budgets are looked at, and which requests are asked for.
type reading struct {
	keys   int32
	usable bool
	asked  uint64
}

// forget leaves out what nobody will look at any more: what is known of requests that are over, settles that come too late for anything, and servers that nothing can reach.
func (w *world) forget(s *state) {
	asked := uint64(0)
	for r := range requests {
		if s.r[r].calling {
			asked |= 1 << r
		}
	}
	s.primary.keys, s.old.keys = w.legible(s.primary, asked), w.legible(s.old, asked)
	if s.replica.replid = 0; s.left.failover > 0 { // it will have another identity when it takes over
		s.replica.keys = w.legible(s.replica, asked)
	} else {
		s.replica = server{}
	}
	shown := w.shows(s.costs)
	for _, call := range []int32{s.stale, s.k[0].install, s.k[1].install} {
		if call != 0 {
			shown &= w.shows(w.upTo(s.costs, w.origins[call].to+1))
		}
	}
	held := w.holding(s.primary.keys) | w.holding(s.replica.keys)
	_, granting := w.reached(s)
	if granting {
		held |= w.holding(s.old.keys)
	}
	for r := range requests {
		q := &s.r[r]
		if !q.calling {
			q.least = 0
		}
		if q.at == ended || q.at == gone {
			q.over = false
		}
		if q.at == gone {
			q.epoch, q.op = 0, 0
		}
		// No server has it, and the log has its end, also where an installation was made of it.
		if q.settling && !q.calling && held>>r&1 == 0 && shown&(endsRequest<<r) != 0 {
			q.settling = false
		}
	}
	for p := range producers {
		if s.left.leave == 0 && w.leases[p] == unleased && !w.asksMore(s, p) {
			s.p[p].fenced = false
		}
	}
	if s.old.replid == 0 {
		return
	}
	switch called, _ := w.reached(s); {
	case !called:
		s.old = server{}
	case !granting: // what it answers to anything else hangs on its epoch
		s.old = server{replid: ^uint8(w.place(s.old).Epoch)}
	}
}

// legible is what a server holds, by number, without what nobody will look at: when it was renewed, the marks of requests that are not asked for any more, and budgets that
// were installed on another server. Those are made anew before any is used, in a later epoch than they say.
func (w *world) legible(on server, asked uint64) int32 {
	of := reading{on.keys, len(w.rules.edits) > 0 || w.place(on).Epoch > 0, asked}
	n, ok := w.legibles[of]
	if !ok {
		left := keys{}
		for key, hash := range w.states[on.keys] {
			if key == keyspace.State(workspace) {
				hash = maps.Clone(hash)
				maps.DeleteFunc(hash, func(field, _ string) bool {
					return field == "day" || !of.usable && field != "epoch" && field != "life" && field != "pv"
				})
			}
			left[key] = hash
		}
		maps.DeleteFunc(left, func(key string, _ map[string]string) bool {
			for r := range requests {
				if asked>>r&1 == 0 && key == keyspace.Mark(workspace, id(r)) {
					return true
				}
			}
			return false
		})
		n = w.state(left)
		w.legibles[of] = n
	}
	return n
}

// upTo is the beginning of a list.
func (s *shelf) upTo(list, size int32) int32 {
	for s.size(list) > size {
		list = s.lists[list].before
	}
	return list
}

// reached reports whether a call can still come to the old primary, and whether one can that asks for something, or what it holds: of a request that is not over, or of
// a closer.
func (w *world) reached(s *state) (called, granting bool) {
	if s.left.crash+s.left.lose+s.left.power+s.left.zombie > 0 || w.leases != ([producers]uint8{}) {
		return true, true
	}
	for p := range producers {
		switch c := &s.c[p]; {
		case c.step == 0 && s.p[p].phase == serving, c.step == 5 && (c.dead || s.p[p].phase != dead):
		default:
			return true, true // a closer is at work, or will be
		}
	}
	for r := range requests {
		p, q := &s.p[r/perProducer], &s.r[r]
		switch {
		case q.at == idle && (!p.alive() || r%perProducer >= w.active[r/perProducer]):
		case q.at == idle || q.calling:
			granting = true
		case q.settling || q.at != ended && q.at != gone:
			called = true
		}
	}
	return called || granting, granting
}

// asksMore reports whether a request of a process may still be asked for, or be opened.
func (w *world) asksMore(s *state, p int) bool {
	for r := p * perProducer; r < p*perProducer+w.active[p]; r++ {
		if at := s.r[r].at; at < cancelling {
			return true
		}
	}
	return false
}

// holding are the requests of which a server knows something, as a set of bits.
func (w *world) holding(n int32) uint64 {
	for int(n) >= len(w.holdings) {
		bits := uint64(0)
		for field := range w.states[len(w.holdings)][keyspace.State(workspace)] {
			for r := range requests {
				if field == "e"+id(r) {
					bits |= 1 << r
				}
			}
		}
		w.holdings = append(w.holdings, bits)
	}
	return w.holdings[n]
}
