package control

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/rateguard/rateguard/topics"
)

const (
	// repriceChunk is how many reservations a step looks at, and the most corrections that wait in the outbox: configuration behind
	// them must not wait for long.
	repriceChunk = 500
	// repricePoll is how often the repricer looks for a run.
	repricePoll = 500 * time.Millisecond
	// repriceWait is how often it looks whether the outbox is empty or the ledger has caught up.
	repriceWait = 20 * time.Millisecond
)

// RepriceStep is a point of a run, for tests that fail there.
type RepriceStep string

// The steps, in their order.
const (
	// RepriceBegun: it is known where the log ends; nothing was read.
	RepriceBegun RepriceStep = "begun"
	// RepriceWritten: corrections of a chunk are in the outbox; not committed.
	RepriceWritten RepriceStep = "written"
	// RepriceCommitted: they are, with the cursor.
	RepriceCommitted RepriceStep = "committed"
	// RepriceComputed: everything was looked at.
	RepriceComputed RepriceStep = "computed"
	// RepriceClosed: the end of the run's producer is in the outbox, committed.
	RepriceClosed RepriceStep = "closed"
	// RepriceFinished: the result and its audit records are written; not committed.
	RepriceFinished RepriceStep = "finished"
)

// repricer carries out runs. The leader of the relay has one; a second one that believes to lead does no harm, because each step is a
// transaction under the lock of the run's row.
//
// That each correction counts once hangs on three things. Cursor, sums and outbox rows move in one transaction, so that a reservation is
// looked at once, whatever crashes. What the relay sends twice is dropped by the sequence, which the run's own producer counts in each
// workspace. And the ledger is read only when it shows all that stood in the log before the run, so that no cost is corrected that an
// earlier run has corrected already.
type repricer struct {
	server *Server
	client *kgo.Client
}

// run carries out what is planned until ctx ends.
func (p *repricer) run(ctx context.Context) error {
	for ctx.Err() == nil {
		r, found, err := readReprice(ctx, p.server.pool, underWay)
		if err == nil && found {
			err = p.carryOut(ctx, r.ID)
		}
		if err != nil && ctx.Err() == nil {
			p.server.log.Warn("reprice stopped and goes on", slog.String("reprice", r.ID), slog.Any("error", err))
		}
		pause(ctx, repricePoll)
	}
	return nil
}

// carryOut takes a run from wherever it stands to its end.
func (p *repricer) carryOut(ctx context.Context, id string) error {
	for _, step := range []func(context.Context, string) (done bool, err error){p.begin, p.correct, p.closeProducer, p.finish} {
		for {
			done, err := step(ctx, id)
			if err != nil {
				return err
			}
			if done {
				break
			}
			pause(ctx, repriceWait)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return nil
}

// locked runs do in one snapshot with the run's row locked. ended says that the run is over: another process was faster.
func (p *repricer) locked(ctx context.Context, id string, do func(context.Context, *change, *reprice) error) (ended bool, err error) {
	err = pgx.BeginTxFunc(ctx, p.server.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		r, found, err := readReprice(ctx, tx, "id = $1 AND "+underWay+" FOR UPDATE", id)
		if ended = err == nil && !found; ended || err != nil {
			return err
		}
		return do(ctx, &change{tx: tx, server: p.server, now: p.server.now()}, &r)
	})
	return ended, err
}

func (p *repricer) fail(step RepriceStep) error {
	if p.server.cfg.Fail == nil {
		return nil
	}
	return p.server.cfg.Fail(step)
}

// begin notes where the log ends.
func (p *repricer) begin(ctx context.Context, id string) (bool, error) {
	topicID, ends, err := p.ends(ctx)
	if err != nil {
		return false, err
	}
	_, err = p.locked(ctx, id, func(ctx context.Context, c *change, r *reprice) error {
		if r.State != repricePlanned {
			return nil
		}
		if _, err := r.catalogue(); err != nil {
			const update = "UPDATE control.reprices SET state = $2, error = $3, finished_at = $4 WHERE id = $1"
			if _, uerr := c.tx.Exec(ctx, update, id, repriceFailed, err.Error(), c.now); uerr != nil {
				return fmt.Errorf("giving up a reprice: %w", uerr)
			}
			return nil
		}
		list, err := json.Marshal(ends)
		if err != nil {
			return fmt.Errorf("encoding offsets: %w", err)
		}
		const update = "UPDATE control.reprices SET state = $2, topic_id = $3, ends = $4, started_at = $5 WHERE id = $1"
		if _, err := c.tx.Exec(ctx, update, id, repriceRunning, topicID, list, c.now); err != nil {
			return fmt.Errorf("beginning a reprice: %w", err)
		}
		return nil
	})
	if err == nil {
		err = p.fail(RepriceBegun)
	}
	return true, err
}

// ends returns where the topic of costs ends now, and the topic's id.
func (p *repricer) ends(ctx context.Context) (string, map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()
	admin := kadm.NewClient(p.client)
	details, err := admin.ListTopics(ctx, topics.Costs.Name)
	if err == nil {
		err = details.Error()
	}
	if err != nil {
		return "", nil, fmt.Errorf("asking for the topic of costs: %w", err)
	}
	listed, err := admin.ListEndOffsets(ctx, topics.Costs.Name)
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return "", nil, fmt.Errorf("asking for the end of the topic of costs: %w", err)
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) { ends[o.Partition] = o.Offset })
	return uuid.UUID(details[topics.Costs.Name].ID).String(), ends, nil
}

// reached reports whether the ledger shows the log up to some offsets.
func reached(ctx context.Context, q querier, topicID string, ends map[int32]int64) (bool, error) {
	const query = `
SELECT c.partition, c.next_offset FROM projection_checkpoints c JOIN projection_generations g USING (projection, generation)
 WHERE projection = $1 AND topic_id = $2`
	rows, err := q.Query(ctx, query, ledgerProjection, topicID)
	if err != nil {
		return false, fmt.Errorf("looking at the ledger's progress: %w", err)
	}
	next := map[int32]int64{}
	var partition int32
	var offset int64
	if _, err := pgx.ForEachRow(rows, []any{&partition, &offset}, func() error {
		next[partition] = offset
		return nil
	}); err != nil {
		return false, fmt.Errorf("looking at the ledger's progress: %w", err)
	}
	for partition, end := range ends {
		if next[partition] < end {
			return false, nil
		}
	}
	return true, nil
}

// drained reports whether the brokers have acknowledged all that the outbox had for the topic of costs.
func drained(ctx context.Context, q querier) (bool, error) {
	var waiting bool
	if err := q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM control.outbox WHERE topic = $1)", topics.Costs.Name).Scan(&waiting); err != nil {
		return false, fmt.Errorf("looking at the outbox: %w", err)
	}
	return !waiting, nil
}

// correct looks at the next reservations; done says that none is left.
func (p *repricer) correct(ctx context.Context, id string) (done bool, err error) {
	step := RepriceStep("")
	ended, err := p.locked(ctx, id, func(ctx context.Context, c *change, r *reprice) error {
		if r.computed {
			done = true
			return nil
		}
		// All in one snapshot: a ledger that is being made anew is not that far.
		empty, err := drained(ctx, c.tx)
		if err != nil || !empty {
			return err
		}
		there, err := reached(ctx, c.tx, r.topicID, r.ends)
		if err != nil || !there {
			return err
		}
		done, err = p.chunk(ctx, c, r)
		if step = RepriceCommitted; done {
			step = RepriceComputed
		}
		return err
	})
	if err != nil || ended || step == "" {
		return done || ended, err
	}
	return done, p.fail(step)
}

// closeProducer ends the run's producer in each workspace, once the brokers have acknowledged all of its corrections. Folds forget the
// sequence of a closed producer after a week; until the outbox is empty they must not, as the relay may send all of it again.
func (p *repricer) closeProducer(ctx context.Context, id string) (done bool, err error) {
	ended, err := p.locked(ctx, id, func(ctx context.Context, c *change, r *reprice) error {
		if r.closed {
			done = true
			return nil
		}
		empty, err := drained(ctx, c.tx)
		if err != nil || !empty {
			return err
		}
		done = true
		return p.writeClosings(ctx, c, r)
	})
	if err == nil && done {
		err = p.fail(RepriceClosed)
	}
	return done || ended, err
}

// finish waits until the ledger shows the run and writes its result.
func (p *repricer) finish(ctx context.Context, id string) (done bool, err error) {
	empty, err := drained(ctx, p.server.pool)
	if err != nil || !empty {
		return false, err
	}
	topicID, ends, err := p.ends(ctx)
	if err != nil {
		return false, err
	}
	for there := false; !there; {
		if there, err = reached(ctx, p.server.pool, topicID, ends); err != nil {
			return false, err
		}
		if !there {
			pause(ctx, repriceWait)
		}
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
	}
	return true, p.writeResult(ctx, id)
}
