package control

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/rateguard/rateguard/projections/outcome"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
	"github.com/rateguard/rateguard/schemas/price"
)

// ledgerRow is the newest outcome of a reservation, as the ledger has it.
type ledgerRow struct {
	workspace, reservation, request string
	revision, attempt               int32
	key, route, model, endpoint     string
	provider, kind, priceVersion    string
	policyVersion                   int64
	costNano, boundNano             *int64
	estimated                       bool
	openedAt                        time.Time
	usage                           *rateguardv1.Usage
	holds                           []outcome.Hold
}

// recomputed is what a reservation costs by other prices.
type recomputed struct {
	nano         int64
	priceVersion string
}

// recompute computes the cost from the recorded usage by the price of the opening, as the proxy did. ok is false where the cost did
// not come from a usage, or cannot come from it now: it stays as it is.
func (r *ledgerRow) recompute(c *price.Catalogue) (out recomputed, ok bool) {
	switch {
	case r.kind != "settled":
		return out, false // nothing was used, or nobody knows what was
	case r.priceVersion == "" || r.model == "":
		return out, false // the route's own price
	case r.costNano == nil && r.usage == nil:
		return out, false // the answer says nothing that could be priced
	}
	p, err := c.Find(price.Query{Provider: r.provider, Model: r.model, At: r.openedAt})
	if err != nil {
		return out, false
	}
	cost, err := p.Cost(price.UsageFromProto(r.usage))
	if err != nil || cost > money.MaxCall {
		return out, false
	}
	if r.estimated && r.boundNano != nil {
		cost = min(cost, money.Nano(*r.boundNano)) // our own count is never charged above what was reserved
	}
	return recomputed{nano: int64(cost), priceVersion: p.Version()}, true
}

// differs reports whether the cost is another one than the ledger's.
func (r *ledgerRow) differs(from recomputed) bool {
	return r.costNano == nil || *r.costNano != from.nano
}

// change returns what the reservation costs by other prices; nil where it stays as it is.
func (r *ledgerRow) change(c *price.Catalogue) *recomputed {
	if to, ok := r.recompute(c); ok {
		return &to
	}
	return nil
}

// correction returns the next revision with another cost.
func (r *ledgerRow) correction(to recomputed, reason string) *rateguardv1.CostCorrected {
	holds := make([]*rateguardv1.Hold, len(r.holds))
	for i, h := range r.holds {
		holds[i] = &rateguardv1.Hold{
			BudgetId: h.BudgetID, BudgetGeneration: uint64(h.BudgetGeneration), Balance: h.Balance, //nolint:gosec // counts from 1
			PeriodStartUnixUs: h.PeriodStart.UnixMicro(), AmountNanoUsd: h.AmountNano,
		}
	}
	return &rateguardv1.CostCorrected{
		Reason: reason, PreviousCostNanoUsd: r.costNano, PreviousEstimated: r.estimated,
		Outcome: &rateguardv1.Outcome{
			ReservationId: r.reservation, Revision: uint32(r.revision) + 1, Kind: rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, //nolint:gosec // counts from 1
			CostNanoUsd: &to.nano, Estimated: r.estimated, Usage: r.usage, Holds: holds, BoundNanoUsd: r.boundNano,
			Subject: &rateguardv1.Subject{
				RequestId: r.request, Attempt: uint32(r.attempt), KeyId: r.key, Route: r.route, Provider: r.provider, Model: r.model, //nolint:gosec // counts from 1
				Endpoint: r.endpoint, OpenedAtUnixUs: r.openedAt.UnixMicro(), PriceVersion: to.priceVersion, PolicyVersion: uint64(r.policyVersion), //nolint:gosec // counts from 1
			},
		},
	}
}

func scanLedgerRow(row pgx.CollectableRow) (ledgerRow, error) {
	var r ledgerRow
	var usage, holds []byte
	err := row.Scan(&r.workspace, &r.reservation, &r.request, &r.revision, &r.attempt, &r.key, &r.route, &r.model, &r.endpoint, &r.provider, &r.kind,
		&r.priceVersion, &r.policyVersion, &r.costNano, &r.boundNano, &r.estimated, &r.openedAt, &usage, &holds)
	if err != nil {
		return r, err
	}
	r.openedAt = r.openedAt.UTC()
	if string(usage) != "{}" {
		r.usage = new(rateguardv1.Usage)
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(usage, r.usage); err != nil {
			return r, fmt.Errorf("reading the usage of %s: %w", r.reservation, err)
		}
	}
	if err := json.Unmarshal(holds, &r.holds); err != nil {
		return r, fmt.Errorf("reading the holds of %s: %w", r.reservation, err)
	}
	return r, nil
}
