package explore_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/closing"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics"
)

// longAgo is before everything.
var longAgo = time.UnixMicro(0)

func placesOf(at lua.Place) []lua.Place { return []lua.Place{at} }

// closingKey is what the decision of a closer hangs on.
type closingKey struct {
	p, held        int32
	dead, complete bool
	reads          [6]int32
	n              uint8
	costs          int32
}

// closingPlan is what a closer does next: release these, then append those; nothing: all is ended.
type closingPlan struct {
	release []string
	records []int32
}

// shut emits what closers do.
func (w *world) shut(s *state, out emit) {
	for p := range producers {
		at, prod := &s.c[p], &s.p[p]
		if (prod.phase == lost || prod.rebooted) && !prod.declared && at.step <= 1 && (s.k[0].step == 2 || s.k[1].step == 2) {
			t := *s
			t.p[p].declared = true
			for r := p * perProducer; r < (p+1)*perProducer; r++ {
				t.r[r].calling = false // nobody is declared lost within the deadline of a call
			}
			t.l[p].calling = false
			t.p[p].status = w.status(&t, p, declaredLost)
			t.producers = w.add(t.producers, t.p[p].status)
			out(move{"declare-lost", p}, t)
		}
		if at.step > 0 && at.step < 5 && s.left.restart > 0 {
			t := *s
			t.c[p] = closer{}
			t.left.restart--
			out(move{"closer-restarts", p}, t)
			if at.step == 3 { // what it had appended to its spool is shipped all the same
				t.costs = w.appendAll(t.costs, at.pending)
				out(move{"closer-restarts-shipped", p}, t)
			}
		}
		switch at.step {
		case 0, 5:
			w.beginClosing(s, p, out)
		case 1:
			w.retire(s, p, out)
		case 2:
			w.readClosing(s, p, out)
		case 3:
			t := *s
			t.costs = w.appendAll(s.costs, w.marked(s, p, at.pending))
			t.c[p].step, t.c[p].pending = 2, 0
			out(move{"append-closing", p}, t)
		case 4:
			t := *s
			t.producers = w.add(s.producers, w.status(s, p, closed))
			t.c[p] = closer{step: 5, dead: at.dead}
			out(move{"closed", p}, t)
		}
	}
}

// What a status says of a producer that is closed.
const (
	declaredLost = iota
	begun
	closed
)

func (w *world) status(s *state, p int, says int32) int32 {
	return w.once(fact{kind: "status", a: s.p[p].status, b: says}, func() int32 {
		st := proto.CloneOf(w.event(s.p[p].status).GetProducerStatus())
		*[]*int64{&st.DeclaredLostAtUnixUs, &st.ClosingAtUnixUs, &st.ClosedAtUnixUs}[says] = nowUS
		return w.record(name(p), &rateguardv1.Event{
			Id: []string{"lost-", "closing-of-", "closed-"}[says] + name(p), ProducerId: "kc", Body: &rateguardv1.Event_ProducerStatus{ProducerStatus: st},
		})
	})
}

func (w *world) beginClosing(s *state, p int, out emit) {
	t, prod := *s, &s.p[p]
	isDead := prod.phase == dead
	switch {
	case s.c[p].step == 5 && (s.c[p].dead || !isDead):
		return // closed. The next process on a folder closes all the same what another one has closed
	case isDead && int32(prod.shipped) < w.size(prod.spool):
		return
	case prod.alive():
		if s.left.zombie == 0 {
			return
		}
		t.left.zombie--
		t.p[p].zombie = true
	case prod.phase == unborn:
		return
	}
	if !w.topic(s.producers).retired[p] && !w.rules.noAnnouncedFence {
		t.producers = w.add(s.producers, w.status(s, p, begun))
	}
	t.c[p] = closer{step: 1, roster: t.producers, dead: isDead, complete: isDead && !prod.rebooted}
	out(move{"begin-closing", p}, t)
}

// retire emits the fence in the store, and what that shows of the producer.
func (w *world) retire(s *state, p int, out emit) {
	if s.p[p].declared {
		t := *s
		t.c[p].step = 2
		out(move{"close-without-store", p}, t)
		return
	}
	for i := range s.servers() {
		t := *s
		least := w.least(s.c[p].roster)
		a := w.call(fact{kind: "retire", a: int32(p), b: int32(least)}, t.servers()[i], func() act {
			entries, err := w.balances.Retire(w.ctx(), lua.Retirement{Workspace: workspace, Producer: name(p), Least: least})
			if errors.Is(err, lua.ErrUnusable) {
				return act{a: -1}
			}
			must(err)
			return act{a: w.entries(entries)}
		})
		if a.a < 0 {
			continue
		}
		t.c[p].step, t.c[p].held = 2, a.a
		out(move{[]string{"retire", "retire-on-old"}[i], p}, t)
	}
}

// entries numbers what a store showed.
func (w *world) entries(all []lua.Entry) int32 {
	key := fmt.Sprint(all)
	if len(all) == 0 {
		key = ""
	}
	n, ok := w.heldBy[key]
	if !ok {
		n = int32(len(w.held))
		w.held = append(w.held, all)
		w.heldBy[key] = n
	}
	return n
}

// readClosing emits one reading of the log and what comes of it.
func (w *world) readClosing(s *state, p int, out emit) {
	at, t := &s.c[p], *s
	todo := w.closing(s, p)
	if at.complete && !at.released {
		if len(todo.release) > 0 {
			w.on = &t.primary
			_, err := w.balances.Retire(w.ctx(), lua.Retirement{
				Workspace: workspace, Producer: name(p), Least: w.least(at.roster), Release: todo.release,
			})
			if errors.Is(err, lua.ErrUnusable) {
				t.c[p] = closer{}
				out(move{"close-again", p}, t)
				return
			}
			must(err)
		}
		t.c[p].released = true
	}
	if len(todo.records) == 0 {
		t.c[p] = closer{step: 4, dead: at.dead}
		out(move{"read-all-ended", p}, t)
		return
	}
	if int(at.n) == len(at.reads) {
		panic("a closing that never ends")
	}
	list := int32(0)
	for _, rec := range todo.records {
		list = w.add(list, rec)
	}
	t.c[p].step, t.c[p].pending, t.c[p].reads[at.n], t.c[p].n = 3, list, s.costs, at.n+1
	out(move{"read-for-closing", p}, t)
}

// closing repeats the readings of a closer and one more, with the real decisions.
func (w *world) closing(s *state, p int) closingPlan {
	at := &s.c[p]
	key := closingKey{int32(p), at.held, at.dead, at.complete, at.reads, at.n, s.costs}
	if done, ok := w.closings[key]; ok {
		return done
	}
	shown := map[string]map[string]lua.Entry{}
	for _, e := range w.held[at.held] {
		if shown[workspace] == nil {
			shown[workspace] = map[string]lua.Entry{}
		}
		shown[workspace][e.ID] = e
	}
	st := closing.New(w.event(s.p[p].status).GetProducerStatus(), shown, at.complete)
	next := 0
	var todo closingPlan
	for _, list := range append(append([]int32(nil), at.reads[:at.n]...), s.costs) {
		recs := w.of(list)
		for ; next < len(recs); next++ {
			if rec := w.records[recs[next]]; st.Concerns(rec.value) {
				st.Apply(topics.Costs.Name, rec.key, closing.Place{AtUS: nowUS}, w.event(recs[next]))
			}
		}
		if !at.complete {
			st.TakeHeld()
		}
		todo = closingPlan{release: st.Unopened()[workspace], records: w.missing(st, at.dead)}
	}
	w.closings[key] = todo
	return todo
}

// missing are the records of the costs topic that a closing lacks. Those of the requests topic, which no other record of that topic can meet here, count at once.
func (w *world) missing(st *closing.State, dead bool) []int32 {
	for {
		records, err := st.Missing(dead)
		must(err)
		leftovers := len(records) == 0 && dead
		if leftovers {
			records = st.Leftovers()
		}
		var out []int32
		for _, r := range records {
			e := r.Event
			e.ProducerId, e.WorkspaceId = "kc", r.Workspace
			if e.GetId() == "" {
				e.Id = "closing-" + e.GetProducerClosed().GetProducerId()
			}
			w.freeing(e)
			if r.Topic.Name == topics.Costs.Name {
				out = append(out, w.record(r.Workspace, e))
				continue
			}
			st.Apply(r.Topic.Name, r.Workspace, closing.Place{AtUS: nowUS}, e)
		}
		if len(out) > 0 || leftovers || len(records) == 0 {
			return out
		}
	}
}

func (w *world) appendAll(list, more int32) int32 {
	for _, rec := range w.of(more) {
		list = w.add(list, rec)
	}
	return list
}

// marked gives closings the mark that the log has now, where a mutation takes the check of it away.
func (w *world) marked(s *state, p int, pending int32) int32 {
	if !w.rules.noMarks {
		return pending
	}
	list := int32(0)
	for _, rec := range w.of(pending) {
		e := w.event(rec)
		if c := e.GetProducerClosed(); c != nil {
			c.Mark = spend.Producer(w.view(s.costs).Workspace(workspace).State, name(p)).GetMark()
			rec = w.record(workspace, e)
		}
		list = w.add(list, rec)
	}
	return list
}

// describe renders a state for a trace.
func (w *world) describe(s *state) string {
	var b strings.Builder
	fmt.Fprintf(&b, "costs %s\nproducers %s\nprimary %d: %q\nold %d\n", w.print(s.costs), w.print(s.producers), s.primary.replid, w.states[s.primary.keys].text(), s.old.replid)
	for p := range producers {
		fmt.Fprintf(&b, "producer %s: %+v spool %s, closer %+v\n", name(p), s.p[p], w.print(s.p[p].spool), s.c[p])
	}
	for r := range requests {
		fmt.Fprintf(&b, "request %d: %+v\n", r, s.r[r])
	}
	fmt.Fprintf(&b, "leases %+v\n", s.l)
	fmt.Fprintf(&b, "keepers %+v, step %d, spare %d, stale %d, left %+v\n", s.k, s.step, s.spare, s.stale, s.left)
	return b.String()
}
