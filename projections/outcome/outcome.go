// Package outcome reads the events of the costs topic in the way that every projection of it has to agree on:
// which outcomes an event carries, and what is too broken to count.
package outcome

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/rateguard/rateguard/projections/postgres"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
)

// Key names a reservation.
type Key struct{ Workspace, ReservationID string }

// KeyOf returns the key of a reservation as the stores take it.
func KeyOf(workspace, reservationID string) Key {
	return Key{Workspace: workspace, ReservationID: postgres.Text(reservationID)}
}

// Of returns the outcomes in an event; correction says that they correct, and reason why.
func Of(e *rateguardv1.Event) (list []*rateguardv1.Outcome, correction bool, reason string) {
	switch body := e.GetBody().(type) {
	case *rateguardv1.Event_CostSettled:
		return []*rateguardv1.Outcome{body.CostSettled.GetOutcome()}, false, ""
	case *rateguardv1.Event_ReservationVoided:
		return []*rateguardv1.Outcome{body.ReservationVoided.GetOutcome()}, false, ""
	case *rateguardv1.Event_ReservationExpired:
		return []*rateguardv1.Outcome{body.ReservationExpired.GetOutcome()}, false, ""
	case *rateguardv1.Event_LeaseEnded:
		return []*rateguardv1.Outcome{body.LeaseEnded.GetOutcome()}, false, ""
	case *rateguardv1.Event_CostCorrected:
		return []*rateguardv1.Outcome{body.CostCorrected.GetOutcome()}, true, body.CostCorrected.GetReason()
	case *rateguardv1.Event_ProducerClosed:
		return body.ProducerClosed.GetEnds(), false, ""
	}
	return nil, false, ""
}

// Check returns why an event cannot be counted, nil when it can or has nothing to count.
func Check(e *rateguardv1.Event) error {
	list, _, _ := Of(e)
	opened := e.GetReservationOpened()
	if (len(list) > 0 || opened != nil) && !plausible(e.GetOccurredAtUnixUs()) {
		return fmt.Errorf("time %d µs is out of range", e.GetOccurredAtUnixUs())
	}
	if opened != nil {
		return checkOpened(opened)
	}
	for i, o := range list {
		if err := check(o); err != nil {
			return fmt.Errorf("outcome %d of reservation %q: %w", i, o.GetReservationId(), err)
		}
	}
	return nil
}

func checkOpened(o *rateguardv1.ReservationOpened) error {
	if o.GetReservationId() == "" {
		return errors.New("reservation has no id")
	}
	if !amount(o.GetBoundNanoUsd()) {
		return fmt.Errorf("reservation %q: bound of %d nano-USD is out of range", o.GetReservationId(), o.GetBoundNanoUsd())
	}
	return checkHolds(o.GetHolds())
}

func check(o *rateguardv1.Outcome) error {
	switch {
	case o.GetReservationId() == "":
		return errors.New("no reservation id")
	case Kind(o) == "":
		return fmt.Errorf("unknown kind %d", o.GetKind())
	case !amount(o.GetCostNanoUsd()):
		return fmt.Errorf("cost of %d nano-USD is out of range", o.GetCostNanoUsd())
	case o.GetRevision() > maxCount:
		return fmt.Errorf("revision %d is out of range", o.GetRevision())
	}
	return checkHolds(o.GetHolds())
}

func checkHolds(list []*rateguardv1.Hold) error {
	for _, h := range list {
		if !amount(h.GetAmountNanoUsd()) {
			return fmt.Errorf("hold of %d nano-USD on budget %q is out of range", h.GetAmountNanoUsd(), h.GetBudgetId())
		}
	}
	return nil
}

// maxAmount bounds the cost of one call and what a lease holds, in nano-USD. A batch of the largest costs still fits an int64.
const maxAmount = int64(money.MaxCall)

func amount(nano int64) bool { return nano >= 0 && nano <= maxAmount }

// maxCount bounds revisions and attempts: far above what they reach, far below what the columns take.
const maxCount = 1 << 20

// Revision returns the revision that an outcome says, at least 1.
func Revision(o *rateguardv1.Outcome) int32 {
	return int32(min(max(o.GetRevision(), 1), maxCount))
}

// Attempt returns the attempt of a subject.
func Attempt(s *rateguardv1.Subject) int32 {
	return int32(min(s.GetAttempt(), maxCount))
}

// Kind returns "settled", "voided" or "expired"; empty for any other.
func Kind(o *rateguardv1.Outcome) string {
	switch o.GetKind() {
	case rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED:
		return "settled"
	case rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED:
		return "voided"
	case rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED:
		return "expired"
	default:
		return ""
	}
}

// Cost returns the cost in nano-USD; nil: the model has no price. A voided reservation costs nothing.
func Cost(o *rateguardv1.Outcome) *int64 {
	if o.CostNanoUsd == nil && o.GetKind() == rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED {
		return new(int64)
	}
	return o.CostNanoUsd
}

// Hold is what a reservation takes from one budget period.
type Hold struct {
	BudgetID         string    `json:"budget_id"`
	BudgetGeneration int64     `json:"budget_generation"`
	Balance          string    `json:"balance"`
	PeriodStart      time.Time `json:"period_start"`
	AmountNano       int64     `json:"amount_nano"`
}

// SamePeriod reports whether two holds are of one balance of one budget in one period.
func (h Hold) SamePeriod(other Hold) bool {
	return h.BudgetID == other.BudgetID && h.BudgetGeneration == other.BudgetGeneration && h.Balance == other.Balance && h.PeriodStart.Equal(other.PeriodStart)
}

// Holds returns the holds as the stores take them. A period without a start begins in 1970.
func Holds(list []*rateguardv1.Hold) []Hold {
	holds := make([]Hold, len(list))
	for i, h := range list {
		start := h.GetPeriodStartUnixUs()
		if !plausible(start) {
			start = 0
		}
		holds[i] = Hold{
			BudgetID: postgres.Text(h.GetBudgetId()), BudgetGeneration: Signed(h.GetBudgetGeneration()),
			Balance: postgres.Text(h.GetBalance()), PeriodStart: time.UnixMicro(start).UTC(), AmountNano: h.GetAmountNanoUsd(),
		}
	}
	return holds
}

// Signed returns a counter as the stores take it.
func Signed(n uint64) int64 {
	return int64(min(n, math.MaxInt64))
}

// OpenedAt returns when a reservation was opened, as its subject says it; the event's own time where it does not.
func OpenedAt(e *rateguardv1.Event, s *rateguardv1.Subject) time.Time {
	if us := s.GetOpenedAtUnixUs(); plausible(us) {
		return time.UnixMicro(us).UTC()
	}
	return OccurredAt(e)
}

// OccurredAt returns the time of an event.
func OccurredAt(e *rateguardv1.Event) time.Time { return time.UnixMicro(e.GetOccurredAtUnixUs()).UTC() }

// Value returns the amount, 0 for none.
func Value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

var (
	earliest = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	latest   = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
)

// plausible reports whether us is a time of a request.
func plausible(us int64) bool { return us >= earliest && us < latest }
