package control

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/projections/proof"
	"github.com/rateguard/rateguard/schemas/money"
)

// Bounds of the parameter limit of a proof.
const (
	defaultProved = 20
	// everything is the limit that lists all reservations of the period.
	everything = "all"
)

// proofEndpoints are the calls that are answered from the log.
func (s *Server) proofEndpoints() []endpoint {
	return []endpoint{
		{http.MethodGet, "/v1/workspaces/{ws}/budgets/{budget}/proof", "read:budgets", s.proveBudget},
		{http.MethodGet, "/v1/budgets/audit", rootOnly, s.auditBudgets},
	}
}

func (s *Server) proveBudget(ctx context.Context, c *call) (answer, error) {
	q := c.http.URL.Query()
	if err := onlyParameters(q, "at", "balance", "request", "limit"); err != nil {
		return answer{}, err
	}
	question := proof.Question{Workspace: c.workspace(), Budget: c.vars["budget"], Balance: q.Get("balance"), At: s.now(), Most: defaultProved}
	if text := q.Get("at"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil || at.After(question.At.Add(time.Minute)) {
			return answer{}, problem.InvalidField("at", "must be a time as in RFC 3339, and not in the future")
		}
		question.At = at.UTC()
	}
	var err error
	if question.Most, err = readMost(q.Get("limit")); err != nil {
		return answer{}, err
	}
	if id := q.Get("request"); id != "" {
		if err := s.askOf(ctx, id, &question, q.Has("at")); err != nil {
			return answer{}, err
		}
	}
	p, err := proof.NewLog(s.cfg.Kafka).Prove(ctx, question)
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: p}, nil
}

func readMost(text string) (int, error) {
	switch text {
	case "":
		return defaultProved, nil
	case everything:
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxLimit {
		return 0, problem.InvalidField("limit", "must be a whole number from 1 to %d, or %s", maxLimit, everything)
	}
	return n, nil
}

// askOf takes from a request's row what the question leaves open.
func (s *Server) askOf(ctx context.Context, id string, q *proof.Question, at bool) error {
	k, found, err := s.query.BudgetCheck(ctx, q.Workspace, id, q.Budget)
	switch {
	case err != nil:
		return err
	case !found:
		return problem.Missing("request", id)
	case k == nil:
		return problem.New(http.StatusNotFound, problem.NotFound, "the request did not ask the budget %.100q", q.Budget)
	case k.DecidedAt.IsZero():
		return problem.New(http.StatusConflict, problem.Conflict, "the refusal was counted together with others: what the budget showed is not kept")
	case q.Balance != "" && q.Balance != k.Subject:
		return problem.InvalidField("balance", "is not the one that the request was checked against")
	}
	q.Balance = k.Subject
	if !at {
		q.At = k.DecidedAt
	}
	q.Refusal = &proof.Decision{
		Request: id, At: k.DecidedAt, Posted: money.Nano(k.Used), Reserved: money.Nano(k.Reserved), Needed: money.Nano(k.Cost), Limit: money.Nano(k.Limit), Denied: k.Denied,
	}
	return nil
}

// auditBudgets holds the whole log, or that of one workspace, against the rules of budgets. A workspace that was deleted has a log too.
func (s *Server) auditBudgets(ctx context.Context, c *call) (answer, error) {
	q := c.http.URL.Query()
	if err := onlyParameters(q, "workspace"); err != nil {
		return answer{}, err
	}
	if q.Has("workspace") && q.Get("workspace") == "" {
		return answer{}, problem.InvalidField("workspace", "must be the id of a workspace")
	}
	a, err := proof.NewLog(s.cfg.Kafka).Audit(ctx, q.Get("workspace"))
	if err != nil {
		return answer{}, err
	}
	return answer{status: http.StatusOK, body: a}, nil
}
