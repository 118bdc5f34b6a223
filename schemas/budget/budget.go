// Package budget says what a budget means: the defaults and the checks of its fields, and where its periods begin. Control refuses
// with it and publishes what it computes, so that no budget is accepted that cannot be kept and no proxy does calendar arithmetic.
package budget

import (
	"fmt"
	"math"
	"slices"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
	"github.com/rateguard/rateguard/schemas/money"
)

// Scopes, periods, kinds of enforcement, modes and answers to a failed store, as the admin API names them.
const (
	ScopeWorkspace = "workspace"
	ScopeKey       = "key"
	ScopeRoute     = "route"
	ScopeModel     = "model"

	Hour  = "hour"
	Day   = "day"
	Week  = "week"
	Month = "month"
	Total = "total"

	Hard = "hard"
	Soft = "soft"

	ModeStrict = limit.ModeStrict
	ModeLeased = limit.ModeLeased

	FailOpen   = "open"
	FailClosed = "closed"
)

// MaxUSD is the largest limit of a budget, in nano-USD: 4,000,000 USD a period. The script that admits adds what is posted, reserved
// and needed in doubles, which are exact below 2^53 nano-USD (9,007,199 USD): the limit twice over still is.
const MaxUSD = 4_000_000 * money.USD

// Bounds of alert_at.
const (
	// MaxAlerts is how many thresholds a budget has at most.
	MaxAlerts = 10
	// MaxAlertAt is the largest threshold, as a multiple of the limit.
	MaxAlertAt = 10
)

// DefaultLeasePercent and MaxLeasePercent are how much of a leased budget's limit all proxies together may hold for requests to come. They are those
// of a leased limit.
const (
	DefaultLeasePercent = limit.DefaultLeasePercent
	MaxLeasePercent     = limit.MaxLeasePercent
)

// DefaultZone is the time zone of a budget that names none.
const DefaultZone = "UTC"

// Problem is one thing that is wrong with a budget.
type Problem struct {
	// Field is the JSON name of the field at fault.
	Field   string
	Message string
}

// WithDefaults returns the budget with every field filled that may be left out.
func WithDefaults(b *rateguardv1.Budget) *rateguardv1.Budget {
	out := &rateguardv1.Budget{
		Id: b.GetId(), Generation: b.GetGeneration(), Scope: b.GetScope(), Match: b.GetMatch(), LimitNanoUsd: b.GetLimitNanoUsd(),
		Period: b.GetPeriod(), Timezone: b.GetTimezone(), Enforcement: b.GetEnforcement(), AlertAt: slices.Clone(b.GetAlertAt()),
		OnStoreFailure: b.GetOnStoreFailure(), BoundariesUnixUs: slices.Clone(b.GetBoundariesUnixUs()), Mode: b.GetMode(), LeasePercent: b.GetLeasePercent(),
	}
	text := func(v *string, d string) {
		if *v == "" {
			*v = d
		}
	}
	text(&out.Scope, ScopeWorkspace)
	text(&out.Period, Month)
	text(&out.Timezone, DefaultZone)
	text(&out.Enforcement, Hard)
	if out.GetEnforcement() == Soft {
		text(&out.OnStoreFailure, FailOpen)
	}
	text(&out.OnStoreFailure, FailClosed)
	text(&out.Mode, ModeStrict)
	if out.GetLeasePercent() == 0 && out.GetMode() == ModeLeased {
		out.LeasePercent = DefaultLeasePercent
	}
	if len(out.GetAlertAt()) == 0 {
		out.AlertAt = []float64{0.5, 0.8, 1}
	}
	return out
}

// Check returns everything that is wrong with a budget whose defaults are filled in.
func Check(b *rateguardv1.Budget) []Problem {
	var out []Problem
	bad := func(field, format string, args ...any) {
		out = append(out, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	oneOf := func(field, v string, allowed ...string) {
		if !slices.Contains(allowed, v) {
			bad(field, "%q is not one of %q", v, allowed)
		}
	}
	oneOf("scope", b.GetScope(), ScopeWorkspace, ScopeKey, ScopeRoute, ScopeModel)
	if n := money.Nano(b.GetLimitNanoUsd()); n < 1 || n > MaxUSD {
		bad("usd", "%s is not between %s and %s", n, money.Nano(1), MaxUSD)
	}
	oneOf("period", b.GetPeriod(), Hour, Day, Week, Month, Total)
	if _, err := Zone(b.GetTimezone()); err != nil {
		bad("timezone", "%s", err)
	}
	oneOf("enforcement", b.GetEnforcement(), Hard, Soft)
	if message := checkAlerts(b.GetAlertAt()); message != "" {
		bad("alert_at", "%s", message)
	}
	oneOf("on_store_failure", b.GetOnStoreFailure(), FailOpen, FailClosed)
	if b.GetEnforcement() == Hard && b.GetOnStoreFailure() == FailOpen {
		bad("on_store_failure", "a hard budget is closed while its store does not answer: it could not be kept otherwise")
	}
	oneOf("mode", b.GetMode(), ModeStrict, ModeLeased)
	switch n := b.GetLeasePercent(); {
	case b.GetMode() == ModeLeased && (n < 1 || n > MaxLeasePercent):
		bad("lease_percent", "%d is not between 1 and %d", n, MaxLeasePercent)
	case b.GetMode() != ModeLeased && n != 0:
		bad("lease_percent", "only a leased budget has one")
	}
	return out
}

// checkAlerts returns what is wrong with the thresholds; empty: nothing.
func checkAlerts(at []float64) string {
	if len(at) < 1 || len(at) > MaxAlerts {
		return fmt.Sprintf("must have 1 to %d values", MaxAlerts)
	}
	before := 0.0
	for _, v := range at {
		switch {
		case math.IsNaN(v) || v <= 0 || v > MaxAlertAt:
			return fmt.Sprintf("%v is not above 0 and at most %d", v, MaxAlertAt)
		case v <= before:
			return fmt.Sprintf("%v is not larger than the value before it", v)
		}
		before = v
	}
	return ""
}

// Divided reports whether each key, route or model has a balance of its own. A budget with a match has one for all that it matches.
func Divided(b *rateguardv1.Budget) bool {
	m := b.GetMatch()
	return b.GetScope() != ScopeWorkspace && m.GetRoute() == "" && m.GetModel() == "" && m.GetKey() == ""
}
