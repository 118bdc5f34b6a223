package lua

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// The first number of a script's answer; admit.lua says what each means.
const (
	answerDenied = iota
	answerAdmitted
	answerRepeated
	answerCancelled
	answerRevoked
	answerLate
	answerClock
	answerOtherState
	answerOldPolicy
	answerOtherEpoch
	answerFenced
	answerNoPeriod
	answerTooMany
)

// maxRestates is how often a decision begins anew because the state was another one than this proxy knew.
const maxRestates = 3

// Errors of a decision that are no failure of the store.
var (
	// ErrRevoked means that the API key is revoked.
	ErrRevoked = errors.New("the key is revoked")
	// ErrOldPolicy means that another proxy already works with a newer policy of the workspace.
	ErrOldPolicy = errors.New("the policy is old")
	// ErrNoEpoch means that the budgets of the workspace have to be read from the log first: Redis has none, or an epoch that this process must
	// not use. It matches ErrUnavailable.
	ErrNoEpoch = fmt.Errorf("the budgets are not installed: %w", ErrUnavailable)
	// ErrFenced means that this process was closed by another one. It matches ErrUnavailable.
	ErrFenced = fmt.Errorf("this process is fenced: %w", ErrUnavailable)
	// ErrNoPeriod means that the policy names no period of a budget that holds now. It matches ErrUnavailable.
	ErrNoPeriod = fmt.Errorf("no period of a budget is known for now: %w", ErrUnavailable)
	// ErrTooMany means that more reservations of the workspace are open, or not confirmed by the log, than may be. It matches ErrUnavailable.
	ErrTooMany = fmt.Errorf("too many reservations are open: %w", ErrUnavailable)
)

// Unreserved reports whether an error means that Redis works and cannot reserve budgets: limits can still be decided without them.
func Unreserved(err error) bool {
	return errors.Is(err, ErrNoEpoch) || errors.Is(err, ErrFenced) || errors.Is(err, ErrNoPeriod) || errors.Is(err, ErrTooMany)
}

// Request is one request to be decided.
type Request struct {
	Workspace, Reservation, Key string
	PolicyVersion               uint64
	Takes                       []Take
	// Holds are what the request reserves of budgets, Producer who does, and Epoch the least epoch that it may use.
	Holds    []Hold
	Producer string
	Epoch    uint64
	// Lease is what the caller would like to hold on top; its zero value asks for none. With it, where all holds have the amount 0, it is all that is asked for.
	Lease LeaseAsk
	// Cost is what it cost, in nano-USD, for Settle.
	Cost int64
}

// Seen is what one limit shows after a decision, in the order of the takes. Times are in µs.
type Seen struct {
	Used, Remaining, ResetUS int64
	// Lent answers the take's Ask; it is the zero value where the request was denied.
	Lent Lent
	// WaitUS of a denied request is how long this limit stands in its way (0: it does not); of an admitted one how long a leaky bucket holds it.
	WaitUS int64
}

// Decision is the answer to a request.
type Decision struct {
	Admitted bool
	// NowUS is when it was decided, by Redis' clock; Received when the answer came, by ours.
	NowUS    int64
	Received time.Time
	Seen     []Seen
	// Held is what each hold's budget shows, in their order. Epoch and Op name the grant; zero where nothing was asked of a budget.
	Held      []Held
	Epoch, Op uint64
	// LeaseNano is what the lease that was asked for holds of each budget, in nano-USD, and LeaseOp its number; 0 nano-USD: there is none.
	LeaseNano int64
	LeaseOp   uint64
	// Life is the state that decided: what is held of another counts no more.
	Life Life
}

// Wait returns how long a denied request has to wait, or a leaky bucket holds an admitted one.
func (d *Decision) Wait() time.Duration {
	var most int64
	for i := range d.Seen {
		most = max(most, d.Seen[i].WaitUS)
	}
	return time.Duration(most) * time.Microsecond
}

// Evaluator runs scripts; *Store is the one.
type Evaluator interface {
	Eval(ctx context.Context, script *Script, keys []string, args func(Times) []any) (Reply, error)
}

// Admissions decides requests on a store. It remembers which life of its state each workspace is in.
type Admissions struct {
	store                 Evaluator
	admit, adjust, settle *Script
	// admitHard is admit for requests under hard budgets.
	admitHard *Script
	states    sync.Map // workspace → *Life
	settling  sync.Map // workspace → *settlements
	// most is how many reservations a workspace may have in Redis.
	most int
	// least is the least epoch that this process may use, nil where there are none.
	least func(workspace string) (uint64, bool)
	// restates counts the workspaces whose state was found to be another one.
	restates prometheus.Counter
}

// Life names one life of a workspace's state: the server's identity and the state's own.
type Life struct{ identity, state string }

// NewAdmissions returns the scripts on that store.
func NewAdmissions(store Evaluator, reg prometheus.Registerer) *Admissions {
	a := &Admissions{
		store: store, most: DefaultReservations,
		admit: NewScript(bucketsSource + budgetsSource + admitSource), admitHard: NewScript(bucketsSource + budgetsSource + admitSource).patiently(hardTimeout),
		adjust: NewScript(bucketsSource + budgetsSource + adjustSource), settle: NewScript(budgetsSource + settleSource),
		restates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "rateguard_proxy_store_states_lost_total", Help: "Workspaces whose state in Redis was found to be another one: wiped, or failed over.",
		}),
	}
	reg.MustRegister(a.restates)
	return a
}

// Obey names the least epoch of a workspace that this process may use. It is called before the first decision.
func (a *Admissions) Obey(least func(workspace string) (uint64, bool)) { a.least = least }

// Admit decides a request: it takes from all limits or from none. Errors: ErrRevoked, ErrOldPolicy, and what matches ErrUnavailable; MayHaveRun says
// that it may have been admitted all the same: it has to be cancelled then.
func (a *Admissions) Admit(ctx context.Context, r *Request) (Decision, error) {
	keys := make([]string, 0, 3+3*len(r.Takes))
	keys = append(keys, keyspace.State(r.Workspace), keyspace.Mark(r.Workspace, r.Reservation), keyspace.Revoked(r.Workspace))
	for i := range r.Takes {
		keys = r.Takes[i].appendKeys(keys)
	}
	script := a.admit
	if slices.ContainsFunc(r.Holds, func(h Hold) bool { return h.Hard }) {
		script = a.admitHard
	}
	for range maxRestates {
		known, _ := a.states.Load(r.Workspace)
		at, _ := known.(*Life)
		if at == nil {
			at = &Life{}
		}
		reply, err := a.store.Eval(ctx, script, keys, func(t Times) []any {
			args := make([]any, 0, headArgs+budgetArgs+holdArgs*len(r.Holds)+15*len(r.Takes))
			args = append(args, at.identity, at.state, r.PolicyVersion, t.EstimateUS, t.DeadlineUS, r.Key)
			args = a.appendHolds(args, r, t.EstimateUS)
			for i := range r.Takes {
				args = r.Takes[i].appendArgs(args, "0")
			}
			return args
		})
		if err != nil {
			return Decision{}, fmt.Errorf("deciding a request: %w", err)
		}
		switch status(&reply) {
		case answerAdmitted, answerDenied:
			return decision(&reply, r, a.learn(r.Workspace, at, &reply))
		case answerRevoked:
			return Decision{}, ErrRevoked
		case answerOldPolicy:
			return Decision{}, ErrOldPolicy
		case answerOtherEpoch:
			return Decision{}, ErrNoEpoch
		case answerFenced:
			return Decision{}, ErrFenced
		case answerNoPeriod:
			return Decision{}, ErrNoPeriod
		case answerTooMany:
			return Decision{}, ErrTooMany
		case answerOtherState:
			a.states.Store(r.Workspace, &Life{identity: text(&reply, 2), state: text(&reply, 3)})
			a.restates.Inc()
			forget(r.Takes)
		case answerLate, answerClock:
			return Decision{}, &UnavailableError{Shard: reply.Shard, Reason: ReasonTimeout, Err: fmt.Errorf("it ran too late or by another clock (%d)", status(&reply))}
		default:
			return Decision{}, fmt.Errorf("reservation %s is decided already (%d)", r.Reservation, status(&reply))
		}
	}
	return Decision{}, &UnavailableError{Reason: ReasonConnection, Err: errors.New("the state is another one at each try")}
}

// forget takes out of the asks what was held of a state that is lost.
func forget(takes []Take) {
	for i := range takes {
		if ask := takes[i].Ask; ask != nil {
			ask.Held, ask.Back = 0, 0
		}
	}
}

// learn keeps which state answered, where that was not known, and returns it.
func (a *Admissions) learn(workspace string, known *Life, reply *Reply) Life {
	if known.identity != "" && known.state != "" {
		return *known
	}
	next := *known
	if next.identity == "" {
		next.identity = text(reply, 2)
	}
	if next.state == "" {
		next.state = text(reply, 3)
	}
	if next != *known {
		a.states.Store(workspace, &next)
	}
	return next
}

// Life returns the state of the workspace that decided last, the zero value before the first decision.
func (a *Admissions) Life(workspace string) Life {
	if known, ok := a.states.Load(workspace); ok {
		return *known.(*Life) //nolint:forcetypeassert,errcheck // the map holds nothing else
	}
	return Life{}
}

// decision reads the answer; takes that are held have no part in it.
func decision(reply *Reply, r *Request, state Life) (Decision, error) {
	takes := r.Takes
	d := Decision{Admitted: status(reply) == answerAdmitted, NowUS: reply.RedisUS, Received: reply.Received, Seen: make([]Seen, len(takes)), Life: state}
	asked, lent, held := 0, 0, 0
	for i := range takes {
		if !takes[i].Held {
			asked++
		}
		if takes[i].Ask != nil && !takes[i].Held && d.Admitted {
			lent++
		}
	}
	if len(r.Holds) > 0 {
		held = budgetValues + heldValues*len(r.Holds)
	}
	if len(reply.Values) != 4+4*asked+2*lent+held {
		return Decision{}, fmt.Errorf("admission answered %d values for %d limits and %d budgets", len(reply.Values), asked, len(r.Holds))
	}
	v, l := reply.Values[4:], reply.Values[4+4*asked:]
	d.readHeld(l[2*lent:])
	for i := range takes {
		if takes[i].Held {
			continue
		}
		d.Seen[i] = Seen{Used: number(v[0]), Remaining: number(v[1]), ResetUS: number(v[2]), WaitUS: number(v[3])}
		v = v[4:]
		if takes[i].Ask != nil && d.Admitted {
			d.Seen[i].Lent = Lent{Units: number(l[0]), Counted: number(l[1]) == 1}
			l = l[2:]
		}
	}
	return d, nil
}

// hardTimeout is how long a decision under a hard budget may take: where there is none the request is refused, which costs a client more than the wait.
const hardTimeout = 500 * time.Millisecond

// Adjustment is what happens to the takes of a reservation after its decision.
type Adjustment string

const (
	// Settle gives back amounts above 0 and takes those below, and ends what budgets hold at the request's cost.
	Settle Adjustment = "settle"
	// Cancel gives everything back if the reservation was admitted; it cannot be any more.
	Cancel Adjustment = "cancel"
	// Charge takes what was let through while the store was away, unless the reservation was admitted before.
	Charge Adjustment = "charge"
)

// Adjust changes what a reservation has taken that was decided at the instant (µs of Redis' clock). Cancel and Charge may be repeated. Error of a Cancel with
// holds, beside those of the store: ErrNoEpoch where the server that did it has no budgets that may be used. It may be a primary that was replaced, while the
// reservation stands on the one that replaced it.
func (a *Admissions) Adjust(ctx context.Context, how Adjustment, r *Request, atUS int64) error {
	keys := make([]string, 0, 2+3*len(r.Takes))
	keys = append(keys, keyspace.Mark(r.Workspace, r.Reservation), keyspace.State(r.Workspace))
	held := ""
	if len(r.Holds) > 0 {
		held = r.Reservation
	}
	for i := range r.Takes {
		keys = r.Takes[i].appendKeys(keys)
	}
	reply, err := a.store.Eval(ctx, a.adjust, keys, func(Times) []any {
		args := make([]any, 0, 3+7*len(r.Takes))
		args = append(args, string(how), held)
		if how == Cancel {
			args = append(args, r.Lease.ID)
		} else {
			args = append(args, r.Cost)
		}
		for i := range r.Takes {
			args = r.Takes[i].appendArgs(args, atUS)
		}
		return args
	})
	if err != nil {
		return fmt.Errorf("adjusting (%s): %w", how, err)
	}
	if how != Cancel || held == "" || a.least == nil {
		return nil
	}
	least, ok := a.least(r.Workspace)
	if len(reply.Values) < 3 || !ok || uint64(max(0, number(reply.Values[2]))) < least {
		return fmt.Errorf("cancelling %s: %w", r.Reservation, ErrNoEpoch)
	}
	return nil
}

// status is the first number of an answer, −1 where there is none.
func status(r *Reply) int64 {
	if len(r.Values) == 0 {
		return -1
	}
	return number(r.Values[0])
}

// text is a value that is a string, empty where it is none.
func text(r *Reply, i int) string {
	if i >= len(r.Values) {
		return ""
	}
	s, _ := r.Values[i].(string)
	return s
}

// number is a value that is an integer, −1 where it is none.
func number(v any) int64 {
	if n, ok := v.(int64); ok {
		return n
	}
	return -1
}
