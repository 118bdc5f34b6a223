package drift

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
)

// kind is what alerts of drift are called.
const kind = "budget_drift"

// account is one budget in one period as one store has it, with all of its balances: what an alert is about.
type account struct {
	place
	budget     string
	generation uint64
	startUS    int64
}

// raised is an alert that stands.
type raised struct {
	id string
	at time.Time
}

// readRaised returns the alerts that stand.
func (a *Auditor) readRaised(ctx context.Context) (map[account]raised, error) {
	rows, err := a.cfg.Pool.Query(ctx, "SELECT store, workspace_id, budget_id, generation, period_start, alert_id, raised_at FROM control.budget_drifts")
	if err != nil {
		return nil, fmt.Errorf("reading the alerts of budgets that differ: %w", err)
	}
	all := make(map[account]raised)
	var at account
	var generation int64
	var r raised
	_, err = pgx.ForEachRow(rows, []any{&at.store, &at.workspace, &at.budget, &generation, &at.startUS, &r.id, &r.at}, func() error {
		at.generation = uint64(generation) //nolint:gosec // versions count from 1
		all[at] = r
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the alerts of budgets that differ: %w", err)
	}
	return all, nil
}

// tell raises an alert for what differs in a store twice in a row, and resolves those of what does not differ any more. Each is told in the transaction that notes it, so that
// there is one of each until the budget is the same again, whoever looks meanwhile.
func (a *Auditor) tell(ctx context.Context, at place, standing map[account]raised) error {
	differs := make(map[account]bool)
	worst := make(map[account]difference)
	for p, f := range a.found[at] {
		of := account{at, p.Budget, p.Generation, p.StartUS}
		differs[of] = true
		if f.times > 1 && f.nano > worst[of].nano {
			worst[of] = difference{p, f.nano}
		}
	}
	for of, d := range worst {
		if _, told := standing[of]; !told {
			if err := a.raise(ctx, of, d); err != nil {
				return err
			}
		}
	}
	for of, r := range standing {
		if of.place == at && !differs[of] {
			if err := a.resolve(ctx, of, r, "is the same in all stores again"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *Auditor) raise(ctx context.Context, of account, d difference) error {
	r := raised{uuid.NewString(), time.Now().UTC().Truncate(time.Microsecond)}
	alert := of.alert(r, "raised", fmt.Sprintf("differs by %s USD between the log and %s", money.Nano(d.nano), names[of.store]))
	alert.Labels["balance"], alert.Labels["difference_usd"] = d.period.Balance, money.Nano(d.nano).String()
	const insert = `
INSERT INTO control.budget_drifts (workspace_id, store, budget_id, generation, period_start, alert_id, raised_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING`
	told, err := a.change(ctx, of, alert, insert, of.workspace, of.store, of.budget, int64(of.generation), of.startUS, r.id, r.at) //nolint:gosec // versions count from 1
	if told {
		a.cfg.Log.Error("a budget is not the same in all stores", slog.String("workspace", of.workspace), slog.String("store", of.store),
			slog.String("budget", of.budget), slog.Uint64("generation", of.generation), slog.String("balance", d.period.Balance),
			slog.Time("period_start", time.UnixMicro(of.startUS).UTC()), slog.Int64("difference_nano_usd", d.nano))
	}
	return err
}

func (a *Auditor) resolve(ctx context.Context, of account, r raised, what string) error {
	const remove = `DELETE FROM control.budget_drifts WHERE alert_id = $1`
	told, err := a.change(ctx, of, of.alert(r, "resolved", what), remove, r.id)
	if told {
		a.cfg.Log.Info("a budget differs no more", slog.String("what", what), slog.String("workspace", of.workspace), slog.String("store", of.store), slog.String("budget", of.budget))
	}
	return err
}

// change notes an alert and publishes it; told is false where another process has noted it before.
func (a *Auditor) change(ctx context.Context, of account, alert *rateguardv1.Alert, statement string, args ...any) (told bool, err error) {
	err = pgx.BeginFunc(ctx, a.cfg.Pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, statement, args...)
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		told = true
		return a.cfg.Publish(ctx, tx, of.workspace, alert)
	})
	if err != nil {
		return false, fmt.Errorf("telling of budget %s of %s: %w", of.budget, of.workspace, err)
	}
	return told, nil
}

// names are the stores as people call them.
var names = map[string]string{storeRedis: "Redis", storePostgres: "PostgreSQL", storeEntries: "the reservations in Redis"}

// alert is critical where requests are decided by what differs.
func (of account) alert(r raised, state, what string) *rateguardv1.Alert {
	start, during := "", ""
	if of.startUS != 0 {
		start = time.UnixMicro(of.startUS).UTC().Format(time.RFC3339)
		during = " in the period from " + start
	}
	severity := "critical"
	if of.store == storePostgres {
		severity = "warning"
	}
	return &rateguardv1.Alert{
		AlertId: r.id, Rule: "budget:" + of.budget, Kind: kind, State: state, Severity: severity,
		Title: fmt.Sprintf("Budget %s%s %s", of.budget, during, what),
		Labels: map[string]string{
			"budget": of.budget, "generation": strconv.FormatUint(of.generation, 10), "period_start": start, "store": of.store,
		},
		RaisedAtUnixUs: r.at.UnixMicro(),
	}
}
