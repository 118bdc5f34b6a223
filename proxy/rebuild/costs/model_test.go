package costs_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/spend"
	"github.com/rateguard/rateguard/topics/hash"
)

// model is what a plain reader of the whole log keeps: every id, every sequence. It shares no code with the view.
type model struct {
	open  map[string]map[string]bool
	cost  map[string]map[string]int64
	seen  map[string]map[uint64]bool
	mark  map[string]uint64
	round costs.Round
	// closed by producer, and the ids that each closing ended.
	closed map[string]map[string]bool
	ends   []end
	// lent is what a reservation, whose opening stood behind the charge of its lease, was taken from, until it ends: it is part of that charge.
	lent map[string]string
}

type end struct {
	ws, id string
	at     int64
}

func newModel(p *partition) *model {
	m := &model{
		open: map[string]map[string]bool{}, cost: map[string]map[string]int64{}, seen: map[string]map[uint64]bool{},
		mark: map[string]uint64{}, closed: map[string]map[string]bool{}, lent: map[string]string{},
	}
	for o, e := range p.events {
		if e != nil {
			m.take(p.keys[o], e, int64(o))
		}
	}
	return m
}

func (m *model) take(key string, e *rateguardv1.Event, at int64) {
	if hash.IsPartitionKey(key) {
		if n := e.GetRound().GetN(); n > m.round.N {
			m.round = costs.Round{N: n, By: e.GetProducerId(), At: at}
		}
		return
	}
	if m.open[key] == nil {
		m.open[key], m.cost[key] = map[string]bool{}, map[string]int64{}
	}
	if s := e.GetSequence(); s > 0 {
		id := key + " " + e.GetProducerId()
		if m.seen[id] == nil {
			m.seen[id] = map[uint64]bool{}
		}
		if m.seen[id][s] {
			return
		}
		m.seen[id][s] = true
		m.mark[id] = max(m.mark[id], s)
	}
	end := func(o *rateguardv1.Outcome) {
		if from := m.lent[o.GetReservationId()]; from != "" {
			m.cost[key][from] -= amount
			delete(m.lent, o.GetReservationId())
		}
		delete(m.open[key], o.GetReservationId())
		m.cost[key][o.GetReservationId()] = o.GetCostNanoUsd()
		m.ends = append(m.ends, end{key, o.GetReservationId(), at})
	}
	switch b := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		if _, charged := m.cost[key][b.ReservationOpened.GetLeaseId()]; charged {
			m.lent[b.ReservationOpened.GetReservationId()] = b.ReservationOpened.GetLeaseId()
			return
		}
		m.open[key][b.ReservationOpened.GetReservationId()] = true
	case *rateguardv1.Event_LeaseEnded:
		o := b.LeaseEnded.GetOutcome()
		if charged := m.cost[key][o.GetReservationId()]; charged > 0 {
			o = proto.CloneOf(o)
			o.CostNanoUsd = proto.Int64(charged - o.GetHolds()[0].GetAmountNanoUsd())
		}
		end(o)
	case *rateguardv1.Event_CostSettled:
		end(b.CostSettled.GetOutcome())
	case *rateguardv1.Event_CostCorrected:
		m.cost[key][b.CostCorrected.GetOutcome().GetReservationId()] = b.CostCorrected.GetOutcome().GetCostNanoUsd()
	case *rateguardv1.Event_ProducerClosed:
		id := b.ProducerClosed.GetProducerId()
		if m.closed[id][key] || m.mark[key+" "+id] != b.ProducerClosed.GetMark() {
			return
		}
		if m.closed[id] == nil {
			m.closed[id] = map[string]bool{}
		}
		m.closed[id][key] = true
		for _, o := range b.ProducerClosed.GetEnds() {
			end(o)
		}
	}
}

// life is one producer of the random log.
type life struct {
	*writer
	// start is the end of the partition when it began.
	start int64
	// sent are its numbered records in order.
	sent []*rateguardv1.Event
	open map[string][]string
	// lent are those that took from a lease which was charged, and have not ended.
	lent map[string][]string
	// leases by workspace, and what is left of each; charged are those that a closing has charged.
	leases, charged map[string]map[string]int64
	// ended by its closings.
	ended        map[string][]string
	closedIn     map[string]bool
	dead, closed bool
	// late: it has opened something behind its closing.
	late bool
}

// chaos writes a random log.
type chaos struct {
	*rand.Rand
	p     *partition
	ws    []string
	lives []*life
	ids   int
	n     uint64
	// costs are the last costs by workspace and id, of what is ended.
	costs map[string]map[string]int64
	// leaseOf is what a reservation was taken from.
	leaseOf map[string]string
	ctl     *writer
}

func (c *chaos) begin() *life {
	l := &life{
		writer: c.p.producer(fmt.Sprintf("p%d", len(c.lives))), start: int64(len(c.p.events)), open: map[string][]string{},
		ended: map[string][]string{}, lent: map[string][]string{}, closedIn: map[string]bool{}, leases: map[string]map[string]int64{}, charged: map[string]map[string]int64{},
	}
	for _, ws := range c.ws {
		l.leases[ws], l.charged[ws] = map[string]int64{}, map[string]int64{}
	}
	l.started()
	c.lives = append(c.lives, l)
	return l
}

func (c *chaos) pick(which func(*life) bool) *life {
	var fit []*life
	for _, l := range c.lives {
		if which(l) {
			fit = append(fit, l)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	return fit[c.IntN(len(fit))]
}

func (c *chaos) alive() *life {
	if l := c.pick(func(l *life) bool { return !l.dead }); l != nil {
		return l
	}
	return c.begin()
}

func (l *life) send(e *rateguardv1.Event) {
	l.sent = append(l.sent, e)
	l.p.write(e)
}

const amount = 10

func (c *chaos) openOne(l *life, ws string) string {
	c.ids++
	id := fmt.Sprintf("r%d", c.ids)
	l.send(l.opening(ws, id, amount))
	return id
}

func (c *chaos) lease(l *life, ws string) {
	c.ids++
	id := fmt.Sprintf("l%d", c.ids)
	l.send(l.lease(ws, id, 5*amount))
	l.leases[ws][id] = 5 * amount
}

// takeOne opens a reservation that takes from one of the leases; empty: none has enough.
func (c *chaos) takeOne(l *life, ws string, leases map[string]int64) string {
	for _, lease := range slices.Sorted(maps.Keys(leases)) {
		if leases[lease] < amount {
			continue
		}
		c.ids++
		id := fmt.Sprintf("r%d", c.ids)
		c.leaseOf[id] = lease
		l.send(l.taking(ws, id, lease, amount))
		leases[lease] -= amount
		return id
	}
	return ""
}

// rest is what ends a lease.
func rest(id string, left, cost int64) *rateguardv1.Outcome {
	o := outcome(id, left, cost)
	o.Lease, o.BoundNanoUsd = true, nil
	return o
}

func (c *chaos) giveBack(l *life, ws string, leases map[string]int64) {
	for _, id := range slices.Sorted(maps.Keys(leases)) {
		l.send(l.next(ws, &rateguardv1.Event{Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{Outcome: rest(id, leases[id], 0)}}}))
		delete(leases, id)
		return
	}
}

// settleOne ends a reservation of a producer, by itself or by another one.
func (c *chaos) settleOne(l, opener *life, ws, id string) {
	c.costs[ws][id] = c.Int64N(20)
	e := l.settling(ws, id, amount, c.costs[ws][id])
	o := e.GetCostSettled().GetOutcome()
	if o.LeaseId = c.leaseOf[id]; l != opener {
		o.OpenedBy = opener.id
	}
	l.send(e)
}

// closeOne writes the closing of a dead producer in one more workspace, sometimes after one that is ignored.
func (c *chaos) closeOne(l *life) {
	for _, ws := range c.ws {
		if l.closedIn[ws] || l.seq[ws] == 0 {
			continue
		}
		closer := c.alive()
		var ends []*rateguardv1.Outcome
		for _, id := range l.open[ws] {
			ends = append(ends, outcome(id, amount, amount))
		}
		for _, id := range slices.Sorted(maps.Keys(l.leases[ws])) {
			left := l.leases[ws][id]
			ends = append(ends, rest(id, left, left))
			l.charged[ws][id] = left
		}
		clear(l.leases[ws])
		if c.IntN(2) == 0 && l.seq[ws] > 1 {
			closer.close(ws, l.id, l.seq[ws]-1, ends...)
		}
		if c.IntN(2) == 0 && len(l.open[ws]) > 0 { // it lives after all, and ships one more end
			c.settleOne(l, l, ws, l.open[ws][0])
			closer.close(ws, l.id, l.seq[ws]-1, ends...)
			l.open[ws], ends = l.open[ws][1:], ends[1:]
		}
		closer.close(ws, l.id, l.seq[ws], ends...)
		if c.IntN(3) == 0 {
			closer.close(ws, l.id, l.seq[ws], ends...)
		}
		for _, id := range l.open[ws] {
			c.costs[ws][id] = amount
		}
		l.closedIn[ws], l.ended[ws], l.open[ws] = true, l.open[ws], nil
		return
	}
	l.closed = true
}

func (c *chaos) act() {
	ws := c.ws[c.IntN(len(c.ws))]
	switch c.IntN(20) {
	case 0:
		if len(c.lives) < 12 {
			c.begin()
		}
	case 1, 2, 3, 4:
		l := c.alive()
		l.open[ws] = append(l.open[ws], c.openOne(l, ws))
	case 5, 6:
		if l := c.alive(); len(l.open[ws]) > 0 {
			c.settleOne(l, l, ws, l.open[ws][0])
			l.open[ws] = l.open[ws][1:]
		}
	case 7: // the shipper sends its tail again
		if l := c.pick(func(l *life) bool { return !l.late && len(l.sent) > 0 }); l != nil {
			for _, e := range l.sent[max(0, len(l.sent)-1-c.IntN(6)):] {
				c.p.write(e)
			}
		}
	case 8:
		if l := c.alive(); len(c.lives) > 1 {
			l.dead = true
		}
	case 9, 10, 11:
		if l := c.pick(func(l *life) bool { return l.dead && !l.closed }); l != nil {
			c.closeOne(l)
		}
	case 12: // a zombie's end
		if l := c.pick(func(l *life) bool { return len(l.ended[ws]) > 0 }); l != nil {
			c.settleOne(l, l, ws, l.ended[ws][c.IntN(len(l.ended[ws]))])
		}
	case 13: // an old disk's opening, which the holder of the disk ends
		if l := c.pick(func(l *life) bool { return l.closed && l.closedIn[ws] }); l != nil {
			l.late = true
			id, holder := c.openOne(l, ws), c.alive()
			c.settleOne(holder, l, ws, id)
		}
	case 14:
		l := c.alive()
		c.n += uint64(c.IntN(2))
		if c.n > 0 {
			l.round(c.n)
			l.seal(c.n)
		}
	case 15:
		c.correct(ws)
	case 16:
		c.lease(c.alive(), ws)
	case 17, 18:
		l := c.alive()
		if id := c.takeOne(l, ws, l.leases[ws]); id != "" {
			l.open[ws] = append(l.open[ws], id)
		}
	case 19:
		l := c.alive()
		if c.IntN(2) == 0 {
			c.giveBack(l, ws, l.leases[ws])
			return
		}
		if l = c.pick(func(l *life) bool { return len(l.charged[ws]) > 0 }); l != nil && c.IntN(2) == 0 { // a zombie's
			l.late = true
			if id := c.takeOne(l, ws, l.charged[ws]); id != "" {
				l.lent[ws] = append(l.lent[ws], id) // its end comes later, or never
			} else {
				c.giveBack(l, ws, l.charged[ws])
			}
		} else if l = c.pick(func(l *life) bool { return len(l.lent[ws]) > 0 }); l != nil {
			by := l
			if c.IntN(2) == 0 { // the holder of the disk ends it
				by = c.alive()
			}
			c.settleOne(by, l, ws, l.lent[ws][0])
			l.lent[ws] = l.lent[ws][1:]
		}
	}
}

func (c *chaos) correct(ws string) {
	if ids := slices.Sorted(maps.Keys(c.costs[ws])); len(ids) > 0 && c.IntN(3) > 0 {
		id := ids[c.IntN(len(ids))]
		var o *rateguardv1.Outcome
		before := c.costs[ws][id]
		c.costs[ws][id] = c.Int64N(20)
		o = outcome(id, amount, c.costs[ws][id])
		c.p.write(c.ctl.next(ws, &rateguardv1.Event{Body: &rateguardv1.Event_CostCorrected{CostCorrected: &rateguardv1.CostCorrected{
			Outcome: o, PreviousCostNanoUsd: &before,
		}}}))
		return
	}
	c.p.raw(ws, []byte{0xff}, nil)
}

// from is what the statuses of the producers that are not closed say.
func (c *chaos) from() int64 {
	from := int64(math.MaxInt64)
	for _, l := range c.lives {
		if !l.closed {
			from = min(from, l.start)
		}
	}
	return from
}

// table writes what processors have at some offset, and sometimes a stale row behind it.
func (c *chaos) table() {
	n := int64(len(c.p.events))
	folded := c.Int64N(n+1) - 1
	if folded < 0 {
		return
	}
	c.p.fold(folded)
	if c.IntN(3) == 0 {
		rows := c.p.rows(c.Int64N(folded + 1))
		for _, key := range slices.Sorted(maps.Keys(rows)) {
			if c.IntN(2) == 0 {
				c.p.row(key, rows[key])
			}
		}
	}
}

// A view that begins anywhere, on any table, is what a reader of the whole log has.
func TestViewIsThatOfAPlainReaderOfEverything(t *testing.T) {
	var k *cluster
	for seed := range uint64(60) {
		if seed%partitions == 0 {
			k = startKafka(t)
		}
		p := k.partition(int32(seed % partitions))
		c := &chaos{Rand: rand.New(rand.NewPCG(seed, 1)), p: p, ctl: p.producer("control"), costs: map[string]map[string]int64{}, leaseOf: map[string]string{}}
		for i := range 3 {
			c.ws = append(c.ws, p.workspace(i))
			c.costs[c.ws[i]] = map[string]int64{}
		}
		var followers []*follower
		follow := func() {
			from := c.from()
			followers = append(followers, &follower{reading: p.read(from), from: from})
		}
		for step := range 120 {
			c.act()
			if step == 40 || step == 80 {
				c.table()
				follow()
			}
			if step%7 == 0 {
				for _, f := range followers {
					f.toEnd()
				}
			}
		}
		c.table()
		follow()
		followers = append(followers, &follower{reading: p.read(-1), from: 0})
		for i, f := range followers {
			if f.check(t, c); t.Failed() {
				t.Fatalf("seed %d, reader %d from %d", seed, i, f.from)
			}
			f.Close()
		}
	}
}

type follower struct {
	*reading
	from int64
}

func (f *follower) check(t *testing.T, c *chaos) {
	t.Helper()
	v, m := f.toEnd(), newModel(c.p)
	rows := c.p.rows(int64(len(c.p.events)) - 1)
	for ws := range m.open {
		posted := int64(0)
		for _, nano := range m.cost[ws] {
			posted += nano
		}
		want(t, v, ws, posted, slices.Sorted(maps.Keys(m.open[ws]))...)
		s, err := spend.Decode(rows[ws].GetState())
		must(t, err)
		if !proto.Equal(v.Workspace(ws).State, s) {
			t.Errorf("state of %s: got %v, want %v", ws, v.Workspace(ws).State, s)
		}
		ids, _, _ := f.ended(ws)
		for _, e := range m.ends {
			if e.ws == ws && e.at >= f.from && !slices.Contains(ids, e.id) {
				t.Errorf("%s ended %s at %d, and no step says so", ws, e.id, e.at)
			}
		}
		for _, id := range ids {
			if m.open[ws][id] {
				t.Errorf("%s: %s is open, and a step says that it ended", ws, id)
			}
		}
	}
	if !maps.EqualFunc(v.Closed, m.closed, func(a, b map[string]bool) bool { return maps.Equal(a, b) }) {
		t.Errorf("closed: got %v, want %v", v.Closed, m.closed)
	}
	// Later is a repeat of a closed producer's.
	if v.Round.N != m.round.N || v.Round.By != m.round.By || v.Round.At >= 0 && v.Round.At < m.round.At {
		t.Errorf("round: got %+v, want %+v", v.Round, m.round)
	}
	for _, l := range c.lives {
		if at, seen := v.Started[l.id]; !l.closed && (!seen || at != l.start) {
			t.Errorf("started of %s: got %d (%t), want %d", l.id, at, seen, l.start)
		}
	}
}
