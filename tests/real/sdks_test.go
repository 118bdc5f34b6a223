package real_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/rateguard/rateguard/tests/harness"
)

// venv is the Python environment of all tests, of the versions in requirements.txt.
var venv struct {
	sync.Mutex // guards dir, and that one test fills it

	dir string
}

// python returns the environment's folder of programs; the first call fills it.
func python(t *testing.T) string {
	t.Helper()
	venv.Lock()
	defer venv.Unlock()
	if venv.dir != "" {
		return filepath.Join(venv.dir, "bin")
	}
	dir, err := os.MkdirTemp("", "rateguard-venv-") //nolint:usetesting // outlives the test that makes it
	if err != nil {
		t.Fatalf("making a folder: %v", err)
	}
	venv.dir = dir
	run(t, "", nil, "python3", "-m", "venv", dir)
	run(t, "python", nil, filepath.Join(dir, "bin", "pip"), "install", "-q", "-r", "requirements.txt")
	return filepath.Join(dir, "bin")
}

func removeVenv() error {
	venv.Lock()
	defer venv.Unlock()
	if venv.dir == "" {
		return nil
	}
	return os.RemoveAll(venv.dir)
}

func TestPythonSDKs(t *testing.T) {
	t.Parallel()
	bin := python(t)
	t.Logf("%s", run(t, "python", target(t), filepath.Join(bin, "python"), "check.py"))
}

func TestNodeSDKs(t *testing.T) {
	t.Parallel()
	// npm installs beside package.json; the repository stays clean.
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "check.mjs"} {
		text, err := os.ReadFile(filepath.Join("node", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, dir, nil, "npm", "ci", "--no-audit", "--no-fund")
	t.Logf("%s", run(t, dir, target(t), "node", "check.mjs"))
}

// target is what a suite is told: a tenant of its own in the shared system.
func target(t *testing.T) []string {
	t.Helper()
	s := harness.Shared(t)
	tenant := s.Tenant(t)
	return []string{
		"RATEGUARD_PROXY_URL=" + s.ProxyURL, "RATEGUARD_KEY=" + tenant.Key, "RATEGUARD_WORKSPACE=" + tenant.ID,
		"RATEGUARD_ADMIN_URL=" + s.AdminURL(), "RATEGUARD_ADMIN_TOKEN=" + s.Config().AdminToken,
	}
}

// run runs a program in dir, with env added to ours, and returns what it printed; it must succeed.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	out, err := try(t.Context(), dir, env, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func try(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("running %s %q: %w\n%s", name, args, err, out)
	}
	return string(out), nil
}
