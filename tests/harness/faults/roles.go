package faults

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
)

// Role is a process of a role that shares its work with that of the system.
type Role struct {
	*Child
	log string
}

// Log is the end of what it has said.
func (r *Role) Log() string { return tail(r.log) }

// StartProcessors starts the processors of the system in a process of their own, on an empty folder.
func StartProcessors(tb testing.TB, s *harness.System, settings ...string) *Role {
	tb.Helper()
	return startRole(tb, s, "processors/cmd/rateguard-processors", append([]string{"RATEGUARD_PROCESSORS_OPS_ADDR=" + FreeAddress(tb)}, settings...))
}

// StartProjections starts the projections of the system in a process of their own.
func StartProjections(tb testing.TB, s *harness.System, settings ...string) *Role {
	tb.Helper()
	return startRole(tb, s, "projections/cmd/rateguard-projections", settings)
}

// StartControl starts the admin API of the system and its relay in a process of their own, at an address.
func StartControl(tb testing.TB, s *harness.System, address string, settings ...string) *Role {
	tb.Helper()
	return startRole(tb, s, "projections/cmd/rateguard-control", append([]string{"RATEGUARD_ADMIN_ADDR=" + address}, settings...))
}

func startRole(tb testing.TB, s *harness.System, path string, settings []string) *Role {
	tb.Helper()
	return runRole(tb, s, Program(tb, path), settings)
}

func runRole(tb testing.TB, s *harness.System, program string, settings []string) *Role {
	tb.Helper()
	cfg := s.Config()
	r := &Role{log: filepath.Join(tb.TempDir(), "role.log")}
	env := append([]string{
		"RATEGUARD_OPS_ADDR=" + FreeAddress(tb), "RATEGUARD_DATA_DIR=" + tb.TempDir(), "RATEGUARD_KAFKA_BROKERS=" + cfg.Kafka.Brokers, "RATEGUARD_REDIS_URL=" + cfg.RedisURL,
		"RATEGUARD_POSTGRES_URL=" + cfg.PostgresURL, "RATEGUARD_CLICKHOUSE_URL=" + cfg.ClickHouseURL, "RATEGUARD_SECRET_KEY=" + cfg.SecretKey, "RATEGUARD_ADMIN_TOKEN=" + cfg.AdminToken,
	}, settings...)
	r.Child = start(tb, r.log, env, exec.CommandContext(context.WithoutCancel(tb.Context()), program))
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("%s:\n%s", program, r.Log())
		}
	})
	return r
}
