package proof

import (
	"time"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
)

// Reservation is what one reservation took from the budget period that is asked for.
type Reservation struct {
	ID string `json:"id"`
	// Lease: a proxy reserved for requests to come, each of which takes a reservation of its own from it.
	Lease bool `json:"lease"`
	// Held is what it holds at the instant: its amount while it is open, without what was taken from it where it is a lease.
	Held money.Nano `json:"held_usd"`
	// Opened is nil where no opening stands in the log: the closing of its producer ended what only Redis showed.
	Opened *Opening `json:"opened"`
	// Ends are its revisions; empty while it is open.
	Ends []End `json:"ends"`

	// taken is what reservations had taken from a lease at the instant.
	taken money.Nano
	// charged: until its end it was part of what is charged for its lease, and not shown by itself.
	charged bool
}

// Opening is the record by which a reservation began. Posted, reserved and limit are what its grant saw, itself included; where it was taken from a
// lease they are what the lease's grant saw.
type Opening struct {
	At            time.Time  `json:"at"`
	Offset        int64      `json:"offset"`
	ProducerID    string     `json:"producer_id"`
	KeyID         string     `json:"key_id"`
	Route         string     `json:"route"`
	Model         string     `json:"model"`
	Amount        money.Nano `json:"amount_usd"`
	PriceVersion  string     `json:"price_version"`
	PolicyVersion uint64     `json:"policy_version"`
	// LeaseID is the lease that it was taken from; empty where Redis was asked.
	LeaseID string `json:"lease_id"`
	// Epoch and Op are 0 where Redis granted nothing: a soft budget while Redis was away. Op alone is 0 where it was taken from a lease, which has one.
	Epoch    uint64     `json:"epoch"`
	Op       uint64     `json:"op"`
	Posted   money.Nano `json:"posted_usd"`
	Reserved money.Nano `json:"reserved_usd"`
	Limit    money.Nano `json:"limit_usd"`
}

// End is one revision of a reservation's outcome.
type End struct {
	At       time.Time `json:"at"`
	Offset   int64     `json:"offset"`
	Revision uint32    `json:"revision"`
	// Kind is "settled", "voided" or "expired".
	Kind string `json:"kind"`
	// Cost is nil where the model has no price.
	Cost      *money.Nano `json:"cost_usd"`
	Estimated bool        `json:"estimated"`
	// By is "producer" (whoever opened it), "closing" (its producer was gone), "correction", or "reservation": a closing had charged a lease, and a
	// reservation that had taken from it ended later.
	By     string `json:"by"`
	Reason string `json:"reason"`
}

// Who ended a reservation.
const (
	byProducer    = "producer"
	byClosing     = "closing"
	byCorrection  = "correction"
	byReservation = "reservation"
)

// open reports whether nothing has ended it.
func (r *Reservation) open() bool { return len(r.Ends) == 0 }

// weight is what it counts for: its cost once it has ended, else all it holds.
func (r *Reservation) weight() money.Nano {
	if !r.open() {
		return cost(r.Ends[len(r.Ends)-1].Cost)
	}
	return r.Held
}

// until returns what was true of it at an instant; nil where nothing was yet.
func (r *Reservation) until(at time.Time) *Reservation {
	then := &Reservation{ID: r.ID, Lease: r.Lease, Ends: []End{}}
	if r.Opened != nil && !r.Opened.At.After(at) {
		then.Opened = r.Opened
	}
	for _, e := range r.Ends {
		if !e.At.After(at) {
			then.Ends = append(then.Ends, e)
		}
	}
	switch {
	case !then.open():
	case then.Opened == nil || r.charged:
		return nil
	default:
		then.Held = then.Opened.Amount - r.taken
	}
	return then
}

func newOpening(e *rateguardv1.Event, o *rateguardv1.ReservationOpened, h *rateguardv1.Hold, offset int64) *Opening {
	s := o.GetSubject()
	return &Opening{
		At: instant(e.GetOccurredAtUnixUs()), Offset: offset, ProducerID: e.GetProducerId(), KeyID: s.GetKeyId(), Route: s.GetRoute(), Model: s.GetModel(),
		Amount: money.Nano(h.GetAmountNanoUsd()), PriceVersion: s.GetPriceVersion(), PolicyVersion: s.GetPolicyVersion(), LeaseID: o.GetLeaseId(), Epoch: o.GetEpoch(), Op: o.GetOp(),
		Posted: money.Nano(h.GetPostedNanoUsd()), Reserved: money.Nano(h.GetReservedNanoUsd()), Limit: money.Nano(h.GetLimitNanoUsd()),
	}
}

func instant(us int64) time.Time { return time.UnixMicro(us).UTC() }

func cost(n *money.Nano) money.Nano {
	if n == nil {
		return 0
	}
	return *n
}

func nano(n *int64) *money.Nano {
	if n == nil {
		return nil
	}
	amount := money.Nano(*n)
	return &amount
}
