package proof

import (
	"fmt"

	"github.com/rateguard/rateguard/projections/outcome"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/spend"
)

// sweep is after how many records an auditor lets go of the periods that the fold has dropped.
const sweep = 4096

// auditor holds the records of one workspace against the rules. The sums are those of the fold that runs beside it.
type auditor struct {
	WorkspaceAudit
	history history
	state   *rateguardv1.SpendState
	epochs  map[uint64]*numbers
	views   map[keyspace.BudgetPeriod]*view
	// local are open reservations that Redis did not grant.
	local   map[string]bool
	leases  leases
	records int
}

func newAuditor(workspace string, h history) *auditor {
	return &auditor{
		WorkspaceAudit: WorkspaceAudit{Workspace: workspace, Epochs: []EpochAudit{}, Breaches: []Breach{}, Overruns: []Overrun{}},
		history:        h, state: new(rateguardv1.SpendState), epochs: make(map[uint64]*numbers),
		views: make(map[keyspace.BudgetPeriod]*view), local: make(map[string]bool), leases: newLeases(),
	}
}

// apply takes the next record of the workspace.
func (a *auditor) apply(e *rateguardv1.Event, offset int64) {
	o := e.GetReservationOpened()
	taken := o != nil && spend.TakesOpening(a.state, e.GetProducerId(), o)
	charged := spend.EndsCharged(a.state, e)
	closed := spend.Producer(a.state, e.GetProducerId()).GetClosedAtUnixUs() != 0
	before := make([]shown, len(o.GetHolds()))
	for i, h := range o.GetHolds() {
		sums := spend.Find(a.state, h)
		before[i] = shown{sums.GetPostedNanoUsd(), sums.GetReservedNanoUsd()}
	}
	did := spend.Fold(a.state, e)
	if a.records++; a.records%sweep == 0 {
		a.letGo()
	}
	if !did.New {
		return
	}
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_ReservationOpened:
		a.opened(opening{e.GetProducerId(), e.GetSequence(), offset, o}, taken, before)
	case *rateguardv1.Event_CostCorrected:
		c := body.CostCorrected
		a.overran(c.GetOutcome(), offset, "price corrected")
		a.raise(c.GetOutcome(), c.GetOutcome().GetCostNanoUsd()-outcome.Value(c.PreviousCostNanoUsd))
	case *rateguardv1.Event_ProducerClosed:
		for _, end := range body.ProducerClosed.GetEnds() {
			if did.Closed {
				a.ended(end, body.ProducerClosed.GetProducerId())
				a.leases.close(end.GetReservationId())
			}
		}
	default:
		if end := firstOutcome(e); end != nil {
			a.overran(end, offset, "provider billed beyond the bound")
			if closed || charged { // a correction, or an end behind the closing: Redis hears of it by the log alone
				a.raise(end, end.GetCostNanoUsd())
			}
			if !charged { // else nothing was held for it
				a.ended(end, spend.OpenedBy(e, end))
			}
			if e.GetLeaseEnded() != nil {
				a.leaseEnded(e, offset)
			}
		}
	}
}

// shown is what the fold shows of a budget period.
type shown struct{ posted, reserved int64 }

// opening is the record by which a reservation or a lease begins.
type opening struct {
	producer string
	sequence uint64
	offset   int64
	*rateguardv1.ReservationOpened
}

// opened checks a grant, or what is taken from a lease; before are what the fold showed of its budgets before it.
func (a *auditor) opened(o opening, taken bool, before []shown) {
	a.Openings++
	if o.GetLease() {
		a.lent(o)
	}
	if o.GetLeaseId() != "" {
		a.takenFrom(o)
		return
	}
	hard := false
	for i, h := range o.GetHolds() {
		hard = a.held(o, h) || hard
		v := a.view(h)
		if o.GetEpoch() > 0 && a.isHard(o, h) {
			a.saw(o, h, v, before[i].posted+before[i].reserved)
		}
		if taken {
			v.open(o, h)
		}
	}
	switch {
	case len(o.GetHolds()) == 0:
	case o.GetEpoch() == 0:
		if hard || o.GetLease() {
			a.breach(Breach{Rule: RuleOps, Reservation: o.GetReservationId(), Offset: o.offset, Detail: "is a lease or holds of a hard budget, and was not granted in Redis"})
		}
		if taken {
			a.local[o.GetReservationId()] = true
		}
	case o.GetOp() == 0:
		a.breach(Breach{Rule: RuleOps, Reservation: o.GetReservationId(), Offset: o.offset, Detail: fmt.Sprintf("has number 0 in epoch %d", o.GetEpoch())})
	default:
		if a.epochs[o.GetEpoch()] == nil {
			a.epochs[o.GetEpoch()] = new(numbers)
		}
		if !a.epochs[o.GetEpoch()].add(o.GetOp()) {
			a.breach(Breach{Rule: RuleOps, Reservation: o.GetReservationId(), Offset: o.offset, Detail: fmt.Sprintf("has number %d of epoch %d, which another grant has", o.GetOp(), o.GetEpoch())})
		}
	}
}

// isHard looks the budget up in the policy that admitted.
func (a *auditor) isHard(o opening, h *rateguardv1.Hold) bool {
	return a.history[o.GetSubject().GetPolicyVersion()][h.GetBudgetId()].hard
}

// held checks one hold by itself and reports whether its budget is hard.
func (a *auditor) held(o opening, h *rateguardv1.Hold) bool {
	version := o.GetSubject().GetPolicyVersion()
	budgets, known := a.history[version]
	breach := func(rule, format string, args ...any) {
		a.breach(Breach{Rule: rule, Reservation: o.GetReservationId(), Budget: h.GetBudgetId(), Offset: o.offset, Detail: fmt.Sprintf(format, args...)})
	}
	b, there := budgets[h.GetBudgetId()]
	amount, sum := money.Nano(h.GetAmountNanoUsd()), money.Nano(h.GetPostedNanoUsd()+h.GetReservedNanoUsd())
	if o.BoundNanoUsd != nil && h.GetAmountNanoUsd() > o.GetBoundNanoUsd() || amount < 0 {
		breach(RuleBound, "holds %s and its bound is %s", usd(amount), usd(money.Nano(o.GetBoundNanoUsd())))
	}
	switch {
	case !known:
		a.Unknown++
		return false
	case !there || b.generation != h.GetBudgetGeneration():
		breach(RulePolicy, "policy version %d has no budget with generation %d", version, h.GetBudgetGeneration())
		return false
	case h.GetLimitNanoUsd() != b.limit:
		breach(RulePolicy, "was granted by a limit of %s; policy version %d says %s", usd(money.Nano(h.GetLimitNanoUsd())), version, usd(money.Nano(b.limit)))
	}
	if !b.hard {
		return false
	}
	a.Hard++
	if o.BoundNanoUsd == nil && !o.GetLease() { // of a lease each reservation has one
		breach(RuleBound, "has no bound under a hard budget")
	}
	if o.GetEpoch() > 0 && sum > money.Nano(b.limit) {
		breach(RuleLimit, "%s were posted and %s reserved after it, the limit of policy version %d is %s",
			usd(money.Nano(h.GetPostedNanoUsd())), usd(money.Nano(h.GetReservedNanoUsd())), version, usd(money.Nano(b.limit)))
	}
	return true
}

// saw compares what a grant saw with what the log shows at its place.
func (a *auditor) saw(o opening, h *rateguardv1.Hold, v *view, before int64) {
	seen := h.GetPostedNanoUsd() + h.GetReservedNanoUsd() - h.GetAmountNanoUsd()
	missing := before - v.local - v.later(o.GetEpoch(), o.GetOp()) - seen
	if missing <= 0 {
		return
	}
	if missing > v.explained(o.producer) {
		a.breach(Breach{
			Rule: RuleView, Reservation: o.GetReservationId(), Budget: h.GetBudgetId(), Offset: o.offset,
			Detail: fmt.Sprintf("its grant saw %s before it, %s less than the log shows of earlier grants", usd(money.Nano(seen)), usd(money.Nano(missing))),
		})
		return
	}
	a.LowerViews++
	a.LowerBy = max(a.LowerBy, money.Nano(missing))
}

func (a *auditor) breach(b Breach) {
	if a.Broken++; len(a.Breaches) < mostNamed {
		a.Breaches = append(a.Breaches, b)
	}
}

// overran notes an end that cost more than was reserved.
func (a *auditor) overran(o *rateguardv1.Outcome, offset int64, cause string) {
	if o.BoundNanoUsd == nil || o.GetCostNanoUsd() <= o.GetBoundNanoUsd() {
		return
	}
	a.Overran++
	a.OverranBy += money.Nano(o.GetCostNanoUsd() - o.GetBoundNanoUsd())
	if len(a.Overruns) < mostNamed {
		a.Overruns = append(a.Overruns, Overrun{
			Reservation: o.GetReservationId(), Offset: offset, Reserved: money.Nano(o.GetBoundNanoUsd()), Cost: money.Nano(o.GetCostNanoUsd()), Cause: cause,
		})
	}
}

// ended takes the end of a reservation off what is open.
func (a *auditor) ended(o *rateguardv1.Outcome, producer string) {
	local := a.local[o.GetReservationId()]
	delete(a.local, o.GetReservationId())
	for _, h := range o.GetHolds() {
		a.view(h).end(h, o, producer, local)
	}
}

func (a *auditor) raise(o *rateguardv1.Outcome, by int64) {
	for _, h := range o.GetHolds() {
		a.view(h).raised += max(0, by)
	}
}

func (a *auditor) view(h *rateguardv1.Hold) *view {
	p := keyspace.BudgetPeriod{Budget: h.GetBudgetId(), Generation: h.GetBudgetGeneration(), Balance: h.GetBalance(), StartUS: h.GetPeriodStartUnixUs()}
	if a.views[p] == nil {
		a.views[p] = &view{held: make(map[string]int64)}
	}
	return a.views[p]
}

// letGo forgets the periods that the fold has dropped.
func (a *auditor) letGo() {
	for p := range a.views {
		h := &rateguardv1.Hold{BudgetId: p.Budget, BudgetGeneration: p.Generation, Balance: p.Balance, PeriodStartUnixUs: p.StartUS}
		if spend.Find(a.state, h) == nil {
			delete(a.views, p)
		}
	}
}
