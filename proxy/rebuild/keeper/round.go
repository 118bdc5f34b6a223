package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/rateguard/rateguard/proxy/lua"
	"github.com/rateguard/rateguard/proxy/rebuild/keeper/plan"
	"github.com/rateguard/rateguard/proxy/rebuild/roster"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/schemas/envelope"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/topics"
	"github.com/rateguard/rateguard/topics/hash"
)

const (
	// fencedFor is how long closed producers are fenced in what is installed: as long as the spend table remembers them.
	fencedFor = 7 * 24 * time.Hour
	// sayAfter is how long seals may be missing before that is said.
	sayAfter = 2 * time.Second
)

// rebuild starts a round, waits for all seals, and installs the budgets of every workspace of the partition, and of those that are wanted.
func (p *partition) rebuild(ctx context.Context, wanted []string) error {
	began := time.Now()
	n, err := p.announce(ctx)
	if err != nil {
		return err
	}
	if err := p.sealed(ctx, n); err != nil {
		if errors.Is(err, errSuperseded) {
			return nil // who started it installs; who still waits asks again
		}
		return err
	}
	if err := p.k.cfg.Policies.Sync(ctx); err != nil {
		return fmt.Errorf("reading the policies: %w", err)
	}
	if err := p.install(ctx, n, wanted); err != nil {
		return err
	}
	p.k.met.rounds.Inc()
	p.k.met.closed.Observe(time.Since(began).Seconds())
	return nil
}

// announce tells the producers topic of the next round, and then starts it in the partition. It returns the round's number once it stands there
// as the first of its number.
func (p *partition) announce(ctx context.Context) (uint64, error) {
	places, err := p.k.cfg.Redis.Balances.Places(ctx, p.budgeted())
	if err != nil {
		return 0, err
	}
	n := plan.Next(p.latest(), places)
	round := &rateguardv1.Round{N: n, Partition: p.n}
	for _, at := range []struct {
		topic topics.Topic
		key   string
	}{{topics.Producers, roster.RoundKey(p.n)}, {topics.Costs, hash.PartitionKey(p.n, p.partitions)}} {
		err := p.append(at.topic, at.key, &rateguardv1.Event{Body: &rateguardv1.Event_Round{Round: round}})
		if err == nil {
			err = p.k.cfg.Spool.FlushOwn(ctx)
		}
		if err != nil {
			return 0, fmt.Errorf("starting round %d: %w", n, err)
		}
	}
	// Who begins to close a producer behind the announcement waits for what this round installs; who began before it, is read now, and the producer fenced.
	if err := p.k.cfg.Roster.Sync(ctx); err != nil {
		return 0, fmt.Errorf("starting round %d: %w", n, err)
	}
	p.k.log.Info("budgets are read from the log anew", slog.Int("partition", int(p.n)), slog.Uint64("round", n))
	return n, nil
}

// append appends an event to the spool. It is not numbered: of its kind the first in the log counts, however often it is shipped.
func (p *partition) append(topic topics.Topic, key string, e *rateguardv1.Event) error {
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("minting event id: %w", err)
	}
	e.Id, e.OccurredAtUnixUs = id.String(), time.Now().UnixMicro()
	b, err := envelope.Encode(e)
	if err != nil {
		return err
	}
	return p.k.cfg.Spool.Append(spool.Record{Topic: topic, Key: key, Value: b, Headers: envelope.Headers(e, ""), Unnumbered: true})
}

// sealed reads on until the round is sealed by every producer that was there before it, and what was read includes all that they wrote before.
func (p *partition) sealed(ctx context.Context, n uint64) error {
	began, said := time.Now(), false
	for {
		v := p.reader.View()
		switch {
		case plan.Superseded(v, n, p.k.cfg.Spool.ProducerID()):
			return errSuperseded
		case v.Round.N == n:
			missing := plan.Missing(v, p.k.cfg.Roster, p.n, n)
			p.k.met.waiting.Set(float64(len(missing)))
			if len(missing) == 0 {
				return p.readOn(ctx)
			}
			if !said && time.Since(began) > sayAfter {
				said = true
				p.k.log.Warn("budgets stay closed until these producers seal, or are closed", slog.Int("partition", int(p.n)),
					slog.Uint64("round", n), slog.Any("producers", missing))
			}
		}
		if _, err := p.next(ctx, false); err != nil {
			return err
		}
	}
}

// readOn reads what stands in the partition now: a producer that counts as closed has its closings there since before its status.
func (p *partition) readOn(ctx context.Context) error {
	end, err := p.reader.End(ctx)
	for err == nil && p.reader.View().Next < end {
		_, err = p.next(ctx, false)
	}
	return err
}

// install makes the budgets of all workspaces of the partition anew, each once: after an error nobody knows whether it was done, and the next try is
// another round.
func (p *partition) install(ctx context.Context, n uint64, wanted []string) error {
	return p.installAll(ctx, n, p.versions(append(p.budgeted(), wanted...)))
}

// versions returns the versions of the policies of workspaces, 0 for one without budgets.
func (p *partition) versions(workspaces []string) map[string]uint64 {
	versions := make(map[string]uint64, len(workspaces))
	for _, ws := range workspaces {
		versions[ws] = 0
	}
	p.k.cfg.Policies.Budgets(func(workspace string, version uint64) {
		if _, asked := versions[workspace]; asked {
			versions[workspace] = version
		}
	})
	return versions
}

func (p *partition) installAll(ctx context.Context, n uint64, versions map[string]uint64) error {
	fenced := p.k.cfg.Roster.RetiredSince(time.Now().Add(-fencedFor))
	var errs []error
	for ws, version := range versions {
		in, err := plan.Installation(p.reader.View(), ws, n)
		if err != nil {
			p.k.met.torn.Inc()
			p.torn[ws] = time.Now()
			p.k.log.Error("budgets stay closed: the log does not show all of them", slog.String("workspace", ws), slog.Any("error", err))
			continue
		}
		in.PolicyVersion, in.Fenced = version, fenced
		installed, err := p.k.cfg.Redis.Balances.Install(ctx, in)
		if err != nil {
			errs = append(errs, err)
			delete(p.known, ws)
			continue
		}
		if installed {
			p.known[ws] = &plan.Standing{Place: lua.Place{Epoch: n, At: in.To}, Posted: in.Posted}
			p.k.met.installed.Inc()
		}
	}
	return errors.Join(errs...)
}
