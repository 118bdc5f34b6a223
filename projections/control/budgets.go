package control

import (
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/budget"
	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/money"
)

// maxBudgets is the largest number of budgets of a workspace: a call is checked against all that match it.
const maxBudgets = 100

// costBudget is one budget with its defaults filled in.
type costBudget struct {
	ID             string     `json:"name"`
	Scope          string     `json:"scope"`
	Match          match      `json:"match"`
	USD            money.Nano `json:"usd"`
	Period         string     `json:"period"`
	Timezone       string     `json:"timezone"`
	Enforcement    string     `json:"enforcement"`
	AlertAt        []float64  `json:"alert_at"`
	OnStoreFailure string     `json:"on_store_failure"`
	Mode           string     `json:"mode"`
	LeasePercent   int32      `json:"lease_percent,omitempty"`
	// Generation is the policy version since which it counts.
	Generation int64 `json:"generation"`
	stamps
	// Balance is only in what is read back, and only where there is one for the whole budget.
	Balance *balance `json:"balance,omitempty"`
}

var budgets = resource[costBudget]{
	name: "budget", scope: "budgets", most: maxBudgets,
	columns: append([]string{
		"id", "scope", "match_route", "match_model", "match_key", "limit_nano_usd", "period", "timezone", "enforcement", "alert_at", "on_store_failure", "mode", "lease_percent", "generation",
	}, stampColumns...),
	scan: scanBudget,
	values: func(b costBudget) []any {
		return append([]any{
			b.ID, b.Scope, b.Match.Route, b.Match.Model, b.Match.Key, int64(b.USD), b.Period, b.Timezone, b.Enforcement, b.AlertAt, b.OnStoreFailure, b.Mode, b.LeasePercent,
			b.Generation,
		}, b.values()...)
	},
	about: func(b *costBudget) (string, *stamps) { return b.ID, &b.stamps },
	read: func(_ *Server, _, id string, o *object) func(costBudget) costBudget {
		b := readBudget(o, id)
		return b.over
	},
	same:  sameView[costBudget],
	allow: allowBudget,
	number: func(b *costBudget, version int64) {
		if b.Generation == 0 {
			b.Generation = version
		}
	},
	fill: fillBalances,
}

func scanBudget(row pgx.CollectableRow) (costBudget, error) {
	var b costBudget
	var nano int64
	err := row.Scan(append([]any{
		&b.ID, &b.Scope, &b.Match.Route, &b.Match.Model, &b.Match.Key, &nano, &b.Period, &b.Timezone, &b.Enforcement, &b.AlertAt, &b.OnStoreFailure, &b.Mode, &b.LeasePercent,
		&b.Generation,
	}, b.to()...)...)
	b.USD = money.Nano(nano)
	b.inUTC()
	return b, err
}

// over returns the budget that a body makes of an old one, which may be empty. What was spent counts on unless the budget counts something
// else from now on: then it begins a generation, whose number is that of the change.
func (b costBudget) over(old costBudget) costBudget {
	if old.ID != "" && old.Scope == b.Scope && old.Match == b.Match && old.Period == b.Period && old.Timezone == b.Timezone {
		b.Generation = old.Generation
	}
	return b
}

// document returns the budget as the policy holds it, with its periods around an instant.
func (b costBudget) document(around time.Time) (*rateguardv1.Budget, error) {
	starts, err := b.published(around)
	if err != nil {
		return nil, err
	}
	d := b.bare()
	for _, at := range starts {
		d.BoundariesUnixUs = append(d.BoundariesUnixUs, at.UnixMicro())
	}
	return d, nil
}

// bare returns the document without periods. A strict budget does not say so, as none did before there were others.
func (b costBudget) bare() *rateguardv1.Budget {
	d := &rateguardv1.Budget{
		Id: b.ID, Generation: uint64(b.Generation), Scope: b.Scope, Match: b.Match.document(), LimitNanoUsd: int64(b.USD), //nolint:gosec // versions count from 1
		Period: b.Period, Timezone: b.Timezone, Enforcement: b.Enforcement, AlertAt: b.AlertAt, OnStoreFailure: b.OnStoreFailure,
	}
	if b.Mode == budget.ModeLeased {
		d.Mode, d.LeasePercent = b.Mode, b.LeasePercent
	}
	return d
}

// readBudget reads the body of a PUT.
func readBudget(o *object, id string) costBudget {
	if !validID.MatchString(id) {
		o.fail("name", "a budget id has 1 to %d letters, digits, dots, dashes or underscores and starts with a letter or digit", maxID)
	}
	var given rateguardv1.Budget
	for _, f := range []struct {
		name string
		to   *string
	}{
		{"scope", &given.Scope},
		{"period", &given.Period},
		{"timezone", &given.Timezone},
		{"enforcement", &given.Enforcement},
		{"on_store_failure", &given.OnStoreFailure},
		{"mode", &given.Mode},
	} {
		*f.to, _ = o.text(f.name, maxName)
	}
	given.LimitNanoUsd = int64(readUSD(o, "usd"))
	o.into("alert_at", &given.AlertAt, "a list of numbers")
	percent, _ := o.whole("lease_percent", 1, budget.MaxLeasePercent)
	given.LeasePercent = int32(percent) //nolint:gosec // within the bounds
	none := given.AlertAt != nil && len(given.AlertAt) == 0
	m := readMatch(o)

	full := budget.WithDefaults(&given)
	if none { // said, and not left out
		full.AlertAt = nil
	}
	for _, p := range budget.Check(full) {
		if !o.failed(p.Field) { // else the check speaks of what stands in its place
			o.fail(p.Field, "%s", p.Message)
		}
	}
	return costBudget{
		ID: id, Scope: full.GetScope(), Match: m, USD: money.Nano(full.GetLimitNanoUsd()), Period: full.GetPeriod(), Timezone: full.GetTimezone(),
		Enforcement: full.GetEnforcement(), AlertAt: full.GetAlertAt(), OnStoreFailure: full.GetOnStoreFailure(),
		Mode: full.GetMode(), LeasePercent: full.GetLeasePercent(),
	}
}

// readUSD reads an amount that must be there.
func readUSD(o *object, name string) money.Nano {
	const what = `a decimal string of USD with at most nine decimals, for example "10.00"`
	var text string
	if !o.require(name) || !o.into(name, &text, what) {
		return 0
	}
	usd, err := money.ParseUSD(text)
	if err != nil {
		o.fail(name, "must be %s", what)
	}
	return usd
}

// allowBudget refuses a hard budget where what nobody knows costs less than was reserved: it could be spent twice.
func allowBudget(ch *change, b costBudget) error {
	if b.Enforcement == budget.Hard && ch.ws.Settings.UnknownOutcome != outcomeReserved {
		return problem.New(http.StatusConflict, problem.Conflict,
			"a hard budget needs the workspace's setting unknown_outcome to be %q; it is %q", outcomeReserved, ch.ws.Settings.UnknownOutcome)
	}
	return nil
}
