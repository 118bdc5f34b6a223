package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/budget"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
)

// settings are what holds for all calls of a workspace.
type settings struct {
	// BudgetExceededStatus is the status of budget_exceeded.
	BudgetExceededStatus int64 `json:"budget_exceeded_status"`
	// UnknownOutcome says what a call costs when nobody knows whether the provider did the work.
	UnknownOutcome string `json:"unknown_outcome"`
	// DefaultMaxOutputTokens is the maximum where a request names none; nil: none.
	DefaultMaxOutputTokens *int64 `json:"default_max_output_tokens"`
	// FitMaxOutputTokens lowers a request's maximum to what a budget has left.
	FitMaxOutputTokens bool `json:"fit_max_output_tokens"`
}

// What an unknown outcome can cost.
const (
	outcomeReserved = "reserved"
	outcomeInput    = "input"
	outcomeNone     = "none"
)

var unknownOutcomes = map[string]rateguardv1.UnknownOutcome{
	outcomeReserved: rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_RESERVED,
	outcomeInput:    rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_INPUT,
	outcomeNone:     rateguardv1.UnknownOutcome_UNKNOWN_OUTCOME_NONE,
}

// maxOutputTokens bounds default_max_output_tokens: more than any model has, and no product of prices that overflows.
const maxOutputTokens = 10_000_000

var defaultSettings = settings{BudgetExceededStatus: http.StatusPaymentRequired, UnknownOutcome: outcomeReserved}

// exceededStatuses are what budget_exceeded can be.
var exceededStatuses = []int64{http.StatusPaymentRequired, http.StatusTooManyRequests, http.StatusBadRequest}

// settingColumns are the columns of settings, in the order of settings.to and settings.values.
const settingColumns = "budget_exceeded_status, unknown_outcome, default_max_output_tokens, fit_max_output_tokens"

func (s *settings) to() []any {
	return []any{&s.BudgetExceededStatus, &s.UnknownOutcome, &s.DefaultMaxOutputTokens, &s.FitMaxOutputTokens}
}

func (s settings) values() []any {
	return []any{s.BudgetExceededStatus, s.UnknownOutcome, s.DefaultMaxOutputTokens, s.FitMaxOutputTokens}
}

// document returns the settings as the policy holds them. A workspace that changed none has none there, as before there were any.
func (s settings) document() *rateguardv1.WorkspaceSettings {
	if s == defaultSettings {
		return nil
	}
	d := &rateguardv1.WorkspaceSettings{
		BudgetExceededStatus: uint32(s.BudgetExceededStatus), UnknownOutcome: unknownOutcomes[s.UnknownOutcome], //nolint:gosec // one of three
		FitMaxOutputTokens: s.FitMaxOutputTokens,
	}
	if s.DefaultMaxOutputTokens != nil {
		d.DefaultMaxOutputTokens = *s.DefaultMaxOutputTokens
	}
	return d
}

// readSettings reads the field settings of a PATCH: what is given changes, and null sets a field back to its default.
func readSettings(o *object) (over func(settings) settings) {
	var changes []func(*settings)
	change := func(do func(*settings)) { changes = append(changes, do) }
	over = func(s settings) settings {
		for _, do := range changes {
			do(&s)
		}
		return s
	}
	if o.null("settings") {
		o.fail("settings", "must not be null")
	}
	c, ok := o.child("settings")
	if !ok {
		return over
	}
	if c.null("budget_exceeded_status") {
		change(func(s *settings) { s.BudgetExceededStatus = defaultSettings.BudgetExceededStatus })
	} else if n, ok := c.whole("budget_exceeded_status", 100, 599); ok {
		if !slices.Contains(exceededStatuses, n) {
			c.fail("budget_exceeded_status", "must be 402, 429 or 400")
		}
		change(func(s *settings) { s.BudgetExceededStatus = n })
	}
	if c.null("unknown_outcome") {
		change(func(s *settings) { s.UnknownOutcome = defaultSettings.UnknownOutcome })
	} else if v, ok := c.text("unknown_outcome", maxName); ok {
		if _, known := unknownOutcomes[v]; !known {
			c.fail("unknown_outcome", "must be %q, %q or %q", outcomeReserved, outcomeInput, outcomeNone)
		}
		change(func(s *settings) { s.UnknownOutcome = v })
	}
	if c.null("default_max_output_tokens") {
		change(func(s *settings) { s.DefaultMaxOutputTokens = nil })
	} else if n, ok := c.whole("default_max_output_tokens", 1, maxOutputTokens); ok {
		change(func(s *settings) { s.DefaultMaxOutputTokens = &n })
	}
	var fit bool
	if c.null("fit_max_output_tokens") || c.into("fit_max_output_tokens", &fit, "true or false") {
		change(func(s *settings) { s.FitMaxOutputTokens = fit })
	}
	c.unknown()
	return over
}

// allowSettings refuses what a hard budget of the workspace forbids.
func (c *change) allowSettings(ctx context.Context, s settings) error {
	if s.UnknownOutcome == outcomeReserved {
		return nil
	}
	var hard string
	err := c.tx.QueryRow(ctx, "SELECT id FROM control.budgets WHERE workspace_id = $1 AND enforcement = $2 ORDER BY id LIMIT 1", c.ws.ID, budget.Hard).Scan(&hard)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("looking for hard budgets: %w", err)
	}
	return problem.New(http.StatusConflict, problem.Conflict, "unknown_outcome must be %q while the workspace has a hard budget: %q is one", outcomeReserved, hard)
}
