package lua

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

//go:embed reconcile.lua
var reconcileSource string

//go:embed install.lua
var installSource string

//go:embed retire.lua
var retireSource string

const (
	// DefaultReservations is how many reservations of a workspace may stand in Redis: open, or ended and not confirmed by the log yet.
	DefaultReservations = 20_000
	// headArgs, budgetArgs and holdArgs are the arguments in front of all budgets, those that come with the first, and those of each; heldValues is what
	// is answered of each, and budgetValues what is answered of all.
	headArgs, budgetArgs, holdArgs, heldValues, budgetValues = 7, 8, 7, 4, 4
)

// Hold is what a request reserves of one budget. Amounts are nano-USD.
type Hold struct {
	// Balance is the field of the balance without its period: keyspace.Balance.
	Balance       string
	Limit, Amount int64
	Hard          bool
	// Starts are the instants (µs) at which the budget's periods start, ascending; one of the last two ends the period of now. Of a budget
	// without periods there are none.
	Starts []int64
}

// LeaseAsk asks for a lease: room of all budgets of the request, for requests to come of the same budgets. Amounts are nano-USD, of each budget.
type LeaseAsk struct {
	// ID is that of the lease, which is a reservation of its own.
	ID string
	// Want is what the caller would like, Least the smallest lease that helps it.
	Want, Least int64
	// Percent is how much of each limit all leases together may hold.
	Percent int32
}

// Held is what a budget shows after a decision. Amounts are nano-USD.
type Held struct {
	// StartUS is the start of the period, by Redis' clock; 0 for a budget without periods.
	StartUS                  int64
	PostedNano, ReservedNano int64
	// Stands says what stands in the way of a request that was denied.
	Stands Stands
}

// Stands is what stands in the way of a request.
type Stands int64

// What can stand in the way: nothing; what other requests have reserved; what was spent.
const (
	StandsNothing Stands = iota
	StandsReserved
	StandsPosted
)

// forever is behind every period.
const forever = int64(1) << 52

const (
	// balancesTimeout bounds a call here: no request waits for it, and a workspace may have thousands of reservations.
	balancesTimeout = 2 * time.Second
	// stateTTL is how long a workspace's state is kept after its last change: the retention of the topic of costs.
	stateTTL = 400 * 24 * time.Hour
)

// appendHolds appends the arguments in front of the limits.
func (a *Admissions) appendHolds(args []any, r *Request, estimateUS int64) []any {
	args = append(args, len(r.Holds))
	if len(r.Holds) == 0 {
		return args
	}
	args = append(args, r.Reservation, r.Producer, r.Epoch, a.most, r.Lease.ID, r.Lease.Want, r.Lease.Least, r.Lease.Percent)
	for i := range r.Holds {
		h := &r.Holds[i]
		first, second, over := h.around(estimateUS)
		hard := 0
		if h.Hard {
			hard = 1
		}
		args = append(args, h.Balance, h.Limit, h.Amount, hard, first, second, over)
	}
	return args
}

// around returns the start of the period of an instant and of the two behind it; the script takes the one that holds by its own clock, which is
// later than the estimate.
func (h *Hold) around(us int64) (first, second, over int64) {
	if len(h.Starts) == 0 {
		return 0, forever, forever
	}
	i := 0
	for i+1 < len(h.Starts) && h.Starts[i+1] <= us {
		i++
	}
	at := func(i int) int64 { return h.Starts[min(i, len(h.Starts)-1)] }
	return at(i), at(i + 1), at(i + 2)
}

// readHeld reads what the budgets showed.
func (d *Decision) readHeld(values []any) {
	if len(values) == 0 {
		return
	}
	d.Epoch, d.Op = uint64(number(values[0])), uint64(number(values[1])) //nolint:gosec // the script counts up from 0
	lease := values[len(values)-2:]
	d.LeaseNano, d.LeaseOp = number(lease[0]), uint64(number(lease[1])) //nolint:gosec // the script counts up from 0
	for v := values[2 : len(values)-2]; len(v) >= heldValues; v = v[heldValues:] {
		d.Held = append(d.Held, Held{StartUS: number(v[0]), PostedNano: number(v[1]), ReservedNano: number(v[2]), Stands: Stands(number(v[3]))})
	}
}

// Entry is a reservation as Redis has it.
type Entry struct {
	ID, Producer string
	// Settled says that it ended at CostNano and that the log has not shown that yet.
	Settled  bool
	CostNano int64
	// Lease says that it was reserved for requests to come; its amounts are what none of them has taken yet, as far as the log was read.
	Lease   bool
	Amounts []Amount
}

// Amount is what an entry holds of one balance, whose field is the whole one, with the period.
type Amount struct {
	Field string
	Nano  int64
}

// text is the entry as budgets.lua writes it.
func (e *Entry) text() string {
	var b strings.Builder
	kind := "o"
	if e.Lease {
		kind = "l"
	}
	b.WriteString(kind + " 0 " + e.Producer)
	for _, a := range e.Amounts {
		b.WriteString(" " + a.Field + " " + strconv.FormatInt(a.Nano, 10))
	}
	return b.String()
}

func parseEntry(id, text string) (Entry, error) {
	words := strings.Fields(text)
	if len(words) < 3 || len(words)%2 != 1 {
		return Entry{}, fmt.Errorf("entry %s is %q", id, text)
	}
	e := Entry{ID: id, Settled: words[0] == "s", Lease: words[0] == "l", Producer: words[2]}
	var err error
	if e.CostNano, err = strconv.ParseInt(words[1], 10, 64); err != nil {
		return Entry{}, fmt.Errorf("cost of entry %s: %w", id, err)
	}
	for i := 3; i < len(words); i += 2 {
		n, err := strconv.ParseInt(words[i+1], 10, 64)
		if err != nil {
			return Entry{}, fmt.Errorf("amount of entry %s: %w", id, err)
		}
		e.Amounts = append(e.Amounts, Amount{words[i], n})
	}
	return e, nil
}

// Balances are the scripts by which the log changes the budgets in Redis. All of them may be repeated safely but for Install.
type Balances struct {
	store                             Evaluator
	reconcile, install, retire, place *Script
}

// NewBalances returns the scripts on that store.
func NewBalances(store Evaluator) *Balances {
	return &Balances{
		store:     store,
		reconcile: NewScript(budgetsSource + reconcileSource).within(balancesTimeout),
		install:   NewScript(budgetsSource + installSource).within(balancesTimeout),
		retire:    NewScript(budgetsSource + retireSource).within(balancesTimeout),
		place:     NewScript(budgetsSource + placeSource).within(balancesTimeout),
	}
}

// Cut is the budgets of one workspace as the log shows them up to an offset.
type Cut struct {
	Workspace string
	Epoch     uint64
	// To is the offset, inclusive.
	To int64
	// Posted is by balance, nano-USD.
	Posted map[string]int64
}

// forgotten says that the log no longer knows a balance.
const forgotten = "-"

// Step is how the log went on from one offset to another one.
type Step struct {
	Cut
	// From is the offset behind which Ended has every reservation that ended.
	From  int64
	Ended []string
	// Changed says that Posted has only what changed since From.
	Changed bool
	// Forgotten are balances of periods that are long over: they leave Redis with their last reservation.
	Forgotten []string
	// Open are reservations as the log shows them at To, which Redis may not have: leases that others were taken from, and those others.
	Open []Entry
}

// Reconcile applies a step. Where it does not, the hash stands at another offset, or belongs to another epoch.
func (b *Balances) Reconcile(ctx context.Context, s *Step) (applied bool, at int64, epoch uint64, err error) {
	reply, err := b.store.Eval(ctx, b.reconcile, []string{keyspace.State(s.Workspace)}, func(Times) []any {
		changed := 0
		if s.Changed {
			changed = 1
		}
		args := append(make([]any, 0, 6+2*len(s.Posted)+2*len(s.Forgotten)+2*len(s.Open)+len(s.Ended)), s.Epoch, s.From, s.To, changed, len(s.Posted)+len(s.Forgotten))
		for field, nano := range s.Posted {
			args = append(args, field, nano)
		}
		for _, field := range s.Forgotten {
			args = append(args, field, forgotten)
		}
		args = append(args, len(s.Open))
		for i := range s.Open {
			args = append(args, s.Open[i].ID, s.Open[i].text())
		}
		for _, id := range s.Ended {
			args = append(args, id)
		}
		return args
	})
	if err != nil {
		return false, 0, 0, fmt.Errorf("reconciling the budgets of %s: %w", s.Workspace, err)
	}
	if status(&reply) == 1 {
		return true, s.To, s.Epoch, nil
	}
	if len(reply.Values) < 4 {
		return false, 0, 0, fmt.Errorf("reconciling the budgets of %s: an answer of %d values", s.Workspace, len(reply.Values))
	}
	return false, number(reply.Values[2]), uint64(number(reply.Values[3])), nil //nolint:gosec // an epoch
}

// Installation is a whole state of budgets.
type Installation struct {
	Cut
	PolicyVersion uint64
	// Open are the reservations without an end; Fenced the producers that are closed.
	Open   []Entry
	Fenced []string
}

// Install makes the budgets of a workspace anew. It must not be repeated for an epoch: after an error nobody knows whether it ran, and what was
// granted since would be forgotten.
func (b *Balances) Install(ctx context.Context, in *Installation) (installed bool, err error) {
	reserved := map[string]int64{}
	for i := range in.Open {
		for _, a := range in.Open[i].Amounts {
			reserved[a.Field] += a.Nano
		}
	}
	for field := range in.Posted {
		reserved[field] += 0 // every balance is named
	}
	reply, err := b.store.Eval(ctx, b.install, []string{keyspace.State(in.Workspace)}, func(Times) []any {
		args := append(make([]any, 0, 6+2*len(reserved)+2*len(in.Open)+len(in.Fenced)), in.Epoch, in.To, in.PolicyVersion, stateTTL.Milliseconds(), len(reserved))
		for field, nano := range reserved {
			posted := strconv.FormatInt(in.Posted[field], 10)
			args = append(args, field, posted+" "+strconv.FormatInt(nano, 10)+" "+posted)
		}
		args = append(args, len(in.Open))
		for i := range in.Open {
			args = append(args, in.Open[i].ID, in.Open[i].text())
		}
		for _, p := range in.Fenced {
			args = append(args, p)
		}
		return args
	})
	if err != nil {
		return false, fmt.Errorf("installing the budgets of %s: %w", in.Workspace, err)
	}
	return status(&reply) == 1, nil
}

// ErrUnusable means that no proxy may use the budgets as they are in Redis.
var ErrUnusable = errors.New("the budgets in Redis may not be used")

// Retirement is the end of a producer in one workspace.
type Retirement struct {
	Workspace, Producer string
	// Least is the least epoch that proxies may use.
	Least uint64
	// Release names reservations of it that were never opened in the log and never will be: nothing was sent for them, and they end without a word.
	Release []string
}

// Retire fences a producer in a workspace and returns what it has reserved there. Error: ErrUnusable.
func (b *Balances) Retire(ctx context.Context, r Retirement) ([]Entry, error) {
	workspace, producer := r.Workspace, r.Producer
	reply, err := b.store.Eval(ctx, b.retire, []string{keyspace.State(workspace)}, func(Times) []any {
		args := append(make([]any, 0, 2+len(r.Release)), producer, r.Least)
		for _, id := range r.Release {
			args = append(args, id)
		}
		return args
	})
	if err != nil {
		return nil, fmt.Errorf("fencing %s in %s: %w", producer, workspace, err)
	}
	if status(&reply) != 1 {
		return nil, fmt.Errorf("fencing %s in %s: %w", producer, workspace, ErrUnusable)
	}
	var out []Entry
	for i := 2; i+1 < len(reply.Values); i += 2 {
		e, err := parseEntry(text(&reply, i), text(&reply, i+1))
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}
