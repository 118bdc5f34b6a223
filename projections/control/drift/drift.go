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
	Log      *slog.Logger
	Metrics  *Metrics
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
	found map[place]finding
}

type place struct{ store, workspace string }

// finding is a difference, and how often in a row there was one.
type finding struct {
	difference
	times int
}

// New returns an Auditor.
func New(cfg Config) *Auditor { return &Auditor{cfg: cfg, found: make(map[place]finding)} }

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
	if len(workspaces) == 0 {
		a.report()
		return nil
	}
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
		if err := a.compare(ws, held[ws], l); err != nil {
			return err
		}
	}
	a.report()
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
		return all, nil
	}
	// A workspace that has no budgets any more is not looked at again.
	maps.DeleteFunc(a.found, func(at place, _ finding) bool { return !a.round[at.workspace] })
	return all, nil
}

// compare holds what the stores have of a workspace against the table, where they stand at one place of the log.
func (a *Auditor) compare(ws string, held *mirror.Budgets, l *ledger) error {
	row, found, err := a.table.row(ws)
	if err != nil {
		return err
	}
	if held != nil {
		a.note(place{storeEntries, ws}, inside(held))
	}
	if found && held != nil && row.holds(held.At) {
		a.note(place{storeRedis, ws}, compare(row.state, confirmed(held), none))
	} else {
		a.skip(place{storeRedis, ws})
	}
	applied, known := l.applied[hash.Partition([]byte(ws), a.table.partitions)]
	if found && known && row.holds(applied) {
		unlike := func(p keyspace.BudgetPeriod) bool { return !postgres.Whole(p.Balance) } // another name may stand for it there
		a.note(place{storePostgres, ws}, compare(row.state, l.posted[ws], unlike))
	} else {
		a.skip(place{storePostgres, ws})
	}
	return nil
}

func (a *Auditor) skip(at place) {
	a.cfg.Metrics.comparisons.WithLabelValues(at.store, "incomparable").Inc()
}

// note takes a comparison. One difference may be a look at the wrong moment; the second in a row is none.
func (a *Auditor) note(at place, d difference) {
	if d.nano == 0 {
		a.cfg.Metrics.comparisons.WithLabelValues(at.store, "equal").Inc()
		if a.found[at].times > 1 {
			a.cfg.Log.Info("a budget is the same in all stores again", slog.String("workspace", at.workspace), slog.String("store", at.store))
		}
		delete(a.found, at)
		return
	}
	a.cfg.Metrics.comparisons.WithLabelValues(at.store, "differs").Inc()
	f := finding{d, a.found[at].times + 1}
	a.found[at] = f
	if f.times == 2 {
		a.cfg.Log.Error("a budget is not the same in all stores", slog.String("workspace", at.workspace), slog.String("store", at.store),
			slog.String("budget", d.period.Budget), slog.Uint64("generation", d.period.Generation), slog.String("balance", d.period.Balance),
			slog.Time("period_start", time.UnixMicro(d.period.StartUS).UTC()), slog.Int64("difference_nano_usd", d.nano))
	}
}

// report shows what stands after a look.
func (a *Auditor) report() {
	for _, store := range []string{storeRedis, storePostgres, storeEntries} {
		most, persistent := int64(0), 0
		for at, f := range a.found {
			if at.store != store {
				continue
			}
			most = max(most, f.nano)
			if f.times > 1 {
				persistent++
			}
		}
		a.cfg.Metrics.drift.WithLabelValues(store).Set(float64(most))
		a.cfg.Metrics.persistent.WithLabelValues(store).Set(float64(persistent))
	}
}
