// Package clickhouse opens the analytics store and keeps its tables: each carries the id of its
// generation, so that a wiped or replaced store is noticed, and its own migrations.
package clickhouse

import (
	"fmt"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Settings of a connection.
const (
	dialTimeout = 5 * time.Second
	readTimeout = 60 * time.Second
	maxConns    = 8
)

// Open returns a client of the server at dsn: "http://user:password@host:port/database" (also https)
// or "clickhouse://…" for the native protocol. It does not connect: the first use does.
func Open(dsn string) (driver.Conn, error) {
	opts, err := clickhouse.ParseDSN(dsn)
	if err != nil {
		return nil, fmt.Errorf("reading the ClickHouse URL: %w", err)
	}
	opts.DialTimeout = dialTimeout
	opts.ReadTimeout = readTimeout
	opts.MaxOpenConns = maxConns
	opts.MaxIdleConns = maxConns
	conn, err := clickhouse.Open(opts)
	if err != nil {
		return nil, fmt.Errorf("opening ClickHouse: %w", err)
	}
	return conn, nil
}
