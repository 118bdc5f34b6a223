// Package forward sends a request to its route's upstream and streams the answer back, reading on the way what was
// used. It brackets both in the log: nothing is sent before the request is opened there, and no answer ends before
// its end is.
package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/rateguard/rateguard/proxy/call"
	"github.com/rateguard/rateguard/proxy/forward/upstream"
	"github.com/rateguard/rateguard/proxy/forward/usage"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
)

// Log brackets a request: Open before it is sent, End before its answer is complete.
type Log interface {
	Open(c *call.Call) error
	End(c *call.Call) error
}

// Config are the settings of the step.
type Config struct {
	// Drain is how long an upstream may go on after the client has left, 5 s.
	Drain time.Duration
	// MaxBuffered is the largest answer that is held back to learn its cost first, 16 MiB; what is larger streams through, and
	// its usage is estimated.
	MaxBuffered int
	// MaxResponse is the largest body of an answer in bytes, as the upstream sends it, 1 GiB.
	MaxResponse int64
}

// Forward is the last step; make it with New.
type Forward struct {
	cfg    Config
	client *upstream.Client
	log    Log
	slog   *slog.Logger
}

// New returns the step.
func New(cfg Config, client *upstream.Client, log Log, logger *slog.Logger) *Forward {
	if cfg.Drain == 0 {
		cfg.Drain = 5 * time.Second
	}
	if cfg.MaxBuffered == 0 {
		cfg.MaxBuffered = 16 << 20
	}
	if cfg.MaxResponse == 0 {
		cfg.MaxResponse = 1 << 30
	}
	return &Forward{cfg: cfg, client: client, log: log, slog: logger}
}

// Serve forwards the call. It refuses with store_unavailable, upstream_unreachable and upstream_timeout.
func (f *Forward) Serve(c *call.Call) error {
	if err := f.log.Open(c); err != nil {
		return err
	}
	head := heads.Get().(*[]byte) //nolint:forcetypeassert,errcheck // the pool holds nothing else
	defer heads.Put(head)
	req, strip, err := f.request(c, head)
	if err != nil {
		void(c)
		return err
	}
	start := time.Now()
	ctx := c.Request.Context()
	if ctx.Err() != nil { // nobody waits for it any more
		void(c)
		return f.unreachable(c, ctx.Err(), false)
	}
	ex, err := f.client.Connect(ctx, req)
	if err != nil {
		void(c)
		c.Result.Waited += time.Since(start)
		return f.unreachable(c, err, false)
	}
	t := transfer{f: f, c: c, ex: ex, meter: usage.Meter{API: c.Asked.API}, strip: strip}
	// The client's leaving must end a wait for the upstream, but not before what it still sends had its chance.
	cancelled := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cancelled)
		ex.CancelAt(time.Now().Add(f.cfg.Drain))
	})
	defer func() {
		if !stop() {
			<-cancelled // else it would cancel the connection's next exchange
		}
		ex.Close()
	}()
	err = ex.Do(req)
	c.Result.Waited += time.Since(start)
	if err != nil {
		return f.unreachable(c, err, ex.Sent())
	}
	return t.run()
}

// unreachable turns an error before the answer into the client's; sent says that nobody knows what the provider did.
func (f *Forward) unreachable(c *call.Call, err error, sent bool) error {
	if sent {
		expire(c)
	} else {
		void(c)
	}
	if c.Request.Context().Err() != nil {
		return &call.Error{Code: call.UpstreamUnreachable, Status: call.StatusClientGone, Cause: fmt.Errorf("client left: %w", err)}
	}
	if errors.Is(err, upstream.ErrTimeout) && sent {
		return call.Fail(call.UpstreamTimeout, err)
	}
	return call.Fail(call.UpstreamUnreachable, err)
}

// void says that the provider did no billable work.
func void(c *call.Call) {
	c.Result.Kind = rateguardv1.OutcomeKind_OUTCOME_KIND_VOIDED
	c.Result.HasCost, c.Result.Cost, c.Result.Estimated = true, 0, false
}

// expire says that nobody knows what the provider did: the workspace's setting decides what that costs.
func expire(c *call.Call) {
	c.Result.Kind = rateguardv1.OutcomeKind_OUTCOME_KIND_EXPIRED
	c.Result.HasCost, c.Result.Cost, c.Result.Estimated = c.Quote.HasUnknown, c.Quote.Unknown, true
}

// settle says what the answer cost: by what the provider reported, else by our own count, which never exceeds the bound.
func (f *Forward) settle(c *call.Call, m *usage.Meter) {
	r, q := &c.Result, &c.Quote
	r.Kind = rateguardv1.OutcomeKind_OUTCOME_KIND_SETTLED
	var final bool
	r.Usage, final = m.Final()
	r.HasUsage = final
	if q.Fixed {
		r.HasCost, r.Cost = true, q.FixedCost
		return
	}
	if c.Asked.API == call.Other {
		return
	}
	if !final {
		r.Estimated, r.HasUsage = true, true
		r.Usage = m.Estimate(func() int64 {
			n := call.CountBody(c.Body)
			if c.Asked.Stored && q.Price != nil { // what the provider has stored cannot be counted
				n = max(n, q.Price.ContextWindow())
			}
			return n
		})
	}
	if q.Price == nil {
		return
	}
	if m.Unread() && q.Bounded {
		r.HasCost, r.Cost = true, q.Bound
		return
	}
	cost, err := q.Price.Cost(r.Usage)
	if err == nil && cost > money.MaxCall {
		err = fmt.Errorf("%s USD for one call: %w", cost, money.ErrOverflow)
	}
	if err != nil {
		f.slog.Error("usage has no cost, charging the bound", slog.String("workspace", c.Workspace.ID),
			slog.String("request_id", c.ID), slog.Any("error", err))
		r.Estimated, r.HasCost, r.Cost = true, q.Bounded, q.Bound
		return
	}
	if r.Estimated && q.Bounded {
		cost = min(cost, q.Bound)
	}
	r.HasCost, r.Cost = true, cost
}

// readable reports whether a status is one whose answer is billed.
func billed(status int) bool { return status >= http.StatusOK && status < http.StatusMultipleChoices }
