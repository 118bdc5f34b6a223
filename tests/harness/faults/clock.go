package faults

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// Clocked is the admin API in a process whose clock differs from the machine's.
type Clocked struct {
	*Role
	// Address is host:port of its API.
	Address string
	ahead   string
}

// The clock of control, as it is and as it is built in here: a Go program reads the machine's without a library that one could replace.
const (
	clockFile  = "server.go"
	clockRead  = "return time.Now().UTC()"
	clockAhead = `ahead, _ := os.ReadFile(os.Getenv("RATEGUARD_FAULTS_AHEAD")); by, _ := time.ParseDuration(string(ahead)); return time.Now().Add(by).UTC()`
)

// StartClocked starts control with a clock of its own.
func StartClocked(tb testing.TB, s *harness.System, ahead time.Duration, settings ...string) *Clocked {
	tb.Helper()
	c := &Clocked{Address: FreeAddress(tb), ahead: filepath.Join(tb.TempDir(), "ahead")}
	program := build(tb, "rateguard-control-clocked", "projections/cmd/rateguard-control", "-overlay", overlay(tb))
	c.Ahead(tb, ahead)
	c.Role = runRole(tb, s, program, append([]string{"RATEGUARD_ADMIN_ADDR=" + c.Address, "RATEGUARD_FAULTS_AHEAD=" + c.ahead}, settings...))
	return c
}

// Ahead sets by how much its clock differs.
func (c *Clocked) Ahead(tb testing.TB, by time.Duration) {
	tb.Helper()
	if err := os.WriteFile(c.ahead, []byte(by.String()), 0o600); err != nil {
		tb.Fatalf("setting a clock: %v", err)
	}
}

// overlay returns a file that tells the compiler to read the changed source.
func overlay(tb testing.TB) string {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), "go", "list", "-f", "{{.Dir}}", "github.com/rateguard/rateguard/projections/control").Output()
	if err != nil {
		tb.Fatalf("looking for the source of control: %v", err)
	}
	source := filepath.Join(strings.TrimSpace(string(out)), clockFile)
	text, err := os.ReadFile(source)
	if err != nil {
		tb.Fatal(err)
	}
	if strings.Count(string(text), clockRead) != 1 {
		tb.Fatalf("%s does not read its clock with %q", source, clockRead)
	}
	changed := strings.Replace(strings.Replace(string(text), clockRead, clockAhead, 1), "import (", "import (\n\t\"os\"", 1)
	dir := tb.TempDir()
	names, err := json.Marshal(map[string]map[string]string{"Replace": {source: filepath.Join(dir, "server.go")}})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "server.go"), []byte(changed), 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "overlay.json"), names, 0o600)
	}
	if err != nil {
		tb.Fatalf("changing the source of control: %v", err)
	}
	return filepath.Join(dir, "overlay.json")
}
