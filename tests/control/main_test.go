// Package control_test drives the admin API against a real PostgreSQL and a broker, and checks every answer
// against the committed description.
package control_test

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/rateguard/rateguard/deploy/standalone/child"
	"github.com/rateguard/rateguard/deploy/standalone/postgres"
)

// server is the PostgreSQL of all tests; each makes a database of its own in it.
var server *postgres.Server

func TestMain(m *testing.M) {
	child.Main()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	dir, err := os.MkdirTemp("", "control-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	server, err = postgres.Start(context.Background(), postgres.Config{Dir: dir + "/postgres"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}
