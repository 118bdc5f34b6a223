package rebuild

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/rateguard/rateguard/proxy/rebuild/closing"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

// maxRestarts bounds how often one closing begins again because the producer still writes; after it the
// closing is given up for now and tried again later.
const maxRestarts = 100

// gone is one producer that is to be closed.
type gone struct {
	status *rateguardv1.ProducerStatus
	// dead: the producer can write no more, since we hold its folder.
	dead bool
	// complete: the log has all that it ever opened. Nothing was sent for what else Redis shows of it, which is released.
	complete bool
	// patience is how long budgets are waited for that are not in Redis; 0: they are looked at once.
	patience time.Duration
}

// close ends everything the log shows open of a producer that is fenced. Each round reads to the end of
// the log, appends what is missing and reads again whether it counted: a record that the producer got
// into the log in between moves its mark, and our ProducerClosed is ignored by everybody. What Redis shows of it and the log does not is
// ended too, as it may have been sent; of one that an operator declared lost, Redis is not asked.
func (r *Rebuilder) close(ctx context.Context, c gone) error {
	status := c.status
	if err := r.begin(ctx, status); err != nil {
		return fmt.Errorf("closing producer %s: %w", status.GetProducerId(), err)
	}
	shown := new(held)
	if r.roster.LostAt(status.GetProducerId()) == 0 {
		var err error
		if shown, err = r.held(ctx, status.GetProducerId(), c.patience); err != nil {
			return err
		}
	}
	sc, err := r.newScanner(status, shown, c.complete)
	if err != nil {
		return err
	}
	defer func() { // a later one may have taken its place
		r.met.read.Add(float64(sc.state.Read()))
		sc.close()
	}()
	appended, released := make(map[string]bool), false
	for range maxRestarts {
		err := sc.toEnd(ctx)
		if errors.Is(err, errNoGeneration) {
			r.log.Warn("reading a producer from its start", slog.String("producer_id", status.GetProducerId()), slog.Uint64("generation", status.GetGeneration()))
			whole, err := r.newScanner(sinceStart(status), shown, c.complete)
			if err != nil {
				return err
			}
			sc.close()
			sc = whole
			continue
		}
		if err != nil {
			return err
		}
		switch {
		case !c.complete:
			sc.state.TakeHeld()
		case !released:
			// Before the closing counts: whoever goes on behind that, after a crash of ours, would end it at its bound.
			if err := r.release(ctx, status.GetProducerId(), sc.state); err != nil {
				return err
			}
			released = true
		}
		records, err := sc.state.Missing(c.dead)
		if err != nil {
			return err
		}
		numbered := len(records) == 0 && c.dead
		if numbered {
			records = sc.state.Leftovers()
		}
		if len(records) == 0 {
			return r.finish(ctx, status)
		}
		for _, rec := range records {
			if err := r.append(rec, !numbered); err != nil {
				return fmt.Errorf("closing producer %s: %w", status.GetProducerId(), err)
			}
		}
		if err := r.cfg.Spool.FlushOwn(ctx); err != nil {
			return fmt.Errorf("closing producer %s: %w", status.GetProducerId(), err)
		}
		if topic := records[0].Topic.Name; appended[topic] {
			r.met.restarted.Inc()
		} else {
			appended[topic] = true
		}
	}
	return fmt.Errorf("closing producer %s: it still writes after %d attempts", status.GetProducerId(), maxRestarts)
}

// sinceStart is a status that has everything read that the producer has written.
func sinceStart(status *rateguardv1.ProducerStatus) *rateguardv1.ProducerStatus {
	status = proto.CloneOf(status)
	status.CostsOffsets, status.RequestsOffsets, status.Generation = status.GetCostsStarted(), status.GetRequestsStarted(), 0
	return status
}

// append appends what ends something. A closing is not numbered, what it left over is.
func (r *Rebuilder) append(what closing.Record, unnumbered bool) error {
	rec, err := record(what.Topic, what.Workspace, what.Event)
	if err != nil {
		return err
	}
	rec.Unnumbered = unnumbered
	r.met.ended.Add(float64(what.Ends))
	return r.cfg.Spool.Append(rec)
}

// begin says in the topic of producers that the producer is being closed, so that budgets which are installed from the log fence it too. Behind Sync every
// round is known whose keeper may not have read that: budgets are usable once what that round installs is there.
func (r *Rebuilder) begin(ctx context.Context, status *rateguardv1.ProducerStatus) error {
	if !r.roster.Retired(status.GetProducerId()) {
		status = proto.CloneOf(status) // the reaper's view of the topic is read by others
		status.ClosingAtUnixUs, status.DeclaredLostAtUnixUs = time.Now().UnixMicro(), r.roster.LostAt(status.GetProducerId())
		if err := r.appendStatus(status); err != nil {
			return err
		}
	}
	// What an attempt before this one appended and did not see through has to be in the log that is read now.
	if err := r.cfg.Spool.FlushOwn(ctx); err != nil {
		return err
	}
	return r.roster.Sync(ctx)
}

// CloseSelf says that this producer has ended: nothing of it is open, its records are all in the log, and nobody has to wait for it or to close it. It is called
// after Run, while the spool still ships. A producer that was never announced has nothing to say.
func (r *Rebuilder) CloseSelf(ctx context.Context) error {
	select {
	case <-r.cfg.Spool.Announced():
		return r.finish(ctx, r.cfg.Spool.LastStatus())
	default:
		return nil
	}
}

// finish writes the producer's last status, after which nobody looks at it again.
func (r *Rebuilder) finish(ctx context.Context, status *rateguardv1.ProducerStatus) error {
	status = proto.CloneOf(status) // the reaper's view of the topic is read by others
	status.ClosedAtUnixUs = time.Now().UnixMicro()
	err := r.appendStatus(status)
	if err == nil {
		err = r.cfg.Spool.FlushOwn(ctx)
	}
	if err != nil {
		return fmt.Errorf("writing status of producer %s: %w", status.GetProducerId(), err)
	}
	r.met.closed.Inc()
	return nil
}

func (r *Rebuilder) appendStatus(status *rateguardv1.ProducerStatus) error {
	rec, err := unnumbered(topics.Producers, status.GetProducerId(), &rateguardv1.Event{Body: &rateguardv1.Event_ProducerStatus{ProducerStatus: status}})
	if err != nil {
		return err
	}
	return r.cfg.Spool.Append(rec)
}

// unnumbered is for records that may be repeated: a ProducerClosed counts once by its own rule, a status
// replaces the last. With a number, every closing would leave a mark in its workspaces that the closer's own
// closing had to close, and so on from process to process.
func unnumbered(topic topics.Topic, key string, e *rateguardv1.Event) (spool.Record, error) {
	rec, err := record(topic, key, e)
	rec.Unnumbered = true
	return rec, err
}

// record encodes an event and gives it an id where it has none.
func record(topic topics.Topic, key string, e *rateguardv1.Event) (spool.Record, error) {
	if e.GetId() == "" {
		id, err := uuid.NewV7()
		if err != nil {
			return spool.Record{}, fmt.Errorf("minting event id: %w", err)
		}
		e.Id = id.String()
	}
	e.OccurredAtUnixUs = time.Now().UnixMicro()
	if topic.Key == topics.ByWorkspace && !hash.IsPartitionKey(key) {
		e.WorkspaceId = key
	}
	b, err := envelope.Encode(e)
	if err != nil {
		return spool.Record{}, fmt.Errorf("encoding closing: %w", err)
	}
	return spool.Record{Topic: topic, Key: key, Value: b, Headers: envelope.Headers(e, "")}, nil
}
