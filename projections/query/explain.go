package query

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/money"
)

// Explanation is everything that is recorded of one request and its decision.
type Explanation struct {
	Request Request `json:"request"`
	// Why says in sentences why the request was decided as it was.
	Why    []string `json:"why"`
	Checks []Check  `json:"checks"`
	// Binding is the id of the limit or budget that refused the request, or that had least left for it; nil where none applied.
	Binding *string `json:"binding"`
	// UsedBy is who else used the binding limit; nil where none applied or its window is not known.
	UsedBy         *UsedBy           `json:"used_by"`
	PolicyVersion  uint64            `json:"policy_version"`
	PriceVersion   string            `json:"price_version"`
	UpstreamStatus uint16            `json:"upstream_status"`
	IdempotencyKey string            `json:"idempotency_key"`
	Tags           map[string]string `json:"tags"`
	ProducerID     string            `json:"producer_id"`
	Reservations   []Reservation     `json:"reservations"`
}

// Reservation is the life of one attempt as the ledger shows it.
type Reservation struct {
	ID       string      `json:"id"`
	BoundUSD *money.Nano `json:"bound_usd"`
	// OpenedAt is nil and Outcomes is empty until the ledger has an end.
	OpenedAt *time.Time `json:"opened_at"`
	Outcomes []Outcome  `json:"outcomes"`
}

// Outcome is one revision of a reservation's end.
type Outcome struct {
	Revision int    `json:"revision"`
	Kind     string `json:"kind"`
	// CostUSD is nil where the model has no price.
	CostUSD      *money.Nano `json:"cost_usd"`
	Estimated    bool        `json:"estimated"`
	Reason       string      `json:"reason"`
	PriceVersion string      `json:"price_version"`
	Time         time.Time   `json:"time"`
}

// Explain returns what is recorded of one request; found is false where the workspace has none of that id. Errors are problems.
func (s *Service) Explain(ctx context.Context, workspace, id string) (e Explanation, found bool, err error) {
	r, found, err := s.Request(ctx, workspace, id)
	if err != nil || !found {
		return e, found, err
	}
	e = Explanation{
		Request: r, Checks: readChecks(r.more.checks), PolicyVersion: r.more.policyVersion, PriceVersion: r.PriceVersion,
		UpstreamStatus: r.more.upstreamStatus, IdempotencyKey: r.more.idempotencyKey, Tags: r.more.tags, ProducerID: r.more.producerID,
	}
	if k := binding(e.Checks); k != nil {
		e.Binding = &k.ID
		if e.UsedBy, err = s.usedBy(ctx, workspace, id, k); err != nil {
			return e, false, err
		}
	}
	e.Why = Why(&e)
	e.Reservations, err = s.reservations(ctx, workspace, id, r.more.reservationIDs)
	return e, err == nil, err
}

// BudgetCheck returns what a budget showed when a request was decided; found is false where the workspace has no such request, and the check is nil
// where no such budget was looked at. Errors are problems.
func (s *Service) BudgetCheck(ctx context.Context, workspace, id, budget string) (k *Check, found bool, err error) {
	r, found, err := s.Request(ctx, workspace, id)
	if err != nil || !found {
		return nil, found, err
	}
	checks := readChecks(r.more.checks)
	for i := range checks {
		if checks[i].ID == budget && (checks[i].Kind == kindBudget || checks[i].Kind == "") {
			return &checks[i], true, nil
		}
	}
	return nil, true, nil
}

// reservations reads the ledger. The row names its reservations; the ledger may know more, of attempts that the row was made without.
func (s *Service) reservations(ctx context.Context, workspace, id string, named []string) ([]Reservation, error) {
	all := []Reservation{}
	at := map[string]int{}
	add := func(id string) *Reservation {
		i, ok := at[id]
		if !ok {
			i = len(all)
			at[id] = i
			all = append(all, Reservation{ID: id, Outcomes: []Outcome{}})
		}
		return &all[i]
	}
	for _, id := range named {
		add(id)
	}
	const query = `
SELECT reservation_id, bound_nano, opened_at, revision, kind, cost_nano, estimated, reason, price_version, occurred_at
  FROM ledger WHERE workspace = $1 AND request_id = $2 ORDER BY attempt, reservation_id, revision`
	rows, err := s.pool.Query(ctx, query, workspace, id)
	if err != nil {
		return nil, problem.Unavailable(fmt.Errorf("reading the ledger: %w", err), "the ledger does not answer")
	}
	var reservation string
	var bound, cost *int64
	var opened time.Time
	var o Outcome
	_, err = pgx.ForEachRow(rows, []any{&reservation, &bound, &opened, &o.Revision, &o.Kind, &cost, &o.Estimated, &o.Reason, &o.PriceVersion, &o.Time}, func() error {
		r := add(reservation)
		openedAt := opened.UTC()
		r.OpenedAt, r.BoundUSD = &openedAt, nano(bound)
		done := o
		done.CostUSD, done.Time = nano(cost), o.Time.UTC()
		r.Outcomes = append(r.Outcomes, done)
		return nil
	})
	if err != nil {
		return nil, problem.Unavailable(fmt.Errorf("reading the ledger: %w", err), "the ledger does not answer")
	}
	return all, nil
}

// nano copies an amount that may be absent.
func nano(n *int64) *money.Nano {
	if n == nil {
		return nil
	}
	amount := money.Nano(*n)
	return &amount
}
