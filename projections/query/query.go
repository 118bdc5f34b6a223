// Package query answers the questions of the analytics API from ClickHouse: sums of usage, the log of requests, one
// request and why it was decided as it was. It never writes, and no value of a caller becomes part of the SQL text.
package query

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/jackc/pgx/v5/pgxpool"

	store "github.com/rateguard/rateguard/projections/clickhouse"
	"github.com/rateguard/rateguard/projections/postgres"
	"github.com/rateguard/rateguard/projections/problem"
)

// Bounds of one query on the side of the store and on ours.
const (
	maxSeconds   = 15
	maxMemory    = 1 << 30
	queryTimeout = 20 * time.Second
	// progressTimeout bounds the look at how far the projection is; without an answer the data count as stale.
	progressTimeout = 2 * time.Second
	// staleAfter is how old as_of is when an answer calls itself stale.
	staleAfter = 5 * time.Second
)

// followed are the projections that fill the tables: an answer is as old as the older of them.
var followed = []string{"requests", "corrections"}

// Service answers questions. It is safe for concurrent use.
type Service struct {
	conn driver.Conn
	pool *pgxpool.Pool
}

// New returns a service on the ClickHouse at url; the pool shows how far the projection is and holds the ledger. It does not
// connect. The caller closes the service, and the pool itself.
func New(url string, pool *pgxpool.Pool) (*Service, error) {
	conn, err := store.Open(url)
	if err != nil {
		return nil, err
	}
	return &Service{conn: conn, pool: pool}, nil
}

// Close closes the connections to ClickHouse.
func (s *Service) Close() error {
	if err := s.conn.Close(); err != nil {
		return fmt.Errorf("closing ClickHouse: %w", err)
	}
	return nil
}

// Freshness says up to when an answer shows everything.
type Freshness struct {
	// AsOf is nil where nothing is known.
	AsOf  *time.Time `json:"as_of"`
	Stale bool       `json:"stale"`
}

// freshness reads how far the projection is. An answer without it is better than none: it is then called stale.
func (s *Service) freshness(ctx context.Context, now time.Time) Freshness {
	ctx, cancel := context.WithTimeout(ctx, progressTimeout)
	defer cancel()
	var asOf time.Time
	for _, projection := range followed {
		p, err := postgres.ReadProgress(ctx, s.pool, projection)
		if err != nil || p.AsOf.IsZero() || p.AsOf.Unix() <= 0 {
			return Freshness{Stale: true}
		}
		if asOf.IsZero() || p.AsOf.Before(asOf) {
			asOf = p.AsOf.UTC()
		}
	}
	return Freshness{AsOf: &asOf, Stale: now.Sub(asOf) > staleAfter}
}

// param is a value that is bound to a name in the SQL text.
func param(name string, value any) any { return clickhouse.Named(name, value) }

// Codes of the store's exceptions.
const (
	codeUnknownTable    = 60
	codeTimeoutExceeded = 159
	codeTooSlow         = 160
	codeMemoryLimit     = 241
)

// errNoTable says that a table is not there yet.
var errNoTable = errors.New("the table is not there")

// ask runs a query and scans each row. A table that is not there yet has no rows.
func (s *Service) ask(ctx context.Context, sql string, params []any, scan func(driver.Rows) error) error {
	if err := s.run(ctx, sql, params, scan); !errors.Is(err, errNoTable) {
		return err
	}
	return nil
}

func (s *Service) run(ctx context.Context, sql string, params []any, scan func(driver.Rows) error) error {
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	settings := clickhouse.Settings{"max_execution_time": maxSeconds, "max_memory_usage": maxMemory}
	rows, err := s.conn.Query(clickhouse.Context(ctx, clickhouse.WithSettings(settings)), sql, params...)
	if err != nil {
		return failure(err)
	}
	for rows.Next() {
		if err := scan(rows); err != nil {
			return errors.Join(problem.Hidden(fmt.Errorf("reading a row: %w", err)), rows.Close())
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return failure(err)
	}
	return nil
}

// failure tells a question that is too large and a store that is away from what is our fault.
func failure(err error) error {
	var exception *clickhouse.Exception
	if !errors.As(err, &exception) {
		return problem.Unavailable(err, "the analytics store does not answer")
	}
	switch exception.Code {
	case codeUnknownTable:
		return errNoTable
	case codeTimeoutExceeded, codeTooSlow, codeMemoryLimit:
		return problem.New(http.StatusBadRequest, problem.InvalidRequest, "the answer takes too long: narrow from and to, or group by less")
	}
	return problem.Hidden(fmt.Errorf("querying ClickHouse: %w", err))
}

// stamp adds to a 503 how old the data would be.
func (s *Service) stamp(ctx context.Context, err error, now time.Time) error {
	p, ok := errors.AsType[*problem.Problem](err)
	if ok && p.Status == http.StatusServiceUnavailable {
		p.Stale = true
		p.AsOf = s.freshness(ctx, now).AsOf
	}
	return err
}
