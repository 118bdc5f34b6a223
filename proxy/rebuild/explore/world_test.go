package explore_test

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/keeper/plan"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
)

const (
	workspace = "ws"
	// producers are the two that serve requests, perProducer how many each can serve.
	producers, perProducer = 2, 3
	requests               = producers * perProducer
	keepers                = 2
	// boundNano and costNano are what requests reserve and cost, each a bit more than the one before or twice as much.
	boundNano, costNano = 10_000, 64
	// vast is how much more than others those requests reserve that a lease leaves no room for.
	vast = 220_000
)

// What a process has come to.
const (
	unborn    = iota
	announced // its status stands in the producers topic, its start in its spool
	serving
	dead // its folder is left to the next process on it
	lost // dead, and its folder too
)

// What a request has come to.
const (
	idle       = iota
	asked      // its grant is asked for
	granted    // and the answer is here
	unwanted   // of a lease: nobody waits for it any more, and the store has to hear of that
	cancelling // the answer is not wanted any more, and the store has to hear of that
	taken      // from a lease, which is all the answer that it needs
	open       // Opened is appended, and it is sent
	ended      // its end is appended
	gone       // nothing of it is left with its producer
)

// producer is a process.
type producer struct {
	phase  uint8
	fenced bool // it knows that it is closed
	zombie bool // it was taken for dead
	// declared: an operator declared it lost.
	declared bool
	// rebooted: it died with its machine, and the end of its spool may be lost. kept: its folder was not lost with it, only later.
	rebooted, kept bool
	// least is that of its gate, sealed the last round that it answered.
	least, sealed uint8
	spool         int32
	shipped       uint8
	// status is the record of its status.
	status int32
}

func (p *producer) alive() bool { return p.phase == announced || p.phase == serving }

// request is a request, with what its producer knows of it.
type request struct {
	at uint8
	// calling: its grant is on its way; settling: so is its settle.
	calling, settling bool
	// least goes along with the call; epoch and op came back.
	least, epoch, op uint8
	// over: by what happened it did not fit when it was granted.
	over bool
}

// keeper is a keeper's round.
type keeper struct {
	// step: 0 none, 1 announced, 2 in the partition, 3 the install is on its way.
	step, n uint8
	// roster is what it has read of the producers topic behind the announcement.
	roster int32
	// install is the call.
	install int32
}

// closer closes a producer.
type closer struct {
	// step: 0 not begun, 1 begun, 2 fenced, 3 its closing is on its way, 4 everything is ended in the log, 5 done.
	step uint8
	// dead: it can write no more. complete: the log has all that it opened.
	released, dead, complete bool
	// roster is what it has read of the producers topic, held what Redis showed, reads the logs that it has read, one after the other.
	roster, held int32
	reads        [6]int32
	n            uint8
	pending      int32
}

// faults are how many of each may still happen.
type faults struct {
	// A process dies; with its disk, or the disk of one that is dead is lost; with its machine; stops well; is taken for dead.
	crash, lose, power, leave, zombie uint8
	// The store loses all; its replica takes over.
	wipe, failover uint8
	// An answer comes too late or never; a record is shipped once more; a keeper or a closer begins anew; a second keeper begins a round.
	late, dup, restart, rival uint8
	// Of a mutation: an install runs twice.
	again uint8
}

// state is all there is: two that are equal have the same future.
type state struct {
	costs, producers int32
	primary, replica server
	// old is a primary that was failed over and still answers those who reach it. Identity 0: none.
	old     server
	replids uint8
	p       [producers]producer
	r       [requests]request
	l       [producers]lease
	k       [keepers]keeper
	c       [producers]closer
	// step is a call of the reconciler on its way, spare one that comes once more; 0: none.
	step, spare int32
	// stale is an install that was executed or given up and comes once more.
	stale int32
	left  faults
}

// rules are those that a mutation takes away.
type rules struct {
	edits map[string]string
	// Names of what is left out.
	noAnnouncedFence, noReconciler, noMarks, noRounds, openGate, deafKeeper, installsTwice, noStarted, partitionFirst, takesAnyAnswer bool
	// Of leases.
	oldLeases, oldTaken, endsUnderWay, noTaken, noShrink, noUncharge, unchargesAtOnce, freesRest bool
}

// config is what an exploration starts with.
type config struct {
	name   string
	faults faults
	// active says how many requests each producer may serve; late whether the second one starts while the first serves.
	active [producers]int
	late   bool
	limit  int64
	// leases says how each producer comes to a lease.
	leases [producers]uint8
	// keepers are how many there may be. early lets their steps be read at any time, a move of its own.
	keepers int
	early   bool
	rules   rules
}

// world is the rules of an exploration, with what its states are made of.
type world struct {
	*engine
	*shelf
	config
	admissions *lua.Admissions
	balances   *lua.Balances

	held     [][]lua.Entry
	heldBy   map[string]int32
	steps    map[[3]int32]int32
	installs map[[3]int32]int32
	closings map[closingKey]closingPlan
	places   map[server]lua.Place
	owes     map[[3]int32]bool
	facts    map[fact]int32
	acts     map[fact]act
	rounds   map[[2]int32]uint64
	known    map[int32]known
	does     map[int32]uint32
	shown    []uint32
	aparts   map[pair]string
	// origins are what the calls of the reconciler and of keepers come of.
	origins map[int32]origin
	*likeness
	// optional says that what was emitted last need not happen.
	optional bool
}

// fact names something that was computed before: of what kind, and what it hangs on.
type fact struct {
	kind       string
	on         server
	a, b, c, d int32
}

// act is what a call did to a server, and its answer.
type act struct {
	on         server
	a, b, c, d int32
}

// known is what a producers topic shows.
type known struct {
	round   uint64
	retired [producers]bool
}

// once computes a fact unless it is known.
func (w *world) once(f fact, compute func() int32) int32 {
	n, ok := w.facts[f]
	if !ok {
		n = compute()
		w.facts[f] = n
	}
	return n
}

// call computes what a call does on a server unless that is known, does it, and returns the answer.
func (w *world) call(f fact, on *server, do func() act) act {
	f.on = *on
	a, ok := w.acts[f]
	if !ok {
		w.on = on
		a = do()
		a.on = *on
		w.acts[f] = a
	}
	*on = a.on
	return a
}

// topic is what a producers topic shows.
func (w *world) topic(list int32) known {
	k, ok := w.known[list]
	if !ok {
		r := w.roster(list)
		k.round = r.Rounds()[0]
		for p := range producers {
			k.retired[p] = r.Retired(name(p))
		}
		w.known[list] = k
	}
	return k
}

// newest is the newest round that anybody was told of.
func (w *world) newest(s *state) uint64 {
	key := [2]int32{s.costs, s.producers}
	n, ok := w.rounds[key]
	if !ok {
		n = plan.Latest(w.view(s.costs), w.roster(s.producers), 0)
		w.rounds[key] = n
	}
	return n
}

func newWorld(c config) *world {
	e := newEngine(c.rules.edits)
	return &world{
		engine: e, shelf: newShelf(), config: c,
		admissions: lua.NewAdmissions(e, prometheus.NewRegistry()), balances: lua.NewBalances(e),
		held: [][]lua.Entry{nil}, heldBy: map[string]int32{"": 0}, steps: map[[3]int32]int32{}, installs: map[[3]int32]int32{},
		closings: map[closingKey]closingPlan{}, places: map[server]lua.Place{}, owes: map[[3]int32]bool{},
		facts: map[fact]int32{}, acts: map[fact]act{}, rounds: map[[2]int32]uint64{}, known: map[int32]known{},
		does: map[int32]uint32{}, aparts: map[pair]string{}, origins: map[int32]origin{},
		likeness: newLikeness(c),
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// Amounts by request; no two sums of them are equal, so that a sum says whose costs it holds.
func (w *world) bound(r int) int64 {
	b := boundNano + int64(1)<<r
	if w.leases != ([producers]uint8{}) && w.leases[r/perProducer] == unleased {
		b += vast // a lease gets an eighth of what is left, and both do not fit
	}
	return b
}

func cost(r int) int64 { return int64(costNano) << r }

func id(r int) string { return requestName(r) + "/1" }

// Names are such that whatever holds them can be renamed.
func requestName(r int) string { return "#" + strconv.Itoa(r) }

func name(p int) string { return "@" + strconv.Itoa(p) }

func (w *world) hold(r int) lua.Hold {
	return lua.Hold{Balance: keyspace.Balance("budget", 1, ""), Limit: w.limit, Amount: w.bound(r), Hard: true}
}

func (w *world) asks(r int, least uint8) *lua.Request {
	q := &lua.Request{
		Workspace: workspace, Reservation: id(r), Key: "key", PolicyVersion: 1, Holds: []lua.Hold{w.hold(r)},
		Producer: name(r / perProducer), Epoch: uint64(least), Cost: cost(r),
	}
	if w.asksAlong(r) {
		q.Lease = w.leaseAsk(r / perProducer)
	}
	return q
}

// first is the state in which the first producer serves, and the second too unless it starts late.
func (w *world) first() state {
	s := state{replids: 1, left: w.faults}
	s.primary.replid, s.replica.replid = 1, 1
	for p := range producers {
		if p == 0 || !w.late {
			w.announce(&s, p)
		}
	}
	for p := range producers {
		if s.p[p].phase != announced {
			continue
		}
		s.p[p].spool = w.add(s.p[p].spool, w.started(p))
		s.costs, s.p[p].shipped = w.add(s.costs, w.started(p)), 1
		s.p[p].phase = serving
		s.p[p].least = w.gate(0).open(w.roster(s.producers))
	}
	s.costs = w.add(s.costs, w.record(workspace, &rateguardv1.Event{
		Id: "begun", ProducerId: "k0", WorkspaceId: workspace, Body: &rateguardv1.Event_BudgetsInstalled{BudgetsInstalled: &rateguardv1.BudgetsInstalled{Epoch: 1}},
	}))
	w.run(&s.primary, w.installation(s.costs, s.producers, 1))
	s.replica = s.primary
	return s
}

// announce writes a producer's status.
func (w *world) announce(s *state, p int) {
	at := map[int32]int64{0: int64(w.size(s.costs))}
	s.p[p].status = w.record(name(p), &rateguardv1.Event{Id: "status-" + name(p), ProducerId: name(p), Body: &rateguardv1.Event_ProducerStatus{
		ProducerStatus: &rateguardv1.ProducerStatus{
			ProducerId: name(p), StartedAtUnixUs: nowUS, CostsOffsets: at, CostsStarted: at,
			RequestsOffsets: map[int32]int64{0: 0}, RequestsStarted: map[int32]int64{0: 0},
		},
	}})
	s.producers = w.add(s.producers, s.p[p].status)
	s.p[p].phase = announced
}

func (w *world) started(p int) int32 {
	return w.once(fact{kind: "started", a: int32(p)}, func() int32 {
		return w.record(partitionKey(), &rateguardv1.Event{
			Id: "started-" + name(p), ProducerId: name(p), Body: &rateguardv1.Event_ProducerStarted{ProducerStarted: &rateguardv1.ProducerStarted{ProducerId: name(p)}},
		})
	})
}

// least is the least epoch that the producers topic lets be used.
func (w *world) least(topic int32) uint64 { return max(1, w.topic(topic).round) }

// place is where the budgets stand on a server.
func (w *world) place(on server) lua.Place {
	at, ok := w.places[on]
	if !ok {
		w.on = &on
		all, err := w.balances.Places(w.ctx(), []string{workspace})
		must(err)
		at = all[0]
		w.places[on] = at
	}
	return at
}
