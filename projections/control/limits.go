package control

import (
	"time"

	"github.com/jackc/pgx/v5"

	rateguardv1 "github.com/rateguard/rateguard/schemas/gen/rateguard/v1"
	"github.com/rateguard/rateguard/schemas/limit"
)

// maxLimits is the largest number of limits of a workspace: a call is checked against all that match it.
const maxLimits = 100

// rateLimit is one limit with its defaults filled in.
type rateLimit struct {
	ID             string `json:"name"`
	Scope          string `json:"scope"`
	Match          match  `json:"match"`
	Unit           string `json:"unit"`
	Algorithm      string `json:"algorithm"`
	Limit          int64  `json:"limit"`
	Window         string `json:"window"`
	Burst          int64  `json:"burst,omitempty"`
	Mode           string `json:"mode"`
	OnStoreFailure string `json:"on_store_failure"`
	MaxDelay       string `json:"max_delay,omitempty"`
	LeasePercent   int32  `json:"lease_percent,omitempty"`
	stamps

	windowUS, maxDelayUS int64
}

var limits = resource[rateLimit]{
	name: "limit", scope: "limits", most: maxLimits,
	columns: append([]string{
		"id", "scope", "match_route", "match_model", "match_key", "unit", "algorithm", "amount", "window_us", "burst", "mode", "on_store_failure", "max_delay_us", "lease_percent",
	}, stampColumns...),
	scan: scanLimit,
	values: func(l rateLimit) []any {
		return append([]any{
			l.ID, l.Scope, l.Match.Route, l.Match.Model, l.Match.Key, l.Unit, l.Algorithm, l.Limit, l.windowUS, l.Burst, l.Mode, l.OnStoreFailure, l.maxDelayUS,
			l.LeasePercent,
		}, l.values()...)
	},
	about: func(l *rateLimit) (string, *stamps) { return l.ID, &l.stamps },
	read: func(_ *Server, _, id string, o *object) func(rateLimit) rateLimit {
		l := readLimit(o, id)
		return func(rateLimit) rateLimit { return l }
	},
	same: sameView[rateLimit],
}

func scanLimit(row pgx.CollectableRow) (rateLimit, error) {
	var l rateLimit
	err := row.Scan(append([]any{
		&l.ID, &l.Scope, &l.Match.Route, &l.Match.Model, &l.Match.Key, &l.Unit, &l.Algorithm, &l.Limit, &l.windowUS, &l.Burst, &l.Mode, &l.OnStoreFailure, &l.maxDelayUS,
		&l.LeasePercent,
	}, l.to()...)...)
	l.inUTC()
	l.show()
	return l, err
}

// show fills the fields that only the API's view has.
func (l *rateLimit) show() {
	l.Window = (time.Duration(l.windowUS) * time.Microsecond).String()
	if l.maxDelayUS != 0 {
		l.MaxDelay = (time.Duration(l.maxDelayUS) * time.Microsecond).String()
	}
}

// document returns the limit as the policy holds it.
func (l rateLimit) document() *rateguardv1.Limit {
	return &rateguardv1.Limit{
		Id: l.ID, Scope: l.Scope, Unit: l.Unit, Algorithm: l.Algorithm, Limit: l.Limit, WindowUs: l.windowUS, Burst: l.Burst,
		Mode: l.Mode, OnStoreFailure: l.OnStoreFailure, MaxDelayUs: l.maxDelayUS, LeasePercent: l.LeasePercent, Match: l.Match.document(),
	}
}

// readLimit reads the body of a PUT.
func readLimit(o *object, id string) rateLimit {
	if !validID.MatchString(id) {
		o.fail("name", "a limit id has 1 to %d letters, digits, dots, dashes or underscores and starts with a letter or digit", maxID)
	}
	var given rateguardv1.Limit
	for _, f := range []struct {
		name string
		to   *string
	}{
		{"scope", &given.Scope}, {"unit", &given.Unit}, {"algorithm", &given.Algorithm}, {"mode", &given.Mode}, {"on_store_failure", &given.OnStoreFailure},
	} {
		*f.to, _ = o.text(f.name, maxName)
	}
	o.require("limit")
	given.Limit, _ = o.whole("limit", 1, limit.MaxAmount)
	given.Burst, _ = o.whole("burst", 1, limit.MaxAmount)
	o.require("window")
	given.WindowUs = readMicroseconds(o, "window", limit.MinWindow, limit.MaxWindow)
	percent, _ := o.whole("lease_percent", 1, limit.MaxLeasePercent)
	given.LeasePercent = int32(percent) //nolint:gosec // within the bounds
	given.MaxDelayUs = readMicroseconds(o, "max_delay", time.Microsecond, limit.MaxMaxDelay)
	match := readMatch(o)

	full := limit.WithDefaults(&given)
	for _, p := range limit.Check(full) {
		unread := o.failed(p.Field) || p.Field == "burst" && !o.present("burst") && o.failed("limit")
		if !unread { // else the check speaks of what stands in its place
			o.fail(p.Field, "%s", p.Message)
		}
	}
	l := rateLimit{
		ID: id, Scope: full.GetScope(), Match: match, Unit: full.GetUnit(), Algorithm: full.GetAlgorithm(), Limit: full.GetLimit(),
		Burst: full.GetBurst(), Mode: full.GetMode(), OnStoreFailure: full.GetOnStoreFailure(), LeasePercent: full.GetLeasePercent(),
		windowUS: full.GetWindowUs(), maxDelayUS: full.GetMaxDelayUs(),
	}
	l.show()
	return l
}

func readMicroseconds(o *object, name string, least, most time.Duration) int64 {
	d, _ := o.duration(name, least, most)
	return d.Microseconds()
}
