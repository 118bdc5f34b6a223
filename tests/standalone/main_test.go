// Package standalone_test holds the tests of the embedded engines and of the one process that
// runs on them: starts, kill -9, restarts, and ClickHouse's driver against the embedded engine.
package standalone_test

import (
	"os"
	"testing"

	"github.com/rateguard/rateguard/deploy/standalone/child"
)

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(m.Run())
}
