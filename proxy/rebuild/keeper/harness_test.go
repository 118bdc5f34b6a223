package keeper_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/epoch"
	"github.com/rateguard/rateguard/proxy/internal/redistest"
	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild"
	"github.com/rateguard/rateguard/proxy/rebuild/keeper"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/broker"
)

const partitions = 2

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// world is one Kafka and one Redis, the policies of all workspaces, and the processes that share them.
type world struct {
	tb    testing.TB
	kafka broker.Config
	// cluster is that Kafka.
	cluster *kfake.Cluster
	// url is where the processes find Redis, and rdb are clients of its servers.
	url string
	rdb []*redis.Client
	// mu guards budgets: the versions of policies.
	mu      sync.Mutex
	budgets map[string]uint64
}

func newWorld(tb testing.TB, workspaces ...string) *world {
	tb.Helper()
	r := redistest.Start(tb)
	return newWorldOn(tb, r.URL(), []*redis.Client{r.Client()}, workspaces...)
}

func newWorldOn(tb testing.TB, url string, rdb []*redis.Client, workspaces ...string) *world {
	tb.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.DataDir(tb.TempDir()), kfake.SyncWrites(),
		kfake.SeedTopics(partitions, topics.Costs.Name, topics.Requests.Name, topics.SpendTable.Name), kfake.SeedTopics(1, topics.Producers.Name),
		kfake.BrokerConfigs(map[string]string{"log.cleaner.backoff.ms": "31536000000", "message.max.bytes": fmt.Sprint(topics.Costs.MaxMessageBytes)}))
	must(tb, err)
	tb.Cleanup(c.Close)
	w := &world{tb: tb, kafka: broker.Config{Brokers: strings.Join(c.ListenAddrs(), ",")}, cluster: c, url: url, rdb: rdb, budgets: map[string]uint64{}}
	for _, ws := range workspaces {
		w.budgets[ws] = 1
	}
	return w
}

// Budgets and Sync are what the keeper asks of the policies.
func (w *world) Budgets(f func(string, uint64)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ws, v := range w.budgets {
		f(ws, v)
	}
}

func (w *world) Sync(context.Context) error { return nil }

// process is one proxy without HTTP. Each part can be left out, as if it hung.
type process struct {
	*spool.Spool
	w          *world
	dir        string
	gate       *epoch.Gate
	installs   *epoch.Installs
	admissions *lua.Admissions
	rebuild    *rebuild.Rebuilder
	stops      []func()
	// stopShipping, stopBeating and stopKeeping end a part of it alone.
	stopShipping, stopBeating, stopKeeping func()
}

type options struct {
	dir string
	// noSeals: it does not answer rounds; noKeeper: it keeps no budgets; noShip: it never reaches Kafka.
	noSeals, noKeeper, noShip bool
	// eager: its watermark moves all the time.
	eager bool
	// tornFor is that of its keeper.
	tornFor time.Duration
	// patient: it takes nobody for gone, however slow the machine is.
	patient bool
}

func (w *world) start(o options) *process {
	w.tb.Helper()
	log := slog.New(slog.NewTextHandler(w.tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.dir == "" {
		o.dir = filepath.Join(w.tb.TempDir(), "spool")
	}
	c := spool.Config{Dir: o.dir, Kafka: w.kafka, Log: log, Linger: time.Millisecond, MaxEndBytes: 8 << 10}
	if o.eager {
		c.LowWaterEvery, c.LowWaterRecords = 10*time.Millisecond, 1
	}
	s, err := spool.Open(w.tb.Context(), c)
	must(w.tb, err)
	store, err := lua.OpenStore(lua.StoreConfig{URL: w.url, Timeout: 2 * time.Second, Log: log})
	must(w.tb, err)
	p := &process{Spool: s, w: w, dir: o.dir, gate: epoch.NewGate()}
	p.installs = epoch.NewInstalls(p.gate, lua.NewWants(store.Client()), lua.NewBalances(store), log)
	p.admissions = lua.NewAdmissions(store, prometheus.NewRegistry())
	p.stops = append(p.stops, func() { must(w.tb, store.Close()); must(w.tb, s.Close()) })
	w.tb.Cleanup(p.kill)
	cfg := rebuild.Config{
		Spool: s, Kafka: w.kafka, Redis: store.Client(), Gate: p.gate, Log: log,
		Budgets:   &rebuild.Budgets{Balances: lua.NewBalances(store), Wants: lua.NewWants(store.Client()), Policies: w},
		Heartbeat: 20 * time.Millisecond, GoneAfter: 400 * time.Millisecond, ReapEvery: 20 * time.Millisecond,
	}
	if o.patient {
		cfg.GoneAfter = time.Hour
	}
	if o.noSeals || o.noShip {
		cfg.Gate = nil
		p.gate.Start(partitions, nil)
	}
	p.rebuild, err = rebuild.New(cfg)
	must(w.tb, err)
	p.stopShipping = func() {}
	if !o.noShip {
		p.stopShipping = p.background(s.Run)
	}
	p.stopBeating = p.background(p.rebuild.Run)
	p.background(p.installs.Run)
	if !o.noKeeper {
		p.stopKeeping = p.background(keeper.New(keeper.Config{
			Kafka: w.kafka, Spool: s, Roster: p.rebuild.Roster(), Policies: w, Log: log, Lease: 300 * time.Millisecond, WantedEvery: 5 * time.Millisecond, TornFor: o.tornFor,
			Redis: keeper.Redis{Balances: lua.NewBalances(store), Wants: lua.NewWants(store.Client()), Offices: lua.NewProducers(store.Client())},
		}).Run)
	}
	return p
}

func (p *process) background(f func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			p.w.tb.Error(err)
		}
	})
	p.stops = append(p.stops, stop)
	return stop
}

// kill ends the process without a farewell; what is not shipped stays in its folder.
func (p *process) kill() {
	for i := range p.stops {
		p.stops[len(p.stops)-1-i]()
	}
	p.stops = nil
}

// call is one request's way through budgets and log.
type reservation struct {
	p      *process
	ws, id string
	hold   *rateguardv1.Hold
	grant  lua.Decision
	req    *lua.Request
	amount int64
	in     spool.Generation
	// lease is what it is taken from.
	lease string
}

// budget is the one budget of each workspace: hard, in total.
const (
	budgetID = "b"
	limit    = 1000
)

var errDenied = errors.New("denied")

var requests atomic.Int64

// admit reserves as the request path does, waiting for budgets that are not there.
func (p *process) admit(ws string, amount int64) (*reservation, error) {
	id := call.NewID(time.Now().Add(time.Duration(requests.Add(1)) * time.Millisecond))
	r := &reservation{p: p, ws: ws, id: id + "/1", amount: amount}
	r.req = &lua.Request{
		Workspace: ws, Reservation: r.id, Key: "key", PolicyVersion: 1, Producer: p.ProducerID(),
		Holds: []lua.Hold{{Balance: keyspace.Balance(budgetID, 1, ""), Limit: limit, Amount: amount, Hard: true}},
	}
	var err error
	for range 3 {
		least, ok := p.gate.Least(ws)
		if r.req.Epoch = least; ok {
			r.grant, err = p.admissions.Admit(p.w.tb.Context(), r.req)
		} else {
			err = lua.ErrNoEpoch
		}
		if !errors.Is(err, lua.ErrNoEpoch) {
			break
		}
		if awaited := p.installs.Await(p.w.tb.Context(), ws); awaited != nil {
			return nil, awaited
		}
	}
	if err != nil {
		return nil, err
	}
	if !r.grant.Admitted {
		return nil, errDenied
	}
	r.hold = &rateguardv1.Hold{
		BudgetId: budgetID, BudgetGeneration: 1, AmountNanoUsd: amount, LimitNanoUsd: limit,
		PostedNanoUsd: r.grant.Held[0].PostedNano, ReservedNanoUsd: r.grant.Held[0].ReservedNano,
	}
	return r, nil
}

func (r *reservation) subject() *rateguardv1.Subject {
	return &rateguardv1.Subject{RequestId: strings.TrimSuffix(r.id, "/1"), Attempt: 1, Model: "m", OpenedAtUnixUs: time.Now().UnixMicro()}
}

func (r *reservation) opening() *rateguardv1.Event {
	return &rateguardv1.Event{Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: &rateguardv1.ReservationOpened{
		ReservationId: r.id, Subject: r.subject(), BoundNanoUsd: &r.amount, UnknownCostNanoUsd: &r.amount, Holds: []*rateguardv1.Hold{r.hold},
		Epoch: r.grant.Epoch, Op: r.grant.Op, LeaseId: r.lease,
	}}}
}

// open appends the opening, unless the epoch was given up.
func (r *reservation) open() error {
	return r.p.gate.Open(r.ws, r.grant.Epoch, func() error {
		var err error
		r.in, err = r.p.AppendOpen(record(r.p.w.tb, r.ws, r.opening()))
		return err
	})
}

// end appends the outcome.
func (r *reservation) end(cost int64) {
	r.p.w.tb.Helper()
	must(r.p.w.tb, r.p.AppendEnd(r.in, record(r.p.w.tb, r.ws, &rateguardv1.Event{Body: &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{
		Outcome: &rateguardv1.Outcome{
			ReservationId: r.id, Revision: 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, CostNanoUsd: &cost, BoundNanoUsd: &r.amount,
			Subject: r.subject(), Holds: []*rateguardv1.Hold{r.hold}, LeaseId: r.lease,
		},
	}}})))
}

// settle tells Redis of the outcome.
func (r *reservation) settle(cost int64) {
	r.p.w.tb.Helper()
	r.req.Cost = cost
	must(r.p.w.tb, r.p.admissions.Adjust(context.Background(), lua.Settle, r.req, r.grant.NowUS))
}

// reserve admits and opens, which has to work.
func (p *process) reserve(ws string, amount int64) *reservation {
	p.w.tb.Helper()
	r, err := p.admit(ws, amount)
	must(p.w.tb, err)
	must(p.w.tb, r.open())
	return r
}

func (p *process) flush() {
	p.w.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must(p.w.tb, p.FlushOwn(ctx))
}

func record(tb testing.TB, ws string, e *rateguardv1.Event) spool.Record {
	tb.Helper()
	e.Id, e.WorkspaceId, e.OccurredAtUnixUs = "e", ws, time.Now().UnixMicro()
	b, err := envelope.Encode(e)
	must(tb, err)
	return spool.Record{Topic: topics.Costs, Key: ws, Value: b, Headers: envelope.Headers(e, "")}
}

// each calls f for what is left of a partition of the costs topic at its present end.
func (w *world) each(n int32, f func(*kgo.Record)) {
	w.tb.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Seeds()...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topics.Costs.Name: {n: kgo.NewOffset().AtStart()}}),
		kgo.FetchMaxWait(20*time.Millisecond))
	must(w.tb, err)
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	starts, err := kadm.NewClient(cl).ListStartOffsets(ctx, topics.Costs.Name)
	must(w.tb, err)
	start, _ := starts.Lookup(topics.Costs.Name, n)
	for next, end := start.Offset, w.end(n); next < end; must(w.tb, ctx.Err()) {
		for _, rec := range cl.PollFetches(ctx).Records() {
			next = rec.Offset + 1
			f(rec)
		}
	}
}

// rounds counts the rounds in what is left of a partition of the costs topic.
func (w *world) rounds(n int32) (count int) {
	w.tb.Helper()
	w.each(n, func(rec *kgo.Record) {
		e, err := envelope.Decode(rec.Value)
		must(w.tb, err)
		if e.GetRound() != nil {
			count++
		}
	})
	return count
}

// trim takes from the log what stands in a partition of the costs topic, as retention does.
func (w *world) trim(n int32) {
	w.tb.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Seeds()...))
	must(w.tb, err)
	defer cl.Close()
	offsets := kadm.Offsets{}
	offsets.Add(kadm.Offset{Topic: topics.Costs.Name, Partition: n, At: w.end(n)})
	res, err := kadm.NewClient(cl).DeleteRecords(w.tb.Context(), offsets)
	must(w.tb, err)
	must(w.tb, res.Error())
}

// end returns the end of a partition of the costs topic.
func (w *world) end(partition int32) int64 {
	w.tb.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Seeds()...))
	must(w.tb, err)
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(w.tb.Context(), topics.Costs.Name)
	must(w.tb, err)
	end, _ := ends.Lookup(topics.Costs.Name, partition)
	return end.Offset
}

// awaitClosed waits until a producer is closed, as another one sees it.
func (p *process) awaitClosed(id string) {
	p.w.tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !p.rebuild.Roster().Closed(id); {
		if time.Now().After(deadline) {
			p.w.tb.Fatalf("producer %s is not closed", id)
		}
		<-tick.C
	}
}

// awaitForgotten waits until what earlier processes left in the folder is ended.
func (p *process) awaitForgotten() {
	p.w.tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); len(p.Predecessors()) > 0; {
		if time.Now().After(deadline) {
			p.w.tb.Fatal("predecessors are still there")
		}
		<-tick.C
	}
}

// declareLost writes what an operator's word becomes.
func (w *world) declareLost(p *process, id string) {
	w.tb.Helper()
	w.say(p, id, func(s *rateguardv1.ProducerStatus) { s.DeclaredLostAtUnixUs = time.Now().UnixMicro() })
}

// say writes a producer's status, as the roster of p has it, with a change.
func (w *world) say(p *process, id string, change func(*rateguardv1.ProducerStatus)) {
	w.tb.Helper()
	i := slices.IndexFunc(p.rebuild.Roster().Open(), func(s *rateguardv1.ProducerStatus) bool { return s.GetProducerId() == id })
	if i < 0 {
		w.tb.Fatalf("%s is not open", id)
	}
	status := proto.CloneOf(p.rebuild.Roster().Open()[i])
	change(status)
	value, err := envelope.Encode(&rateguardv1.Event{Id: "lost", Body: &rateguardv1.Event_ProducerStatus{ProducerStatus: status}})
	must(w.tb, err)
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.Seeds()...))
	must(w.tb, err)
	defer cl.Close()
	must(w.tb, cl.ProduceSync(context.Background(), &kgo.Record{Topic: topics.Producers.Name, Key: []byte(id), Value: value}).FirstErr())
}

// state is what Redis has of a workspace.
type state struct {
	epoch, entries              string
	posted, reserved, confirmed int64
}

func (w *world) state(ws string) state {
	w.tb.Helper()
	var all map[string]string
	for _, rdb := range w.rdb {
		// Of a cluster one answers; the others are away, or say that it is not theirs.
		if found, err := rdb.HGetAll(context.Background(), keyspace.State(ws)).Result(); err == nil {
			all = found
			break
		}
	}
	s := state{epoch: all["epoch"], entries: all["n"]}
	if text := all[keyspace.BudgetPeriod{Budget: budgetID, Generation: 1}.Field()]; text != "" {
		if _, err := fmt.Sscan(text, &s.posted, &s.reserved, &s.confirmed); err != nil {
			w.tb.Fatal(err)
		}
	}
	return s
}

// await waits until Redis shows the state of a workspace; an epoch that is not named may be any: on a busy machine the office of the keeper
// changes hands, and another round is held.
func (w *world) await(ws string, want state) {
	w.tb.Helper()
	got := func() state {
		s := w.state(ws)
		if want.epoch == "" {
			s.epoch = ""
		}
		return s
	}
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for got() != want {
		if time.Now().After(deadline) {
			w.tb.Fatalf("%s: %+v, want %+v", ws, got(), want)
		}
		<-tick.C
	}
}

func (w *world) wipe() {
	w.tb.Helper()
	must(w.tb, w.rdb[0].FlushAll(context.Background()).Err())
}
