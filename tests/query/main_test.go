// Package query_test asks the analytics API through the admin server, against the real engines, and compares its
// sums with ones that the test computes itself from the rows it inserted.
package query_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/deploy/standalone/clickhouse"
	"github.com/rateguard/rateguard/deploy/standalone/postgres"
)

// The engines that the tests share; each test has databases of its own.
var (
	sqlServer *postgres.Server
	analytics *clickhouse.Server
)

func TestMain(m *testing.M) {
	child.Main()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "query-")
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	ctx := context.Background()
	if sqlServer, err = postgres.Start(ctx, postgres.Config{Dir: filepath.Join(dir, "postgres")}); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, sqlServer.Close()) }()
	if analytics, err = clickhouse.Start(ctx, clickhouse.Config{Dir: filepath.Join(dir, "clickhouse")}); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, analytics.Close()) }()
	return m.Run(), nil
}
