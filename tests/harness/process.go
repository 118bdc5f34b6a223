package harness

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness/ports"
)

const processToken = "process-0123456789abcdef0123456789abcdef"

// Process is `rateguard up` as a user starts it, on addresses that stay the same over its lives.
type Process struct {
	// Dir holds its log and, in the folder data, everything it keeps: what Adopt takes.
	Dir string

	tb        testing.TB
	program   string
	stores    Stores
	addresses [3]string
	cmd       *exec.Cmd
	exited    chan error
}

func build(tb testing.TB) string {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), "rateguard")
	if out, err := exec.CommandContext(tb.Context(), "go", "build", "-o", program, "github.com/rateguard/rateguard/deploy/cmd/rateguard").CombinedOutput(); err != nil {
		tb.Fatalf("building rateguard: %v\n%s", err, out)
	}
	return program
}

// NewProcess builds the program; Start starts it, with embedded stores where st names none.
func NewProcess(tb testing.TB, st Stores) *Process {
	tb.Helper()
	p := &Process{tb: tb, program: build(tb), stores: st, Dir: tb.TempDir()}
	addresses, err := ports.Addresses(tb.Context(), len(p.addresses))
	if err != nil {
		tb.Fatal(err)
	}
	copy(p.addresses[:], addresses)
	return p
}

// Endpoints is where the process is reached in each of its lives.
func (p *Process) Endpoints(mock Mock) Endpoints {
	return Endpoints{ProxyURL: "http://" + p.addresses[0], Admin: adminclient.New("http://"+p.addresses[1], processToken), MockURL: mock.URL}
}

// Start starts the process and returns; its output is kept in a file.
func (p *Process) Start() {
	p.tb.Helper()
	log, err := os.OpenFile(filepath.Join(p.Dir, "process.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.tb.Fatalf("opening the log: %v", err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(p.program, "up", "--demo=false", "--mock-addr=", "--data-dir", filepath.Join(p.Dir, "data"),
		"--proxy-addr", p.addresses[0], "--admin-addr", p.addresses[1], "--ops-addr", p.addresses[2], "--admin-token", processToken,
		"--redis-url", p.stores.Redis, "--postgres-url", p.stores.Postgres, "--kafka-brokers", p.stores.Kafka)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.tb.Fatalf("starting rateguard: %v", err)
	}
	exited := make(chan error, 1)
	p.exited = exited
	go func(cmd *exec.Cmd) { exited <- cmd.Wait() }(p.cmd)
}

// AwaitReady waits until the process says that it is ready.
func (p *Process) AwaitReady() {
	p.tb.Helper()
	Eventually(p.tb, 2*time.Minute, func() error {
		select {
		case err := <-p.exited:
			p.tb.Fatalf("rateguard exited: %v\n%s", err, p.tail())
		default:
		}
		r, err := http.NewRequestWithContext(p.tb.Context(), http.MethodGet, "http://"+p.addresses[2]+"/readyz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer func() { _ = response.Body.Close() }()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz answers %s", response.Status)
		}
		return nil
	})
}

// Kill ends the process as kill -9 does and checks that its engines went with it.
func (p *Process) Kill() {
	p.tb.Helper()
	children := Descendants(p.cmd.Process.Pid)
	if err := p.cmd.Process.Kill(); err != nil {
		p.tb.Fatalf("killing rateguard: %v", err)
	}
	<-p.exited //nolint:errcheck // killed: its error says no more
	Eventually(p.tb, 60*time.Second, func() error {
		for _, pid := range children {
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
				return fmt.Errorf("child %d is still there: %s", pid, stat)
			}
		}
		return nil
	})
}

// Terminate ends the process as an operator does and checks that it ends well.
func (p *Process) Terminate() {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.tb.Fatalf("telling rateguard to stop: %v", err)
	}
	if err := <-p.exited; err != nil {
		p.tb.Fatalf("stopping rateguard: %v\n%s", err, p.tail())
	}
}

func (p *Process) tail() string {
	b, err := os.ReadFile(filepath.Join(p.Dir, "process.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// Descendants lists the processes below pid, children before grandchildren.
func Descendants(pid int) []int {
	parents := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		var child, parent int
		rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
		if _, err := fmt.Sscanf(filepath.Base(filepath.Dir(path)), "%d", &child); err != nil {
			continue
		}
		if _, err := fmt.Sscanf(strings.TrimSpace(rest)[1:], "%d", &parent); err != nil {
			continue
		}
		parents[parent] = append(parents[parent], child)
	}
	all := parents[pid]
	for i := 0; i < len(all); i++ {
		all = append(all, parents[all[i]]...)
	}
	return all
}
