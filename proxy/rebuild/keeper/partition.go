package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/costs"
	"github.com/rateguard/rateguard/proxy/rebuild/keeper/plan"
	"github.com/rateguard/rateguard/topics/hash"
)

const (
	// touchEvery is how often idle workspaces are brought up to the end of what is read, so that a later reading need not begin at their last record.
	touchEvery = time.Minute
	// retryMin and retryMax are the pauses after a reading that failed.
	retryMin = 100 * time.Millisecond
	retryMax = 5 * time.Second
)

// partition keeps the budgets of one partition of the costs topic.
type partition struct {
	k             *Keeper
	n, partitions int32
	reader        *costs.Reader
	// known is where the budgets of workspaces stand in Redis, as far as this process has brought them there.
	known   map[string]*plan.Standing
	touched time.Time
	// gaps are the workspaces whose budgets stand before what was read: nothing but another round brings them on.
	gaps map[string]bool
	// torn are the workspaces that the log did not show whole, and when that was seen.
	torn map[string]time.Time

	// mu guards wants and wake.
	mu    sync.Mutex
	wants map[string]bool
	wake  context.CancelFunc
}

func newPartition(k *Keeper, n, partitions int32) *partition {
	return &partition{k: k, n: n, partitions: partitions, known: make(map[string]*plan.Standing), gaps: make(map[string]bool), torn: make(map[string]time.Time), wants: make(map[string]bool)}
}

// want notes that somebody waits for the budgets of a workspace, and wakes the reading.
func (p *partition) want(workspace string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wants[workspace] = true
	if p.wake != nil {
		p.wake()
	}
}

// wanted takes what is wanted.
func (p *partition) wanted() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := slices.Sorted(maps.Keys(p.wants))
	clear(p.wants)
	return out
}

// run reads the partition until ctx ends, anew after each failure.
func (p *partition) run(ctx context.Context) {
	for delay := retryMin; ctx.Err() == nil; delay = min(2*delay, retryMax) {
		began := time.Now()
		err := p.read(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > retryMax {
			delay = retryMin
		}
		p.k.met.failures.Inc()
		p.k.log.Warn("reading budgets from the log, beginning anew", slog.Int("partition", int(p.n)), slog.Any("error", err))
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}

func (p *partition) read(ctx context.Context) error {
	reader, err := costs.New(ctx, costs.Options{Kafka: p.k.cfg.Kafka, Partition: p.n, From: p.from, Log: p.k.log})
	if err != nil {
		return err
	}
	defer reader.Close()
	p.reader = reader
	clear(p.known)
	p.touched = time.Now()
	for {
		if _, err := p.next(ctx, true); err != nil {
			return err
		}
		wants := p.wanted()
		lost, err := p.lost(ctx, wants)
		if err != nil {
			continue // Redis does not answer; who waits asks again
		}
		if lost, err = p.first(ctx, lost); err != nil {
			return err
		}
		if lost = append(lost, slices.Collect(maps.Keys(p.gaps))...); len(lost) > 0 {
			if err := p.rebuild(ctx, lost); err != nil {
				return err
			}
			clear(p.gaps)
		}
	}
}

// from returns the offset at which the reading has to begin: no reservation that is open, and no end that Redis has not been shown, stands before it.
func (p *partition) from(ctx context.Context) (costs.From, error) {
	from := costs.From{Offset: math.MaxInt64, Generations: make(map[string]uint64)}
	if err := p.k.cfg.Roster.Sync(ctx); err != nil {
		return from, err
	}
	for _, s := range p.k.cfg.Roster.Open() {
		offset, known := s.GetCostsOffsets()[p.n]
		if !known {
			offset = -1 // a status without offsets says nothing
		}
		from.Offset = min(from.Offset, offset)
		from.Generations[s.GetProducerId()] = s.GetGeneration()
	}
	places, err := p.k.cfg.Redis.Balances.Places(ctx, p.budgeted())
	if err != nil {
		return from, nil //nolint:nilerr // what is not there need not be caught up with; what is turns out to be behind, and is installed anew
	}
	for _, at := range places {
		if at.Epoch > 0 {
			from.Offset = min(from.Offset, at.At+1)
		}
	}
	return from, nil
}

// budgeted returns the workspaces of the partition that have budgets, sorted.
func (p *partition) budgeted() []string {
	var out []string
	p.k.cfg.Policies.Budgets(func(workspace string, _ uint64) {
		if hash.Partition([]byte(workspace), p.partitions) == p.n {
			out = append(out, workspace)
		}
	})
	slices.Sort(out)
	return out
}

// next reads on and brings what it found into Redis. Where that is said it returns early when somebody waits for budgets.
func (p *partition) next(ctx context.Context, early bool) (*costs.Batch, error) {
	poll, cancel := context.WithCancel(ctx)
	defer cancel()
	if early {
		p.mu.Lock()
		p.wake = cancel
		if len(p.wants) > 0 {
			cancel()
		}
		p.mu.Unlock()
	}
	batch, err := p.reader.Next(poll)
	if err != nil {
		if ctx.Err() == nil && poll.Err() != nil {
			return new(costs.Batch), nil // woken
		}
		return nil, err
	}
	p.reconcile(ctx, batch.Steps)
	if time.Since(p.touched) > touchEvery {
		p.touched = time.Now()
		for _, ws := range p.budgeted() {
			p.reader.View().Touch(ws)
		}
	}
	return batch, nil
}

// reconcile brings steps of the log into Redis. What cannot be brought there is a gap, which another round closes.
func (p *partition) reconcile(ctx context.Context, steps []costs.Step) {
	p.learn(ctx, steps)
	for i := range steps {
		s := &steps[i]
		at := p.known[s.Workspace]
		switch {
		case at == nil: // Redis did not say; a step that is left out would be seen at the next record of the workspace, whenever that comes
			at = new(plan.Standing)
			p.known[s.Workspace] = at
			p.retry(ctx, s, at)
		case at.Ahead(s) || at.Behind(s):
		default:
			if err := p.step(ctx, s, at); err != nil {
				p.k.met.unreconciled.Inc()
				p.k.log.Debug("bringing the log into Redis", slog.String("workspace", s.Workspace), slog.Any("error", err))
				at.Posted = nil
				p.retry(ctx, s, at)
			}
		}
		if !at.Ahead(s) && at.Behind(s) {
			p.k.log.Warn("budgets in Redis stand before what was read; they are installed anew", slog.String("workspace", s.Workspace),
				slog.Int64("at", at.At), slog.Int64("from", s.From))
			p.gaps[s.Workspace] = true
			delete(p.known, s.Workspace)
		}
	}
}

// retry tries a step until it is done, Redis stands elsewhere, or ctx ends: a step that is left out leaves a gap.
func (p *partition) retry(ctx context.Context, s *costs.Step, at *plan.Standing) {
	for delay := retryMin; ; delay = min(2*delay, retryMax) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		places, err := p.k.cfg.Redis.Balances.Places(ctx, []string{s.Workspace})
		if err != nil {
			continue
		}
		at.Place = places[0]
		if at.Ahead(s) || at.Behind(s) {
			return
		}
		if err := p.step(ctx, s, at); err == nil {
			return
		}
	}
}

// step applies one step; only sums that changed are told.
func (p *partition) step(ctx context.Context, s *costs.Step, at *plan.Standing) error {
	w := p.reader.View().Workspace(s.Workspace)
	posted := plan.Fields(w.Posted())
	applied, offset, epoch, err := p.k.cfg.Redis.Balances.Reconcile(ctx, at.Step(s, w, posted))
	if err != nil {
		return err
	}
	if !applied {
		at.Place, at.Posted = lua.Place{Epoch: epoch, At: offset}, nil
		if epoch != 0 && offset < s.To {
			return fmt.Errorf("budgets stand at offset %d of epoch %d", offset, epoch)
		}
		return nil
	}
	p.k.met.reconciled.Inc()
	at.At, at.Posted = s.To, posted
	return nil
}

// learn asks Redis where the budgets of workspaces stand that are not known yet, of all at once.
func (p *partition) learn(ctx context.Context, steps []costs.Step) {
	var ids []string
	for i := range steps {
		if p.known[steps[i].Workspace] == nil {
			ids = append(ids, steps[i].Workspace)
		}
	}
	if len(ids) == 0 {
		return
	}
	places, err := p.k.cfg.Redis.Balances.Places(ctx, ids)
	if err != nil {
		return // each is asked for again, on its own
	}
	for i, id := range ids {
		p.known[id] = &plan.Standing{Place: places[i]}
	}
}

// lost returns those of the workspaces whose budgets no proxy may use as they are in Redis.
func (p *partition) lost(ctx context.Context, workspaces []string) ([]string, error) {
	if len(workspaces) == 0 {
		return nil, nil
	}
	places, err := p.k.cfg.Redis.Balances.Places(ctx, workspaces)
	if err != nil {
		return nil, err
	}
	var out []string
	for i, ws := range workspaces {
		if !plan.Usable(places[i], p.latest()) && time.Since(p.torn[ws]) > p.k.cfg.TornFor {
			out = append(out, ws)
		}
	}
	return out, nil
}

// latest is the largest round that anybody was told of.
func (p *partition) latest() uint64 {
	return plan.Latest(p.reader.View(), p.k.cfg.Roster, p.n)
}
