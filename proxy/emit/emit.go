// Package emit turns a request into events: one that opens it before it is sent, one frame that ends it before
// its answer ends, and one row for a request that was refused. Nobody else writes events of requests.
package emit

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
)

// Log is where events are appended to; *spool.Spool is one. After nil a frame survives a kill -9. It copies what it keeps of the records.
type Log interface {
	AppendOpen(frame ...spool.Record) (spool.Generation, error)
	AppendEnd(opened spool.Generation, frame ...spool.Record) error
	Append(frame ...spool.Record) error
}

// Gate keeps out of the log what was granted under an epoch that this process has given up; *epoch.Gate is one.
type Gate interface {
	// Open calls do, which appends the opening, or returns an error.
	Open(workspace string, epoch uint64, do func() error) error
}

// Emitter writes the events of requests.
type Emitter struct {
	log     Log
	gate    Gate
	slog    *slog.Logger
	metrics metrics
	floods  floods
}

// New returns an emitter that appends to log what the gate lets through.
func New(log Log, gate Gate, logger *slog.Logger, reg prometheus.Registerer) *Emitter {
	e := &Emitter{log: log, gate: gate, slog: logger, metrics: newMetrics(reg)}
	e.floods.open = make(map[floodKey]*flood)
	return e
}

// Step returns the step that records every request that comes to it, whatever happens in next: also a panic
// is recorded, and returned as an internal error.
func (e *Emitter) Step(next call.Handler) call.Handler {
	return call.HandlerFunc(func(c *call.Call) (err error) {
		defer func() {
			if p := recover(); p != nil {
				err = call.Fail(call.Internal, fmt.Errorf("panic: %v\n%s", p, debug.Stack()))
			}
			e.finish(c, err)
		}()
		return next.Serve(c)
	})
}

// finish ends what next left without an end.
func (e *Emitter) finish(c *call.Call, err error) {
	if c.Ended {
		return
	}
	r := &c.Result
	if err == nil {
		err = errors.New("handler returned without an end")
	}
	if !errors.Is(err, call.ErrAborted) {
		ce := call.AsError(err)
		r.Status, r.ErrorCode = ce.HTTPStatus(), ce.Code
	} else if r.ErrorCode == "" {
		r.ErrorCode = call.Internal
	}
	if c.Opened && r.Kind == rateguardv1.OutcomeKind_OUTCOME_KIND_UNSPECIFIED {
		// Nobody knows whether the provider did the work.
		r.Kind, r.Estimated = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED, true
		r.HasCost, r.Cost = c.Quote.HasUnknown, c.Quote.Unknown
	}
	if endErr := e.End(c); endErr != nil {
		e.slog.Error("end of a request is not recorded", slog.String("workspace", workspace(c)),
			slog.String("request_id", c.ID), slog.Any("error", endErr))
	}
}

// Open appends the event that must stand in the log before the request is sent. On an error nothing may be sent.
func (e *Emitter) Open(c *call.Call) error {
	c.OpenedAt = time.Now()
	if c.Lease != nil {
		c.LeaseID = c.Lease.ID() // its end names it too, when nothing is held of the lease any more
	}
	buf := newBuffer()
	defer buf.free()
	record, err := buf.record(c, topics.Costs, headersOpened, opened(c))
	if err == nil {
		c.LogGeneration, c.Opened, err = e.appendOpen(c.Workspace.ID, c.Epoch, c.Lease, record)
	}
	if c.Lease != nil {
		c.Lease.Opened(c.Opened) // at once: the lease can end while the request goes on
	}
	if err != nil {
		e.metrics.refused.Inc()
		c.Result.Kind = rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED
		c.Result.HasCost, c.Result.Cost = true, 0
		return &call.Error{
			Code: call.StoreUnavailable, RetryAfter: time.Second, Message: "This request cannot be opened in the log now.",
			Cause: fmt.Errorf("opening the reservation: %w", err),
		}
	}
	return nil
}

// appendOpen appends an opening where its epoch and its lease, nil for none, still count. The frame can stand in the log although its sync failed: then
// opened is true, and it has to be ended.
func (e *Emitter) appendOpen(workspace string, epoch uint64, lease call.Lease, record spool.Record) (generation uint64, opened bool, err error) {
	var unsynced error
	do := func() error {
		g, err := e.log.AppendOpen(record)
		generation = uint64(g)
		if errors.Is(err, spool.ErrUnsynced) {
			unsynced, err = err, nil
		}
		return err
	}
	if lease != nil {
		err = e.gate.Open(workspace, epoch, func() error { return lease.Open(do) })
	} else {
		err = e.gate.Open(workspace, epoch, do)
	}
	if err != nil {
		return 0, false, err
	}
	return generation, true, unsynced
}

// OpenLease appends the opening of a lease. The generation is for EndLease. After an error nothing may be taken from it.
func (e *Emitter) OpenLease(workspace string, o *rateguardv1.ReservationOpened) (uint64, error) {
	record, err := leaseRecord(workspace, o.GetReservationId()+"/opened", headersOpened, &rateguardv1.Event{
		OccurredAtUnixUs: o.GetSubject().GetOpenedAtUnixUs(), Body: &rateguardv1.Event_ReservationOpened{ReservationOpened: o},
	})
	if err != nil {
		return 0, err
	}
	generation, opened, err := e.appendOpen(workspace, o.GetEpoch(), nil, record)
	if opened {
		err = nil // the disk says it again to every request
	}
	return generation, err
}

// EndLease appends the end of a lease. After an error it has not ended.
func (e *Emitter) EndLease(workspace string, generation uint64, o *rateguardv1.Outcome) error {
	record, err := leaseRecord(workspace, o.GetReservationId()+"/end", headersLeaseEnded, &rateguardv1.Event{
		OccurredAtUnixUs: time.Now().UnixMicro(), Body: &rateguardv1.Event_LeaseEnded{LeaseEnded: &rateguardv1.LeaseEnded{Outcome: o}},
	})
	if err != nil {
		return err
	}
	if err := e.log.AppendEnd(spool.Generation(generation), record); err != nil && !errors.Is(err, spool.ErrUnsynced) {
		return err
	}
	return nil
}

func leaseRecord(workspace, id string, headers []envelope.Header, event *rateguardv1.Event) (spool.Record, error) {
	event.Id, event.WorkspaceId = id, workspace
	value, err := envelope.Encode(event)
	if err != nil {
		return spool.Record{}, err
	}
	return spool.Record{Topic: topics.Costs, Key: workspace, Value: value, Headers: headers}, nil
}

// End appends the frame that ends the request: the outcome where it was opened, and its row. Then the limits get back what was not used. It
// does so once; further calls do nothing. A refused request in a flood of such is only counted.
func (e *Emitter) End(c *call.Call) error {
	if c.Ended {
		return nil
	}
	c.Ended = true
	err := e.end(c)
	if c.Grant != nil {
		c.Grant.Settle(c)
	}
	return err
}

func (e *Emitter) end(c *call.Call) error {
	now := time.Now()
	e.metrics.observe(c, now)
	if !c.Opened {
		return e.endRefused(c, now)
	}
	buf := newBuffer()
	defer buf.free()
	row, err := buf.record(c, topics.Requests, headersRow, e.row(c, now))
	if err != nil {
		return err
	}
	event, headers := end(c, now)
	outcome, err := buf.record(c, topics.Costs, headers, event)
	if err != nil {
		return err
	}
	err = e.log.AppendEnd(spool.Generation(c.LogGeneration), outcome, row)
	if errors.Is(err, spool.ErrUnsynced) {
		e.slog.Warn("end of a request is not synced yet", slog.String("workspace", workspace(c)),
			slog.String("request_id", c.ID), slog.Any("error", err))
		return nil
	}
	return err
}

// endRefused appends the row of a request that was not forwarded, or counts it.
func (e *Emitter) endRefused(c *call.Call, now time.Time) error {
	key, floods := floodOf(c)
	if floods && e.floods.take(key, now) {
		e.metrics.counted.Inc()
		return nil
	}
	buf := newBuffer()
	defer buf.free()
	row, err := buf.record(c, topics.Requests, headersRow, e.row(c, now))
	if err != nil {
		return err
	}
	err = e.log.Append(row)
	switch {
	case err == nil || errors.Is(err, spool.ErrUnsynced): // it stands in the log
		return nil
	case floods && e.floods.count(key, now):
		// A full log refuses every request, and would lose their rows: as a count they come when it has room again.
		e.metrics.counted.Inc()
		return nil
	}
	return err
}

// buffer is what the records of one frame are encoded into. The log copies them into the frame.
type buffer struct{ b []byte }

// keptBuffer is the largest buffer that is kept for later frames, in bytes: most take two thousand.
const keptBuffer = 16 << 10

var buffers = sync.Pool{New: func() any { return new(buffer) }} //nolint:gochecknoglobals // holds nothing

func newBuffer() *buffer { return buffers.Get().(*buffer) } //nolint:forcetypeassert,errcheck // the pool holds nothing else

// free gives the buffer back, once the log has the frame.
func (buf *buffer) free() {
	if cap(buf.b) <= keptBuffer {
		buf.b = buf.b[:0]
		buffers.Put(buf)
	}
}

// record encodes an event. The headers are prepared: they differ only by the trace.
func (buf *buffer) record(c *call.Call, topic topics.Topic, headers []envelope.Header, event *rateguardv1.Event) (spool.Record, error) {
	start := len(buf.b)
	b, err := envelope.AppendEncode(buf.b, event)
	if err != nil {
		return spool.Record{}, err
	}
	buf.b = b
	if trace := c.Request.Header["Traceparent"]; len(trace) == 1 && len(trace[0]) <= 64 {
		headers = append(headers[:len(headers):len(headers)], envelope.Header{Key: envelope.HeaderTraceParent, Value: []byte(trace[0])})
	}
	return spool.Record{Topic: topic, Key: workspace(c), Value: b[start:len(b):len(b)], Headers: headers}, nil
}

func workspace(c *call.Call) string { return c.Workspace.ID }
