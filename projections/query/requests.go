package query

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/uuid"

	"github.com/rateguard/rateguard/projections/problem"
	"github.com/rateguard/rateguard/schemas/money"
)

// RequestParameters are the query parameters that Requests understands.
var RequestParameters = []string{"from", "to", "route", "model", "endpoint", "key", "status", "decision", "limit", "cursor"}

// RequestList is a page of the log, newest first.
type RequestList struct {
	Data []Request `json:"data"`
	Next *string   `json:"next"`
	Freshness
}

// Request is one row of the log.
type Request struct {
	ID               string    `json:"id"`
	Time             time.Time `json:"time"`
	KeyID            string    `json:"key_id"`
	Route            string    `json:"route"`
	Provider         string    `json:"provider"`
	Model            string    `json:"model"`
	Endpoint         string    `json:"endpoint"`
	Method           string    `json:"method"`
	Status           uint16    `json:"status"`
	Decision         string    `json:"decision"`
	ErrorCode        string    `json:"error_code"`
	Stream           bool      `json:"stream"`
	InputTokens      int64     `json:"input_tokens"`
	CachedTokens     int64     `json:"cached_tokens"`
	CacheWriteTokens int64     `json:"cache_write_tokens"`
	OutputTokens     int64     `json:"output_tokens"`
	ReasoningTokens  int64     `json:"reasoning_tokens"`
	// CostUSD is nil where the model has no price.
	CostUSD      *money.Nano `json:"cost_usd"`
	Estimated    bool        `json:"estimated"`
	PriceVersion string      `json:"price_version"`
	// Corrected says that cost, estimate and price are those of the ledger, which has learned more since the row was written.
	Corrected bool     `json:"corrected"`
	LatencyMS *float64 `json:"latency_ms"`
	// TTFTMS is nil where no byte of an answer came.
	TTFTMS     *float64 `json:"ttft_ms"`
	OverheadUS uint32   `json:"overhead_us"`
	ClientIP   string   `json:"client_ip"`
	Country    string   `json:"country"`
	// Requests is how many requests the row stands for, above 1 only where denials were aggregated.
	Requests uint64 `json:"requests"`

	more details
}

// details are what only Explain shows.
type details struct {
	upstreamStatus uint16
	policyVersion  uint64
	idempotencyKey string
	tags           map[string]string
	reservationIDs []string
	checks         string
	producerID     string
}

const requestColumns = `id, time, key_id, route, provider, model, endpoint, method, status, decision, error_code, stream,
 input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_nano, estimated, price_version,
 latency_us, ttft_us, overhead_us, client_ip, country, requests,
 upstream_status, policy_version, idempotency_key, tags, reservation_ids, checks, producer_id`

func scanRequest(rows driver.Rows) (Request, error) {
	var r Request
	var cost *int64
	var latency, ttft uint32
	err := rows.Scan(&r.ID, &r.Time, &r.KeyID, &r.Route, &r.Provider, &r.Model, &r.Endpoint, &r.Method, &r.Status, &r.Decision, &r.ErrorCode,
		&r.Stream, &r.InputTokens, &r.CachedTokens, &r.CacheWriteTokens, &r.OutputTokens, &r.ReasoningTokens, &cost, &r.Estimated, &r.PriceVersion,
		&latency, &ttft, &r.OverheadUS, &r.ClientIP, &r.Country, &r.Requests,
		&r.more.upstreamStatus, &r.more.policyVersion, &r.more.idempotencyKey, &r.more.tags, &r.more.reservationIDs, &r.more.checks, &r.more.producerID)
	if err != nil {
		return r, err
	}
	r.Time = r.Time.UTC()
	if cost != nil {
		usd := money.Nano(*cost)
		r.CostUSD = &usd
	}
	r.LatencyMS = milliseconds(int64(latency))
	if ttft > 0 {
		r.TTFTMS = milliseconds(int64(ttft))
	}
	return r, nil
}

// Requests returns a page of a workspace's log; q is made of RequestParameters. Errors are problems.
func (s *Service) Requests(ctx context.Context, workspace string, q url.Values, now time.Time) (RequestList, error) {
	f, limit, err := readRequests(workspace, q, now)
	if err != nil {
		return RequestList{}, err
	}
	l := RequestList{Data: []Request{}}
	l.Freshness = s.freshness(ctx, now)
	sql := "SELECT " + requestColumns + " FROM requests WHERE " + f.where() + " ORDER BY workspace DESC, time DESC, id DESC LIMIT {limit:UInt64}"
	err = s.ask(ctx, sql, f.params, func(rows driver.Rows) error {
		r, err := scanRequest(rows)
		l.Data = append(l.Data, r)
		return err
	})
	if err == nil {
		err = s.correct(ctx, workspace, l.Data)
	}
	if err != nil {
		return RequestList{}, s.stamp(ctx, err, now)
	}
	if len(l.Data) > limit {
		l.Data = l.Data[:limit]
		last := l.Data[limit-1]
		l.Next = encodeCursor("before", strconv.FormatInt(last.Time.UnixMicro(), 10), last.ID)
	}
	return l, nil
}

func readRequests(workspace string, q url.Values, now time.Time) (*filter, int, error) {
	over, err := readSpan(q, now)
	if err != nil {
		return nil, 0, err
	}
	f := &filter{}
	f.add("workspace = {workspace:String}", param("workspace", workspace))
	f.add("time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC')", param("from", over.from.UnixMicro()))
	f.add("time < fromUnixTimestamp64Micro({to:Int64}, 'UTC')", param("to", over.to.UnixMicro()))
	if err := f.addEqualities(q); err != nil {
		return nil, 0, err
	}
	if err := f.addStatus(q.Get("status")); err != nil {
		return nil, 0, err
	}
	if err := f.addDecision(q.Get("decision")); err != nil {
		return nil, 0, err
	}
	limit, err := readLimit(q, defaultRequests, maxRequests)
	if err != nil {
		return nil, 0, err
	}
	parts, err := decodeCursor(q, "before", 2)
	if err != nil {
		return nil, 0, err
	}
	if parts != nil {
		us, err := strconv.ParseInt(parts[0], 10, 64)
		if err != nil || us < minTime.UnixMicro() || us > maxTime.UnixMicro() {
			return nil, 0, problem.InvalidField("cursor", "is none that this list gave")
		}
		f.add("(time, id) < (fromUnixTimestamp64Micro({before:Int64}, 'UTC'), {before_id:String})", param("before", us), param("before_id", parts[1]))
	}
	f.params = append(f.params, param("limit", uint64(limit)+1)) //nolint:gosec // checked
	return f, limit, nil
}

// idSlack is how far the time in an id and the time of its row may lie apart.
const idSlack = 24 * time.Hour

// Request returns one request of a workspace; found is false where it has none of that id. Errors are problems.
func (s *Service) Request(ctx context.Context, workspace, id string) (r Request, found bool, err error) {
	if len(id) > maxParameter {
		return r, false, nil
	}
	f := &filter{}
	f.add("workspace = {workspace:String}", param("workspace", workspace))
	f.add("id = {id:String}", param("id", id))
	// Ids are UUIDv7: their time spares the store all but a day of the log.
	if u, err := uuid.Parse(id); err == nil && u.Version() == 7 {
		sec, nsec := u.Time().UnixTime()
		at := time.Unix(sec, nsec)
		f.add("time >= fromUnixTimestamp64Micro({from:Int64}, 'UTC')", param("from", at.Add(-idSlack).UnixMicro()))
		f.add("time < fromUnixTimestamp64Micro({to:Int64}, 'UTC')", param("to", at.Add(idSlack).UnixMicro()))
	}
	sql := "SELECT " + requestColumns + " FROM requests WHERE " + f.where() + " LIMIT 1"
	var rows []Request
	err = s.ask(ctx, sql, f.params, func(found driver.Rows) error {
		r, err := scanRequest(found)
		rows = append(rows, r)
		return err
	})
	if err == nil {
		err = s.correct(ctx, workspace, rows)
	}
	if err != nil || len(rows) == 0 {
		return r, false, s.stamp(ctx, err, time.Now())
	}
	return rows[0], true, nil
}
