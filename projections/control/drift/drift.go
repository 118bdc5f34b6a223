// Package drift compares the places that hold the sums of budgets: Redis, by which requests are decided, the table of the processors, and
// the projection in PostgreSQL. All are made from one log by different ways; where they differ at one place of it, one of them is wrong. It is
// separate because it only looks: nothing depends on it.
package drift

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rateguard/rateguard/projections/control/mirror"
	"github.com/rateguard/rateguard/projections/postgres"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/topics/broker"
	"github.com/rateguard/rateguard/topics/hash"
)

// perLook is how many workspaces one look compares; the next one goes on behind them.
const perLook = 50

// The stores that are compared with the table; entries are the reservations in Redis, beside its own balances.
const (
	storeRedis    = "redis"
	storePostgres = "postgres"
	storeEntries  = "redis_entries"
)

// Config of an Auditor.
type Config struct {
	Kafka broker.Config
	Pool  *pgxpool.Pool
	// Redis is nil where there is none.
	Redis    *mirror.Mirror
	Interval time.Duration
	// Publish puts an alert into the outbox, in a transaction.
	Publish func(ctx context.Context, tx pgx.Tx, workspace string, alert *rateguardv1.Alert) error
	Log     *slog.Logger
	Metrics *Metrics
}

// Auditor compares the budgets of some workspaces at each interval.
type Auditor struct {
	cfg   Config
	table *table
	// after is the last workspace that was compared.
	after string
	// round are the workspaces that were compared since the first.
	round map[string]bool
	// found is what the last comparison of each workspace showed, by store.
	found map[place]map[keyspace.BudgetPeriod]finding
}

type place struct{ store, workspace string }

// finding is a difference in nano-USD, and how often in a row there was one.
type finding struct {
	nano  int64
	times int
}

// New returns an Auditor.
func New(cfg Config) *Auditor {
	return &Auditor{cfg: cfg, found: make(map[place]map[keyspace.BudgetPeriod]finding)}
}

// Run compares at once and then each interval until ctx ends. What cannot be read is read again at the next.
func (a *Auditor) Run(ctx context.Context) error {
	t := time.NewTicker(a.cfg.Interval)
	defer t.Stop()
	defer a.drop()
	for {
		if err := a.look(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Warn("budgets were not compared", slog.Any("error", err))
			a.drop()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// drop forgets the table, which the next look reads anew.
func (a *Auditor) drop() {
	if a.table != nil {
		a.table.client.Close()
		a.table = nil
	}
}

func (a *Auditor) look(ctx context.Context) error {
	workspaces, err := a.choose(ctx)
	if err != nil {
		return err
	}
	standing, err := a.readRaised(ctx)
	if err != nil {
		return err
	}
	if len(workspaces) > 0 {
		if err := a.compareAll(ctx, workspaces, standing); err != nil {
			return err
		}
	}
	if a.after == "" {
		if err := a.forget(ctx, standing); err != nil {
			return err
		}
	}
	a.report()
	return nil
}

// forget is called at the end of a round: a workspace that has no budgets any more is not looked at again.
func (a *Auditor) forget(ctx context.Context, standing map[account]raised) error {
	maps.DeleteFunc(a.found, func(at place, _ map[keyspace.BudgetPeriod]finding) bool { return !a.round[at.workspace] })
	for of, r := range standing {
		if !a.round[of.workspace] {
			if err := a.resolve(ctx, of, r, "is not compared any more"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Auditor) compareAll(ctx context.Context, workspaces []string, standing map[account]raised) (err error) {
	if a.table == nil {
		if a.table, err = newTable(a.cfg.Kafka); err != nil {
			return err
		}
	}
	// Redis first: the table is read to its end afterwards, so that at rest it is never behind.
	held := make(map[string]*mirror.Budgets)
	for _, ws := range workspaces {
		if a.cfg.Redis == nil {
			break
		}
		b, live, err := a.cfg.Redis.Budgets(ctx, ws)
		if err != nil {
			return err
		}
		if live {
			held[ws] = b
		}
	}
	if err := a.table.catchUp(ctx); err != nil {
		return err
	}
	l, err := a.readLedger(ctx, workspaces, a.table.topicID)
	if err != nil {
		return err
	}
	for _, ws := range workspaces {
		compared, err := a.compare(ws, held[ws], l)
		if err != nil {
			return err
		}
		for _, at := range compared {
			if err := a.tell(ctx, at, standing); err != nil {
				return err
			}
		}
	}
	return nil
}

// choose returns the next workspaces that have budgets.
func (a *Auditor) choose(ctx context.Context) ([]string, error) {
	const query = `
SELECT DISTINCT b.workspace_id FROM control.budgets b JOIN control.workspaces w ON w.id = b.workspace_id
 WHERE w.deleted_at IS NULL AND b.workspace_id > $1 ORDER BY b.workspace_id LIMIT $2`
	rows, err := a.cfg.Pool.Query(ctx, query, a.after, perLook)
	if err != nil {
		return nil, fmt.Errorf("reading who has budgets: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("reading who has budgets: %w", err)
	}
	if a.after == "" {
		a.round = make(map[string]bool)
	}
	for _, ws := range all {
		a.round[ws] = true
	}
	if a.after = ""; len(all) == perLook {
		a.after = all[len(all)-1]
	}
	return all, nil
}

// compare holds what the stores have of a workspace against the table, where they stand at one place of the log, and returns those that do.
func (a *Auditor) compare(ws string, held *mirror.Budgets, l *ledger) (compared []place, err error) {
	row, found, err := a.table.row(ws)
	if err != nil {
		return nil, err
	}
	note := func(store string, d differences) {
		a.note(place{store, ws}, d)
		compared = append(compared, place{store, ws})
	}
	if held != nil {
		note(storeEntries, inside(held))
	}
	if found && held != nil && row.holds(held.At) {
		note(storeRedis, compare(row.state, confirmed(held), none))
	} else {
		a.skip(place{storeRedis, ws})
	}
	applied, known := l.applied[hash.Partition([]byte(ws), a.table.partitions)]
	if found && known && row.holds(applied) {
		unlike := func(p keyspace.BudgetPeriod) bool { return !postgres.Whole(p.Balance) } // another name may stand for it there
		note(storePostgres, compare(row.state, l.posted[ws], unlike))
	} else {
		a.skip(place{storePostgres, ws})
	}
	return compared, nil
}

func (a *Auditor) skip(at place) {
	a.cfg.Metrics.comparisons.WithLabelValues(at.store, "incomparable").Inc()
}

// note takes a comparison. One difference may be a look at the wrong moment; the second in a row is none.
func (a *Auditor) note(at place, d differences) {
	before := a.found[at]
	delete(a.found, at)
	if len(d) == 0 {
		a.cfg.Metrics.comparisons.WithLabelValues(at.store, "equal").Inc()
		return
	}
	a.cfg.Metrics.comparisons.WithLabelValues(at.store, "differs").Inc()
	a.found[at] = make(map[keyspace.BudgetPeriod]finding, len(d))
	for p, nano := range d {
		a.found[at][p] = finding{nano, before[p].times + 1}
	}
}

// report shows what stands after a look.
func (a *Auditor) report() {
	for _, store := range []string{storeRedis, storePostgres, storeEntries} {
		most, persistent := int64(0), 0
		for at, found := range a.found {
			if at.store != store {
				continue
			}
			stands := false
			for _, f := range found {
				most = max(most, f.nano)
				stands = stands || f.times > 1
			}
			if stands {
				persistent++
			}
		}
		a.cfg.Metrics.drift.WithLabelValues(store).Set(float64(most))
		a.cfg.Metrics.persistent.WithLabelValues(store).Set(float64(persistent))
	}
}
