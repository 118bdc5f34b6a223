package query

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/limit"
)

const (
	// topUsers is how many of a limit's users are told apart.
	topUsers = 5
	// maxLookBack bounds the part of the log that one explanation reads; of a longer window its end.
	maxLookBack = 24 * time.Hour
	// startSlack is how long before its decision a request may have begun, and how far the proxies' clocks may lie apart: rows are
	// ordered by the proxy's time of the start, and windows are of Redis' time of the decision.
	startSlack = time.Minute
	// lookTimeout bounds the look at the others: the row itself was read just before, so that the store is there and there is too much to read.
	lookTimeout = 10 * time.Second
)

// How the users of a limit are told apart.
const (
	byKey        = "key"
	byRouteModel = "route_model"
)

// UsedBy is who used a limit in the window before a decision, as far as their requests stand in the log: those that still run do not yet.
type UsedBy struct {
	Limit string `json:"limit"`
	Unit  string `json:"unit"`
	// By is "key", or "route_model" where the limit's bucket belongs to one key.
	By   string    `json:"by"`
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	Use
	// Data are those who used most, and those who were only refused.
	Data []User `json:"data"`
	// Others are all who are not in Data together; nil where there are none.
	Others *Others `json:"others"`
	// Pattern is "burst" or "steady", and empty where too little was admitted to tell. Peak is what was admitted in the busiest
	// tenth of the window; nil where nothing was.
	Pattern string `json:"pattern"`
	Peak    *Peak  `json:"peak"`
	// Incomplete says that the log of the window was too large to be read.
	Incomplete bool `json:"incomplete"`
}

// Use is what was taken from a limit.
type Use struct {
	// Requests and Units were admitted; units are those of the limit, of tokens what was used in the end.
	Requests int64 `json:"requests"`
	Units    int64 `json:"units"`
	// Denied is how many requests the limit refused.
	Denied int64 `json:"denied"`
}

// User is one user of a limit: a key, or a route and a model.
type User struct {
	Key   string `json:"key,omitempty"`
	Route string `json:"route,omitempty"`
	Model string `json:"model,omitempty"`
	Use
}

// Others are the users that are not told apart.
type Others struct {
	Users int64 `json:"users"`
	Use
}

// newUsedBy returns the question for a check; false where nothing can be asked.
func newUsedBy(k *Check) (*UsedBy, bool) {
	if k == nil || k.Kind != kindLimit || k.WindowUS <= 0 || k.Limit <= 0 || k.DecidedAt.IsZero() {
		return nil, false
	}
	u := &UsedBy{Limit: k.ID, Unit: k.Unit, By: byKey, To: k.DecidedAt, Data: []User{}}
	if k.Scope == limit.ScopeKey && k.Subject != "" {
		u.By = byRouteModel
	}
	u.From = u.To.Add(-k.lookBack())
	if start := k.DecidedAt.Truncate(k.window()); k.Algorithm == limit.FixedWindow && start.After(u.From) {
		u.From = start
	}
	return u, true
}

// lookBack is how far back use is looked at: the window, or, of a bucket that holds more than its limit, the time in which it drains.
func (k *Check) lookBack() time.Duration {
	us := float64(k.WindowUS) * max(1, float64(k.room())/float64(k.Limit))
	return time.Duration(min(us, float64(maxLookBack.Microseconds()))) * time.Microsecond
}

// uses are the rows of the window with the limit's part of their checks. Denials that were counted together have no subject: they are the
// limit's if it has one bucket for all, or their key's. A request that was forwarded has taken its cost, or the tokens that it turned out to
// use; one that cost nothing and used none has given back its tokens.
//
// The limit's check is found in the text and its fields are the first of their names behind it: to parse the JSON takes ten times as long. A quote inside
// of a JSON string is escaped, so that no name of a client's can look like a field.
const uses = `
SELECT key_id, route, model, n, at,
       decision = 'forwarded' AND seen AND NOT refused AS took,
       refused AND (seen OR counted) AS was_denied,
       if({unit:String} != 'tokens', cost, if(tokens > 0, tokens, if(cost_nano = 0, 0, cost))) AS u
  FROM (
    SELECT key_id, route, model, decision, requests AS n, input_tokens + output_tokens AS tokens, cost_nano,
           substring(checks, position(checks, {needle:String})) AS c,
           NOT simpleJSONHas(c, 'scope') AS bare,
           NOT bare AND simpleJSONExtractString(c, 'subject') = {subject:String} AS seen,
           bare AND ({subject:String} = '' OR {scope:String} = 'key' AND key_id = {subject:String}) AS counted,
           simpleJSONExtractBool(c, 'denied') AS refused,
           simpleJSONExtractInt(c, 'cost') AS cost,
           if(bare, time, parseDateTime64BestEffortOrZero(simpleJSONExtractString(c, 'decided_at'), 6, 'UTC')) AS at
      FROM requests
     WHERE workspace = {workspace:String} AND id != {id:String}
       AND time >= fromUnixTimestamp64Micro({from:Int64} - {slack:Int64}, 'UTC')
       AND time <= fromUnixTimestamp64Micro({to:Int64} + {slack:Int64}, 'UTC')
       AND position(checks, {needle:String}) > 0
  )
 WHERE at > fromUnixTimestamp64Micro({from:Int64}, 'UTC') AND at <= fromUnixTimestamp64Micro({to:Int64}, 'UTC')
   AND (took OR was_denied)`

// sums are what a group of uses took together.
const sums = "toInt64(sumIf(n, took)) AS requests, toInt64(sumIf(u, took)) AS units, toInt64(sumIf(n, was_denied)) AS denied"

// usedBy reads who else used the limit of a check of the request; nil where that cannot be asked. Errors are problems.
func (s *Service) usedBy(ctx context.Context, workspace, id string, k *Check) (*UsedBy, error) {
	u, ok := newUsedBy(k)
	if !ok {
		return nil, nil //nolint:nilnil // an explanation without it is whole
	}
	slack := startSlack + time.Duration(max(k.ClockOffsetUS, -k.ClockOffsetUS))*time.Microsecond
	width := max(1, k.lookBack().Microseconds()/slots) // µs of a slot
	params := []any{
		param("workspace", workspace), param("id", id), param("unit", k.Unit), param("scope", k.Scope),
		param("subject", k.Subject), param("needle", needle(k.ID)), param("from", u.From.UnixMicro()), param("to", u.To.UnixMicro()),
		param("slack", slack.Microseconds()), param("width", width), param("top", uint64(topUsers)),
	}
	bounded, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	err := s.readSlots(bounded, u, params)
	if err == nil && u.Requests+u.Denied > 0 {
		err = s.readUsers(bounded, u, params)
	}
	p, ok := errors.AsType[*problem.Problem](err)
	if ok && p.Status == http.StatusBadRequest || err != nil && bounded.Err() != nil && ctx.Err() == nil {
		// There is too much to read, and what else is known explains a lot.
		return &UsedBy{Limit: u.Limit, Unit: u.Unit, By: u.By, From: u.From, To: u.To, Data: []User{}, Incomplete: true}, nil
	}
	return u, s.stamp(ctx, err, time.Now())
}

// needle is how the limit's part of the column begins: it spares the store to parse the checks of most rows.
func needle(limit string) string {
	id, err := json.Marshal(limit)
	if err != nil {
		return "" // a string can always be written
	}
	return `{"id":` + string(id) + `,`
}

// readSlots reads the sums and when in the window they were taken.
func (s *Service) readSlots(ctx context.Context, u *UsedBy, params []any) error {
	var all []slot
	sql := "SELECT intDiv({to:Int64} - toUnixTimestamp64Micro(at), {width:Int64}) AS slot, minIf(at, took), maxIf(at, took), " + sums + " FROM (" + uses + ") GROUP BY slot ORDER BY slot"
	err := s.ask(ctx, sql, params, func(rows driver.Rows) error {
		var x slot
		if err := rows.Scan(&x.ago, &x.first, &x.last, &x.Requests, &x.Units, &x.Denied); err != nil {
			return err
		}
		u.add(x.Use)
		all = append(all, x)
		return nil
	})
	u.Peak, u.Pattern = pattern(all, u)
	return err
}

// readUsers reads who took most; the sums are there already.
func (s *Service) readUsers(ctx context.Context, u *UsedBy, params []any) error {
	names := "key_id, '', ''"
	by := "key_id"
	if u.By == byRouteModel {
		names, by = "'', route, model", "route, model"
	}
	sql := "SELECT " + names + ", requests, units, denied, toInt64(count() OVER ()) FROM (SELECT " + by + ", " + sums + " FROM (" + uses + ") GROUP BY " + by +
		") ORDER BY units DESC, requests DESC, denied DESC, " + by + " LIMIT {top:UInt64}"
	rest, users := u.Use, int64(0)
	err := s.ask(ctx, sql, params, func(rows driver.Rows) error {
		var x User
		if err := rows.Scan(&x.Key, &x.Route, &x.Model, &x.Requests, &x.Units, &x.Denied, &users); err != nil {
			return err
		}
		u.Data = append(u.Data, x)
		rest.add(Use{-x.Requests, -x.Units, -x.Denied})
		return nil
	})
	if more := users - int64(len(u.Data)); more > 0 {
		// Between the two questions rows may have come.
		u.Others = &Others{Users: more, Use: Use{max(0, rest.Requests), max(0, rest.Units), max(0, rest.Denied)}}
	}
	return err
}

func (u *Use) add(o Use) {
	u.Requests += o.Requests
	u.Units += o.Units
	u.Denied += o.Denied
}
