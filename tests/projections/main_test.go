// Package projections_test proves that the projections hold what the log says, exactly once, through crashes at every
// step, zombies, repeats, poison and wiped stores. The engines are the real ones; the broker is in process.
package projections_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/deploy/standalone/clickhouse"
	"github.com/rateguard/rateguard/deploy/standalone/postgres"
)

// engines are the servers that the tests of this package share; each test has its own databases.
type engines struct {
	once       sync.Once
	dir        string
	err        error
	postgres   *postgres.Server
	clickhouse *clickhouse.Server
}

var shared engines

func TestMain(m *testing.M) {
	child.Main()
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the engines:", err)
		code = 1
	}
	os.Exit(code)
}

// start starts the engines at the first call.
func (e *engines) start(ctx context.Context) error {
	e.once.Do(func() {
		if e.dir, e.err = os.MkdirTemp("", "rateguard-projections"); e.err != nil {
			return
		}
		if e.postgres, e.err = postgres.Start(ctx, postgres.Config{Dir: filepath.Join(e.dir, "postgres")}); e.err != nil {
			return
		}
		e.clickhouse, e.err = clickhouse.Start(ctx, clickhouse.Config{Dir: filepath.Join(e.dir, "clickhouse")})
	})
	return e.err
}

func (e *engines) close() error {
	var errs []error
	if e.clickhouse != nil {
		errs = append(errs, e.clickhouse.Close())
	}
	if e.postgres != nil {
		errs = append(errs, e.postgres.Close())
	}
	if e.dir != "" {
		errs = append(errs, os.RemoveAll(e.dir))
	}
	return errors.Join(errs...)
}
