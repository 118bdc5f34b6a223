package proof

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/projections/outcome"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/spend"
)

// maxListed bounds the reservations that a book keeps one by one; the sums count all.
const maxListed = 250_000

// maxMoves bounds the movements that are kept around the instant that is asked for.
const maxMoves = 100_000

// nearby is how far from an instant the movements of the sums are kept: clocks of proxies and Redis differ by less.
const nearby = 10 * time.Second

// Book lists the reservations of one budget period from the records of its workspace. Beside it runs the fold that processors and
// proxies run, which decides what counts; after each record that the book takes both have to show the same sums.
type Book struct {
	account *rateguardv1.Hold
	at      time.Time
	state   *rateguardv1.SpendState

	listed map[string]*Reservation
	// sums are those of the whole log, then those of what had happened at the instant.
	sums, then sums
	// unlisted counts the reservations beyond maxListed, uncounted the records that came after the fold had dropped the period.
	unlisted, uncounted int
	moves               []move
	// differs says where listing and fold first showed different sums.
	differs error
	// checked counts the comparisons.
	checked int
}

// sums are those of the fold, which the book makes by itself.
type sums struct {
	posted, reserved         money.Nano
	opened, ended, corrected int64
}

// move is one change of the sums close to the instant.
type move struct {
	at               time.Time
	posted, reserved money.Nano
}

// NewBook returns the empty book of an account, which is a hold of the budget period, for an instant.
func NewBook(account *rateguardv1.Hold, at time.Time) *Book {
	return &Book{account: account, at: at, state: new(rateguardv1.SpendState), listed: make(map[string]*Reservation)}
}

// Apply takes the next record of the workspace.
func (b *Book) Apply(e *rateguardv1.Event, offset int64) {
	opened, ending := e.GetReservationOpened(), firstOutcome(e)
	taken := opened != nil && spend.TakesOpening(b.state, e.GetProducerId(), opened)
	how := b.howEnded(e, ending)
	did := spend.Fold(b.state, e)
	if !did.New {
		return
	}
	before := b.sums
	r := record{event: e, offset: offset, at: instant(e.GetOccurredAtUnixUs())}
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		b.open(r, opened, taken)
	case *rateguardv1.Event_CostCorrected:
		b.replace(r, body.CostCorrected.GetOutcome(), End{
			By: byCorrection, Reason: body.CostCorrected.GetReason(),
		}, End{Cost: nano(body.CostCorrected.PreviousCostNanoUsd), Estimated: body.CostCorrected.GetPreviousEstimated()})
	case *rateguardv1.Event_ProducerClosed:
		for _, o := range body.ProducerClosed.GetEnds() {
			if did.Closed {
				b.end(r, o, byClosing)
			}
		}
	default:
		b.single(r, ending, how)
	}
	if b.sums != before {
		b.compare(offset)
	}
}

// record is an event with its place.
type record struct {
	event  *rateguardv1.Event
	offset int64
	at     time.Time
}

// firstOutcome returns the outcome of an event that ends one reservation; nil for any other.
func firstOutcome(e *rateguardv1.Event) *rateguardv1.Outcome {
	if e.GetProducerClosed() != nil {
		return nil
	}
	list, correction, _ := outcome.Of(e)
	if len(list) == 0 || correction {
		return nil
	}
	return list[0]
}

// What the end of one reservation is.
const (
	endsFirst   = iota
	endsAgain   // a closing had ended it
	endsCharged // its opening was not counted, as what it may cost was charged for its lease
	endsNothing // nobody knows whether a closing had ended it
)

// howEnded returns what an outcome will be to the fold.
func (b *Book) howEnded(e *rateguardv1.Event, o *rateguardv1.Outcome) int {
	producer := spend.OpenedBy(e, o)
	if spend.Producer(b.state, producer).GetClosedAtUnixUs() == 0 {
		return endsFirst
	}
	switch known := spend.EndedByClosing(b.state, producer, o.GetReservationId()); {
	case known == spend.ClosingEnded:
		return endsAgain
	case known == spend.ClosingUnknown:
		return endsNothing
	case spend.EndsCharged(b.state, e):
		return endsCharged
	}
	return endsFirst
}

// single takes the end of one reservation: what a closing ended before is corrected by it, and what nobody knows of is left.
func (b *Book) single(r record, o *rateguardv1.Outcome, how int) {
	switch {
	case o == nil:
	case how == endsFirst:
		b.end(r, o, byProducer)
	case how == endsCharged:
		b.endCharged(r, o)
	case how == endsAgain:
		previous := b.last(o.GetReservationId())
		if r.event.GetLeaseEnded() != nil {
			o = restOf(previous, o)
		}
		b.replace(r, o, End{By: byProducer}, previous)
	}
}

// last returns the newest revision of a reservation; zero where it has none.
func (b *Book) last(id string) End {
	if held := b.listed[id]; held != nil && !held.open() {
		return held.Ends[len(held.Ends)-1]
	}
	return End{}
}

// restOf returns the outcome of a lease that was charged and is given back: what is left is for those that have taken from it and not ended.
func restOf(charge End, o *rateguardv1.Outcome) *rateguardv1.Outcome {
	left := cost(charge.Cost) - min(cost(charge.Cost), money.Nano(spend.HeldOfEach(o)))
	rest := proto.CloneOf(o)
	rest.CostNanoUsd, rest.Estimated, rest.Revision = (*int64)(&left), left > 0 && charge.Estimated, charge.Revision+1
	if left > 0 {
		rest.Kind = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED
	}
	return rest
}

// hold returns the account's part of what a reservation holds.
func (b *Book) hold(holds []*rateguardv1.Hold) (*rateguardv1.Hold, bool) {
	for _, h := range holds {
		if h.GetBudgetId() == b.account.GetBudgetId() && h.GetBudgetGeneration() == b.account.GetBudgetGeneration() &&
			h.GetBalance() == b.account.GetBalance() && h.GetPeriodStartUnixUs() == b.account.GetPeriodStartUnixUs() {
			return h, true
		}
	}
	return nil, false
}

// open takes an opening; counts says that it changes the sums. One that does not, as what it may cost is charged for its lease, is shown once it has ended.
func (b *Book) open(r record, o *rateguardv1.ReservationOpened, counts bool) {
	h, found := b.hold(o.GetHolds())
	if !found || !counts && o.GetLeaseId() == "" {
		return
	}
	entry := b.listed[o.GetReservationId()]
	switch {
	case entry != nil: // an opening that fills a hole comes behind its end
	case len(b.listed) < maxListed:
		entry = &Reservation{ID: o.GetReservationId()}
		b.listed[entry.ID] = entry
	default:
		b.unlisted++
	}
	if entry != nil {
		entry.Opened, entry.Lease, entry.charged = newOpening(r.event, o, h, r.offset), o.GetLease(), !counts
	}
	if !counts {
		return
	}
	change := sums{opened: 1, reserved: money.Nano(h.GetAmountNanoUsd())}
	if lease := b.listed[o.GetLeaseId()]; o.GetLeaseId() != "" {
		if change.reserved = 0; lease != nil && !r.at.After(b.at) {
			lease.taken += money.Nano(h.GetAmountNanoUsd())
		}
	}
	b.count(r.at, change)
}

// endCharged takes the end of a reservation whose opening was not counted: what is charged for its lease is less by what it took.
func (b *Book) endCharged(r record, o *rateguardv1.Outcome) {
	if _, found := b.hold(o.GetHolds()); !found {
		return
	}
	b.list(r, o, End{By: byProducer})
	change := sums{opened: 1, ended: 1, posted: money.Nano(o.GetCostNanoUsd())}
	charge := b.last(o.GetLeaseId())
	if taken := min(cost(charge.Cost), money.Nano(spend.HeldOfEach(o))); taken > 0 {
		left := cost(charge.Cost) - taken
		charge.At, charge.Offset, charge.Revision, charge.Cost, charge.By, charge.Reason = r.at, r.offset, charge.Revision+1, &left, byReservation, o.GetReservationId()+" was taken from it"
		charge.Estimated = charge.Estimated && left > 0
		lease := b.listed[o.GetLeaseId()]
		lease.Ends = append(lease.Ends, charge)
		change.posted -= taken
	}
	b.count(r.at, change)
}

func (b *Book) end(r record, o *rateguardv1.Outcome, by string) {
	h, found := b.hold(o.GetHolds())
	if !found {
		return
	}
	b.list(r, o, End{By: by})
	b.count(r.at, sums{ended: 1, posted: money.Nano(o.GetCostNanoUsd()), reserved: -money.Nano(h.GetAmountNanoUsd())})
}

// replace takes the difference to the revision before.
func (b *Book) replace(r record, o *rateguardv1.Outcome, who, previous End) {
	if _, found := b.hold(o.GetHolds()); !found || sameCost(nano(o.CostNanoUsd), previous.Cost) && o.GetEstimated() == previous.Estimated {
		return
	}
	b.list(r, o, who)
	b.count(r.at, sums{corrected: 1, posted: money.Nano(o.GetCostNanoUsd()) - cost(previous.Cost)})
}

// list adds a revision; who says by whom and why.
func (b *Book) list(r record, o *rateguardv1.Outcome, who End) {
	entry := b.listed[o.GetReservationId()]
	if entry == nil && len(b.listed) < maxListed {
		entry = &Reservation{ID: o.GetReservationId(), Lease: o.GetLease()}
		b.listed[entry.ID] = entry
	}
	if entry != nil {
		entry.Ends = append(entry.Ends, End{
			At: r.at, Offset: r.offset, Revision: o.GetRevision(), Kind: outcome.Kind(o), Cost: nano(o.CostNanoUsd), Estimated: o.GetEstimated(),
			By: who.By, Reason: who.Reason,
		})
	}
}

func (b *Book) count(at time.Time, d sums) {
	b.sums.add(d)
	if !at.After(b.at) {
		b.then.add(d)
	}
	if at.Sub(b.at).Abs() <= nearby && len(b.moves) < maxMoves {
		b.moves = append(b.moves, move{at: at, posted: d.posted, reserved: d.reserved})
	}
}

func (s *sums) add(d sums) {
	s.posted += d.posted
	s.reserved += d.reserved
	s.opened += d.opened
	s.ended += d.ended
	s.corrected += d.corrected
}

// compare holds the book against the fold. A period that the fold has dropped, for its age, it can say nothing of.
func (b *Book) compare(offset int64) {
	held := spend.Find(b.state, b.account)
	if held == nil {
		b.uncounted++
		return
	}
	b.checked++
	folded := sums{
		posted: money.Nano(held.GetPostedNanoUsd()), reserved: money.Nano(held.GetReservedNanoUsd()),
		opened: int64(held.GetOpened()), ended: int64(held.GetEnded()), corrected: int64(held.GetCorrected()), //nolint:gosec // counts of records
	}
	if folded != b.sums && b.differs == nil {
		b.differs = fmt.Errorf("at offset %d the list shows %s posted and %s reserved, the fold %s and %s", offset,
			b.sums.posted, b.sums.reserved, folded.posted, folded.reserved)
	}
}

// peak returns the largest sum of posted and reserved close to the instant, and when it stood.
func (b *Book) peak() (most money.Nano, at time.Time) {
	slices.SortStableFunc(b.moves, func(x, y move) int { return x.at.Compare(y.at) })
	sum := b.then.posted + b.then.reserved
	for _, m := range b.moves {
		if !m.at.After(b.at) {
			sum -= m.posted + m.reserved
		}
	}
	most, at = sum, b.at.Add(-nearby)
	for _, m := range b.moves {
		if sum += m.posted + m.reserved; sum > most {
			most, at = sum, m.at
		}
	}
	return most, at
}

func sameCost(a, b *money.Nano) bool { return (a == nil) == (b == nil) && cost(a) == cost(b) }
