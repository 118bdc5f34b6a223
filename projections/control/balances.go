package control

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/control/mirror"
	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/budget"
	"github.com/rateguard/rateguard/schemas/keyspace"
	"github.com/rateguard/rateguard/schemas/money"
)

// balance is how much of a budget is spent in the period that holds.
type balance struct {
	// Subject is the key, route or model whose balance it is; empty: the budget has one for all.
	Subject   string     `json:"subject,omitempty"`
	Limit     money.Nano `json:"limit_usd"`
	Posted    money.Nano `json:"posted_usd"`
	Reserved  money.Nano `json:"reserved_usd"`
	Available money.Nano `json:"available_usd"`
	// PeriodStart and PeriodEnd are nil for a budget without periods.
	PeriodStart *time.Time `json:"period_start"`
	PeriodEnd   *time.Time `json:"period_end"`
	Source      string     `json:"source"`
	// AsOf is nil where the ledger has not begun to follow the log.
	AsOf *time.Time `json:"as_of"`
}

// Where a balance comes from: from Redis, by which requests are decided, or from the projection of the log.
const (
	sourceLive   = "live"
	sourceLedger = "ledger"
)

// account names one balance.
type account struct {
	budget  costBudget
	subject string
	// start and end of the period; zero: there are none.
	start, end time.Time
}

func newAccount(b costBudget, subject string, now time.Time) (account, error) {
	start, end, err := b.current(now)
	return account{budget: b, subject: subject, start: start, end: end}, err
}

func (a account) startUS() int64 {
	if a.start.IsZero() {
		return 0
	}
	return a.start.UnixMicro()
}

func (a account) balance(held mirror.Balance, source string, asOf time.Time) balance {
	b := balance{Subject: a.subject, Limit: a.budget.USD, Posted: money.Nano(held.Posted), Reserved: money.Nano(held.Reserved), Source: source}
	b.Available = max(0, b.Limit-b.Posted-b.Reserved)
	if !a.start.IsZero() {
		b.PeriodStart, b.PeriodEnd = &a.start, &a.end
	}
	if !asOf.IsZero() {
		asOf = asOf.UTC()
		b.AsOf = &asOf
	}
	return b
}

// fillBalances gives budgets that have one balance that balance.
func fillBalances(ctx context.Context, s *Server, ws string, shown []costBudget) error {
	var accounts []account
	var of []int
	now := s.now()
	for i, b := range shown {
		if budget.Divided(b.bare()) {
			continue
		}
		a, err := newAccount(b, "", now)
		if err != nil {
			return err
		}
		accounts, of = append(accounts, a), append(of, i)
	}
	found, err := s.readBalances(ctx, ws, accounts)
	if err != nil {
		return err
	}
	for i := range found {
		shown[of[i]].Balance = &found[i]
	}
	return nil
}

// listBalances pages through the keys, routes or models that had a call in the period that holds.
func (s *Server) listBalances(ctx context.Context, c *call) (answer, error) {
	p, err := readPage(c.http.URL.Query())
	if err != nil {
		return answer{}, err
	}
	after, err := url.QueryUnescape(p.after)
	if err != nil {
		return answer{}, problem.InvalidField("cursor", "is none that this list gave")
	}
	b, found, err := budgets.find(ctx, s.pool, c.workspace(), c.vars["budget"])
	if err != nil {
		return answer{}, storeError("listing balances", err)
	}
	if !found {
		return answer{}, problem.Missing("budget", c.vars["budget"])
	}
	whole, err := newAccount(b, "", s.now())
	if err != nil {
		return answer{}, err
	}
	accounts := []account{whole}
	if budget.Divided(b.bare()) {
		if accounts, err = s.subjects(ctx, c.workspace(), whole, after, p.limit+1); err != nil {
			return answer{}, storeError("listing balances", err)
		}
	}
	all, err := s.readBalances(ctx, c.workspace(), accounts)
	if err != nil {
		return answer{}, storeError("listing balances", err)
	}
	// Models are named by clients: a name may hold anything, and a cursor may not.
	return answer{status: http.StatusOK, body: newList(all, p, func(b balance) string { return url.QueryEscape(b.Subject) })}, nil
}

// subjects returns the accounts of a divided budget in the order of their names.
func (s *Server) subjects(ctx context.Context, ws string, whole account, after string, most int) ([]account, error) {
	const query = `SELECT balance FROM balances
 WHERE workspace = $1 AND scope = 'budget' AND budget_id = $2 AND budget_generation = $3 AND period_start = $4 AND balance > $5 ORDER BY balance LIMIT $6`
	rows, err := s.pool.Query(ctx, query, ws, whole.budget.ID, whole.budget.Generation, time.UnixMicro(whole.startUS()), after, most)
	if err != nil {
		return nil, fmt.Errorf("reading who has a balance: %w", err)
	}
	accounts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (account, error) {
		a := whole
		err := row.Scan(&a.subject)
		return a, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading who has a balance: %w", err)
	}
	return accounts, nil
}

// readBalances returns the balances in the order of the accounts: from Redis, and from the ledger where Redis does not have them.
func (s *Server) readBalances(ctx context.Context, ws string, accounts []account) ([]balance, error) {
	found := make([]balance, len(accounts))
	rest := make([]int, 0, len(accounts)) // of those that only the ledger has
	var live []int
	for i, a := range accounts {
		if s.mirror != nil && postgres.Whole(a.subject) {
			live = append(live, i)
		} else {
			rest = append(rest, i)
		}
	}
	held, ok := s.liveBalances(ctx, ws, accounts, live)
	now := s.now()
	for j, i := range live {
		if ok {
			found[i] = accounts[i].balance(held[j], sourceLive, now)
		} else {
			rest = append(rest, i)
		}
	}
	if len(rest) == 0 {
		return found, nil
	}
	progress, err := postgres.ReadProgress(ctx, s.pool, "balances")
	if err != nil {
		return nil, err
	}
	posted, err := s.ledgerBalances(ctx, ws, accounts, rest)
	if err != nil {
		return nil, err
	}
	for j, i := range rest {
		found[i] = accounts[i].balance(posted[j], sourceLedger, progress.AsOf)
	}
	return found, nil
}

// liveBalances asks Redis; ok is false where it does not answer or has lost its state.
func (s *Server) liveBalances(ctx context.Context, ws string, accounts []account, which []int) (held []mirror.Balance, ok bool) {
	if len(which) == 0 {
		return nil, false
	}
	periods := make([]keyspace.BudgetPeriod, len(which))
	for j, i := range which {
		a := accounts[i]
		periods[j] = keyspace.BudgetPeriod{
			Budget: a.budget.ID, Generation: uint64(a.budget.Generation), Balance: a.subject, StartUS: a.startUS(), //nolint:gosec // versions count from 1
		}
	}
	held, ok, err := s.mirror.Balances(ctx, ws, periods)
	if err != nil && ctx.Err() == nil {
		s.log.Debug("balances come from the ledger", slog.String("workspace", ws), slog.Any("error", err))
	}
	return held, ok
}

// ledgerBalances asks the projection. A balance that it does not know is zero; one beyond 4 billion USD shows as that, so that sums do
// not overflow.
func (s *Server) ledgerBalances(ctx context.Context, ws string, accounts []account, which []int) ([]mirror.Balance, error) {
	n := len(which)
	ids, generations, subjects, starts := make([]string, n), make([]int64, n), make([]string, n), make([]time.Time, n)
	for j, i := range which {
		a := accounts[i]
		ids[j], generations[j], subjects[j], starts[j] = a.budget.ID, a.budget.Generation, a.subject, time.UnixMicro(a.startUS())
	}
	const query = `
SELECT least(coalesce(b.posted_nano, 0), 4000000000000000000)::bigint, least(coalesce(b.reserved_nano, 0), 4000000000000000000)::bigint
  FROM unnest($2::text[], $3::bigint[], $4::text[], $5::timestamptz[]) WITH ORDINALITY AS k(budget_id, budget_generation, balance, period_start, n)
  LEFT JOIN balances b ON b.workspace = $1 AND b.scope = 'budget' AND b.budget_id = k.budget_id AND b.budget_generation = k.budget_generation
       AND b.balance = k.balance AND b.period_start = k.period_start
 ORDER BY k.n`
	rows, err := s.pool.Query(ctx, query, ws, ids, generations, subjects, starts)
	if err != nil {
		return nil, fmt.Errorf("reading balances of the ledger: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[mirror.Balance])
	if err != nil {
		return nil, fmt.Errorf("reading balances of the ledger: %w", err)
	}
	return found, nil
}
