package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/budget"
)

// ahead is how many periods a policy shows behind the one that holds: proxies work so long without control.
var ahead = map[string]int{budget.Hour: 8 * 24, budget.Day: 15, budget.Week: 6, budget.Month: 4}

// published returns the starts of the periods that a policy made at an instant shows: the period that holds then, the next ones, and the
// one before it, in which a clock that lags finds itself.
func (b costBudget) published(at time.Time) ([]time.Time, error) {
	if b.Period == budget.Total {
		return nil, nil
	}
	zone, err := budget.Zone(b.Timezone)
	if err != nil {
		return nil, fmt.Errorf("finding the periods of budget %s: %w", b.ID, err)
	}
	now := budget.Boundaries(b.Period, zone, at, 1)
	if len(now) == 0 {
		return nil, fmt.Errorf("finding the periods of budget %s: there is no period %q", b.ID, b.Period)
	}
	return budget.Boundaries(b.Period, zone, now[0].Add(-time.Microsecond), ahead[b.Period]+2), nil
}

// current returns the start and the end of the period that holds at an instant; zero for a budget without periods.
func (b costBudget) current(at time.Time) (start, end time.Time, err error) {
	if b.Period == budget.Total {
		return time.Time{}, time.Time{}, nil
	}
	zone, err := budget.Zone(b.Timezone)
	if err != nil {
		return start, end, fmt.Errorf("finding the period of budget %s: %w", b.ID, err)
	}
	both := budget.Boundaries(b.Period, zone, at, 2)
	if len(both) < 2 {
		return start, end, fmt.Errorf("finding the period of budget %s: there is no period %q", b.ID, b.Period)
	}
	return both[0], both[1], nil
}

// extendPeriods publishes policies again whose periods come to their end, at once and then each interval. It needs Postgres alone: what it
// writes reaches the proxies as any other change does.
func (r *relay) extendPeriods(ctx context.Context) error {
	t := time.NewTicker(r.server.cfg.ReconcileInterval)
	defer t.Stop()
	for {
		if err := r.server.extendAll(ctx); err != nil && ctx.Err() == nil {
			r.server.log.Warn("periods of budgets were not extended", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// horizon is what a workspace's policy shows of one kind of budget.
type horizon struct {
	workspace        string
	from             time.Time
	period, timezone string
}

func (s *Server) extendAll(ctx context.Context) error {
	const query = `SELECT DISTINCT w.id, w.periods_from, b.period, b.timezone
  FROM control.budgets b JOIN control.workspaces w ON w.id = b.workspace_id WHERE w.deleted_at IS NULL AND b.period <> $1`
	rows, err := s.pool.Query(ctx, query, budget.Total)
	if err != nil {
		return fmt.Errorf("reading the periods of budgets: %w", err)
	}
	all, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (horizon, error) {
		var h horizon
		err := row.Scan(&h.workspace, &h.from, &h.period, &h.timezone)
		return h, err
	})
	if err != nil {
		return fmt.Errorf("reading the periods of budgets: %w", err)
	}
	var errs []error
	done := map[string]bool{}
	for _, h := range all {
		if done[h.workspace] {
			continue
		}
		due, err := h.due(s.now())
		if due {
			done[h.workspace] = true
			err = s.extend(ctx, h)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// due reports whether less than half of the horizon is left.
func (h horizon) due(now time.Time) (bool, error) {
	starts, err := costBudget{ID: "of " + h.workspace, Period: h.period, Timezone: h.timezone}.published(h.from)
	if err != nil || len(starts) == 0 {
		return false, err
	}
	last := starts[len(starts)-1]
	return last.Sub(now) < last.Sub(h.from)/2, nil
}

// extend publishes the next version of a policy, which shows the periods around now. A policy that has changed meanwhile does already.
func (s *Server) extend(ctx context.Context, h horizon) error {
	extended := false
	err := s.change(ctx, h.workspace, func(ctx context.Context, ch *change) error {
		if !ch.ws.PeriodsFrom.Equal(h.from) {
			return nil
		}
		if _, err := ch.nextPolicy(ctx); err != nil {
			return err
		}
		extended = true
		return ch.publishPolicy(ctx)
	})
	if p, ok := errors.AsType[*problem.Problem](err); ok && p.Status == 404 {
		return nil // deleted meanwhile
	}
	if err == nil && extended {
		s.metrics.extended.Inc()
	}
	return err
}
