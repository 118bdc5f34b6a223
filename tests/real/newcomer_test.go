package real_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
)

// newcomer follows the README: `make run` in one terminal, the examples in another. Only the
// data is elsewhere, so that the test begins with none and leaves none.
type newcomer struct {
	t *testing.T
	// dir is where the examples run, with bin and data.
	dir string
	env []string
	// moved replaces the addresses of the README that another program on this machine holds.
	moved *strings.Replacer

	terminal *os.File
	cmd      *exec.Cmd
	exited   chan error
}

// startAsNewcomer runs `make run` until it prints ready.
func startAsNewcomer(t *testing.T, python string) *newcomer {
	t.Helper()
	n := &newcomer{t: t, dir: t.TempDir(), exited: make(chan error, 1)}
	if err := os.Symlink(filepath.Join(root(t), "bin"), filepath.Join(n.dir, "bin")); err != nil {
		t.Fatal(err)
	}
	n.env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		// A key of a real provider would make the demo call it; a setting of ours would not be the default.
		return strings.HasPrefix(v, "RATEGUARD_") || strings.Contains(v, "_API_KEY=") || strings.HasPrefix(v, "MAKE")
	})
	n.env = append(n.env, "RATEGUARD_DATA_DIR="+filepath.Join(n.dir, "data"), "PATH="+python+":"+os.Getenv("PATH"))
	n.moveAddresses()
	var err error
	if n.terminal, err = os.Create(filepath.Join(n.dir, "terminal")); err != nil {
		t.Fatal(err)
	}
	n.cmd = exec.Command("make", "run")
	n.cmd.Dir, n.cmd.Env, n.cmd.Stdout, n.cmd.Stderr = root(t), n.env, n.terminal, n.terminal
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := n.cmd.Start(); err != nil {
		t.Fatalf("starting make run: %v", err)
	}
	go func() { n.exited <- n.cmd.Wait() }()
	t.Cleanup(n.kill)
	harness.Eventually(t, 3*time.Minute, func() error {
		select {
		case err := <-n.exited:
			n.exited <- err
			t.Fatalf("make run ended: %v\n%s", err, n.printed())
		default:
		}
		if !strings.Contains(n.printed(), "\nready") {
			return errors.New("make run does not print ready:\n" + n.printed())
		}
		return nil
	})
	return n
}

// moveAddresses chooses other ports where the README's are taken, in the settings and in the examples.
func (n *newcomer) moveAddresses() {
	var moves []string
	for _, a := range []struct{ setting, standard string }{
		{"RATEGUARD_PROXY_ADDR", "127.0.0.1:8080"},
		{"RATEGUARD_ADMIN_ADDR", "127.0.0.1:8081"},
		{"RATEGUARD_OPS_ADDR", "127.0.0.1:9090"},
		{"RATEGUARD_MOCK_ADDR", "127.0.0.1:8090"},
	} {
		_, port, err := net.SplitHostPort(a.standard)
		if err != nil {
			n.t.Fatal(err)
		}
		// The proxy listens on every address of the machine.
		l, err := (&net.ListenConfig{}).Listen(n.t.Context(), "tcp", ":"+port)
		if err != nil {
			if l, err = (&net.ListenConfig{}).Listen(n.t.Context(), "tcp", "127.0.0.1:0"); err != nil {
				n.t.Fatalf("taking a port: %v", err)
			}
			n.t.Logf("%s is taken: %s instead", a.standard, l.Addr())
			n.env = append(n.env, a.setting+"="+l.Addr().String())
			moves = append(moves, a.standard, l.Addr().String())
		}
		defer func() { _ = l.Close() }()
	}
	n.moved = strings.NewReplacer(moves...)
	n.env = append(n.env, "RATEGUARD_ADMIN_URL=http://"+n.address("127.0.0.1:8081"))
}

// address is where an address of the README is reached.
func (n *newcomer) address(standard string) string { return n.moved.Replace(standard) }

func (n *newcomer) printed() string {
	text, err := os.ReadFile(n.terminal.Name())
	if err != nil {
		n.t.Fatal(err)
	}
	return string(text)
}

var curl = regexp.MustCompile(`(?m)^curl (?:.*\\\n)*.*$`)

// printedCurl is the command that make run prints.
func (n *newcomer) printedCurl() string {
	n.t.Helper()
	command := curl.FindString(n.printed())
	if command == "" {
		n.t.Fatalf("no curl is printed:\n%s", n.printed())
	}
	return command
}

// targets checks that make knows what the README tells to run, without running it again.
func (n *newcomer) targets(code string) {
	n.t.Helper()
	for line := range strings.Lines(code) {
		command, _, _ := strings.Cut(line, "#")
		words := strings.Fields(command)
		if len(words) != 2 || words[0] != "make" {
			n.t.Fatalf("%q is not make and a target", line)
		}
		n.run(root(n.t), "make", "-n", words[1])
	}
}

// sh runs an example in a shell that stops at the first error.
func (n *newcomer) sh(name, code string) string {
	n.t.Helper()
	out := n.run(n.dir, "bash", "-euo", "pipefail", "-c", n.moved.Replace(code))
	n.t.Logf("%s:\n%s", name, out)
	return out
}

func (n *newcomer) python(b block) string {
	n.t.Helper()
	file := filepath.Join(n.dir, b.name+".py")
	if err := os.WriteFile(file, []byte(n.moved.Replace(b.code)), 0o600); err != nil {
		n.t.Fatal(err)
	}
	out := n.run(n.dir, "python", file)
	n.t.Logf("%s:\n%s", b.name, out)
	return out
}

// run runs a program with nothing but the newcomer's environment; only its standard output is returned.
func (n *newcomer) run(dir, name string, args ...string) string {
	n.t.Helper()
	// PATH is the newcomer's, not ours: env looks the program up.
	cmd := exec.CommandContext(n.t.Context(), "env", append([]string{name}, args...)...)
	var problems strings.Builder
	cmd.Dir, cmd.Env, cmd.Stderr = dir, n.env, &problems
	out, err := cmd.Output()
	if err != nil {
		n.t.Fatalf("running %s %q: %v\n%s%s", name, args, err, out, problems.String())
	}
	return string(out)
}

// file returns a one-line file of the data folder.
func (n *newcomer) file(name string) string {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join(n.dir, "data", name))
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func (n *newcomer) admin() *adminclient.Client {
	n.t.Helper()
	return adminclient.New("http://"+n.address("127.0.0.1:8081"), n.file("admin-token"))
}

// workspace is the only one, the demo's.
func (n *newcomer) workspace() string {
	n.t.Helper()
	all, err := n.admin().Workspaces(n.t.Context())
	if err != nil || len(all) != 1 {
		n.t.Fatalf("got workspaces %v and error %v, want one", all, err)
	}
	return all[0].ID
}

// stop ends rateguard, which make runs, and wants both to end well.
func (n *newcomer) stop() {
	n.t.Helper()
	below := harness.Descendants(n.cmd.Process.Pid)
	if len(below) == 0 {
		n.t.Fatal("make runs nothing")
	}
	if err := syscall.Kill(below[0], syscall.SIGTERM); err != nil {
		n.t.Fatalf("telling rateguard to stop: %v", err)
	}
	err := <-n.exited
	n.exited <- err
	if err != nil {
		n.t.Errorf("make run: %v\n%s", err, n.printed())
	}
	if !strings.HasSuffix(n.printed(), "stopped\n") {
		n.t.Errorf("make run does not say that it stopped:\n%s", n.printed())
	}
}

// kill ends what is left, whatever went wrong before.
func (n *newcomer) kill() {
	_ = syscall.Kill(-n.cmd.Process.Pid, syscall.SIGKILL)
	<-n.exited
	_ = n.terminal.Close()
}

// root is the repository's folder.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
