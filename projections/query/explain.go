package query

import (
	"context"
	"encoding/json"
)

// Explanation is everything that is recorded of one request and its decision.
type Explanation struct {
	Request        Request           `json:"request"`
	Checks         json.RawMessage   `json:"checks"`
	PolicyVersion  uint64            `json:"policy_version"`
	PriceVersion   string            `json:"price_version"`
	UpstreamStatus uint16            `json:"upstream_status"`
	IdempotencyKey string            `json:"idempotency_key"`
	Tags           map[string]string `json:"tags"`
	ProducerID     string            `json:"producer_id"`
	Reservations   []Reservation     `json:"reservations"`
}

// Reservation is the life of one attempt in the ledger.
type Reservation struct {
	ID string `json:"id"`
}

// Explain returns what is recorded of one request; found is false where the workspace has none of that id. Errors are problems.
func (s *Service) Explain(ctx context.Context, workspace, id string) (e Explanation, found bool, err error) {
	r, found, err := s.Request(ctx, workspace, id)
	if err != nil || !found {
		return e, found, err
	}
	e = Explanation{
		Request: r, Checks: json.RawMessage(r.more.checks), PolicyVersion: r.more.policyVersion, PriceVersion: r.PriceVersion,
		UpstreamStatus: r.more.upstreamStatus, IdempotencyKey: r.more.idempotencyKey, Tags: r.more.tags, ProducerID: r.more.producerID,
		Reservations: []Reservation{},
	}
	if !json.Valid(e.Checks) {
		e.Checks = json.RawMessage("[]")
	}
	for _, id := range r.more.reservationIDs {
		e.Reservations = append(e.Reservations, Reservation{ID: id})
	}
	return e, true, nil
}
