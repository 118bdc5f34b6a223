package projections_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/rateguard/rateguard/projections"
	"github.com/rateguard/rateguard/projections/runner"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// A closed producer's open reservations cost what the closing says; what surfaces later corrects, and is never a second cost.
func TestLateEndOfAClosedProducerIsACorrection(t *testing.T) {
	r, tr := newRig(t), newTraffic(9)
	r.start()
	const ws, gone, closer = "ws_1", "producer-gone", "producer-closer"
	q := tr.newRequest(ws, gone)
	r.send(tr.opened(q))
	closeIt := func(mark uint64) {
		ends := []*rateguardv1.Outcome{q.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, q.bound)}
		ends[0].Estimated = true
		row := q.row()
		row.CostNanoUsd, row.Estimated, row.Status = &q.bound, true, 0
		r.send(
			tr.record(topics.Costs, ws, closer, &rateguardv1.Event{OccurredAtUnixUs: q.at.UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{
				ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: gone, Mark: mark, Ends: ends},
			}}),
			tr.record(topics.Requests, ws, closer, &rateguardv1.Event{OccurredAtUnixUs: q.at.UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{
				ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: gone, Mark: mark - 1, Rows: []*rateguardv1.RequestRecorded{row}},
			}}))
	}
	closeIt(7) // a closer that saw another log: ignored
	r.caughtUp()
	r.verify(want{open: 1, reserved: q.bound})
	closeIt(1)
	closeIt(1) // the second closer is ignored
	r.caughtUp()
	closed := want{requests: 1, cost: q.bound, input: q.input, ledger: 1, posted: q.bound, corrections: 1}
	r.verify(closed)
	// The producer was alive after all.
	r.send(tr.settled(q), tr.recorded(q))
	r.caughtUp()
	closed.ledger, closed.posted, closed.corrections = 2, q.cost, 2
	r.verify(closed)
}

// A projector that is paused between two steps and wakes up after its partitions went to another writes nothing.
func TestZombieIsFenced(t *testing.T) {
	for projection, step := range map[string]runner.Step{"requests": runner.StepAnnounced, "ledger": runner.StepFetched, "balances": runner.StepFetched} {
		t.Run(projection, func(t *testing.T) {
			r, tr := newRig(t), newTraffic(10)
			r.send(tr.load(50)...)
			paused, wake := make(chan struct{}), make(chan struct{})
			var pause sync.Once
			r.start(func(c *projections.Config) {
				c.Fail = func(p string, s runner.Step) error {
					if p == projection && s == step {
						pause.Do(func() {
							close(paused)
							<-wake
						})
					}
					return nil
				}
			})
			<-paused
			before := r.epochs(projection)
			// The same place in the group: the broker gives the newcomer the zombie's partitions at once.
			r.start()
			r.eventually("the newcomer owns the partitions", func(context.Context) error {
				if now := r.epochs(projection); now <= before {
					return fmt.Errorf("sum of epochs %d", now)
				}
				return nil
			})
			r.caughtUp()
			r.verify(tr.want)
			close(wake)
			r.send(tr.load(50)...)
			r.caughtUp()
			r.verify(tr.want)
		})
	}
}

// epochs returns the sum of the epochs of a projection's partitions; it grows with each claim.
func (r *rig) epochs(projection string) int64 {
	r.t.Helper()
	var sum int64
	err := r.pg.QueryRow(r.t.Context(), "SELECT coalesce(sum(epoch), 0)::bigint FROM projection_checkpoints WHERE projection = $1", projection).Scan(&sum)
	if err != nil {
		r.t.Fatalf("reading epochs: %v", err)
	}
	return sum
}

// The last record that a producer wrote is refused. Whoever closes it has seen that record, and so its mark; the
// projections have to count its number too, or they would ignore the closing and with it every end that it brings.
func TestClosingAfterARefusedRecordIsTaken(t *testing.T) {
	r, tr := newRig(t), newTraffic(11)
	r.start()
	const ws, gone, closer = "ws_1", "producer-gone", "producer-closer"
	done, open := tr.newRequest(ws, gone), tr.newRequest(ws, gone)
	r.send(tr.whole(done)...)
	r.send(tr.opened(open))
	refused := done.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED, -1)
	r.send(
		tr.record(topics.Costs, ws, gone, &rateguardv1.Event{
			OccurredAtUnixUs: done.at.UnixMicro(),
			Body:             &rateguardv1.Event_CostSettled{CostSettled: &rateguardv1.CostSettled{Outcome: refused}},
		}),
		tr.record(topics.Requests, ws, gone, &rateguardv1.Event{
			OccurredAtUnixUs: done.at.UnixMicro(),
			Body:             &rateguardv1.Event_RequestRecorded{RequestRecorded: &rateguardv1.RequestRecorded{}},
		}))
	end := open.outcome(rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, open.bound)
	row := open.row()
	row.CostNanoUsd = &open.bound
	r.send(
		tr.record(topics.Costs, ws, closer, &rateguardv1.Event{OccurredAtUnixUs: open.at.UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{
			ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: gone, Mark: 4, Ends: []*rateguardv1.Outcome{end}},
		}}),
		tr.record(topics.Requests, ws, closer, &rateguardv1.Event{OccurredAtUnixUs: open.at.UnixMicro(), Body: &rateguardv1.Event_ProducerClosed{
			ProducerClosed: &rateguardv1.ProducerClosed{ProducerId: gone, Mark: 2, Rows: []*rateguardv1.RequestRecorded{row}},
		}}))
	r.caughtUp()
	want := tr.want
	want.requests, want.cost, want.input = want.requests+1, want.cost+open.bound, want.input+open.input
	want.ledger, want.posted, want.corrections = want.ledger+1, want.posted+open.bound, want.corrections+1
	r.verify(want)
}
