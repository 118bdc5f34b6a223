package keeper_test

import (
	"cmp"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/schemas/envelope"
	"github.com/rateguard/rateguard/topics/hash"
)

// ledger is what the log says that each reservation cost: the first end of each, the last one of a later correction, as every consumer counts them.
func (w *world) ledger(ws string) map[string]int64 {
	w.tb.Helper()
	costs, marks, closed := map[string]int64{}, map[string]uint64{}, map[string]bool{}
	late := map[string]string{} // what was taken from a lease behind the charge of it, and from which
	w.each(hash.Partition([]byte(ws), partitions), func(rec *kgo.Record) {
		if string(rec.Key) != ws {
			return
		}
		e, err := envelope.Decode(rec.Value)
		must(w.tb, err)
		if e.GetSequence() > 0 {
			if e.GetSequence() <= marks[e.GetProducerId()] {
				return
			}
			marks[e.GetProducerId()] = e.GetSequence()
		}
		if o := cmp.Or(e.GetCostSettled().GetOutcome(), e.GetReservationExpired().GetOutcome()); o != nil {
			if lease := late[o.GetReservationId()]; lease != "" {
				costs[lease] -= o.GetHolds()[0].GetAmountNanoUsd()
			}
			costs[o.GetReservationId()] = o.GetCostNanoUsd()
		}
		if o := e.GetReservationOpened(); o.GetLeaseId() != "" {
			if _, charged := costs[o.GetLeaseId()]; charged {
				late[o.GetReservationId()] = o.GetLeaseId()
			}
		}
		if o := e.GetLeaseEnded().GetOutcome(); o != nil {
			if _, charged := costs[o.GetReservationId()]; charged {
				costs[o.GetReservationId()] -= o.GetHolds()[0].GetAmountNanoUsd()
			}
		}
		if c := e.GetProducerClosed(); c != nil && c.GetMark() == marks[c.GetProducerId()] && !closed[c.GetProducerId()] {
			closed[c.GetProducerId()] = true
			for _, o := range c.GetEnds() {
				if _, ended := costs[o.GetReservationId()]; ended {
					w.tb.Errorf("%s is ended twice", o.GetReservationId())
				}
				costs[o.GetReservationId()] = o.GetCostNanoUsd()
			}
		}
	})
	return costs
}
