package crash_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rateguard/rateguard/deploy/adminclient"
	"github.com/rateguard/rateguard/tests/harness"
)

const adminToken = "crash-0123456789abcdef0123456789abcdef"

// process is `rateguard up` as a user starts it, on addresses that stay the same over its lives.
type process struct {
	tb        testing.TB
	program   string
	dir       string
	addresses [3]string
	cmd       *exec.Cmd
	exited    chan error
}

func build(tb testing.TB) string {
	tb.Helper()
	program := filepath.Join(tb.TempDir(), "rateguard")
	if out, err := exec.CommandContext(tb.Context(), "go", "build", "-o", program, "github.com/rateguard/rateguard/deploy/cmd/rateguard").CombinedOutput(); err != nil { //nolint:gosec // arguments are ours
		tb.Fatalf("building rateguard: %v\n%s", err, out)
	}
	return program
}

func newProcess(tb testing.TB) *process {
	tb.Helper()
	p := &process{tb: tb, program: build(tb), dir: tb.TempDir()}
	for i := range p.addresses {
		l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatalf("taking a port: %v", err)
		}
		defer func() { _ = l.Close() }()
		p.addresses[i] = l.Addr().String()
	}
	return p
}

func (p *process) endpoints(mock harness.Mock) harness.Endpoints {
	return harness.Endpoints{ProxyURL: "http://" + p.addresses[0], Admin: adminclient.New("http://"+p.addresses[1], adminToken), MockURL: mock.URL}
}

// start starts the process and returns; its output is kept in a file.
func (p *process) start() {
	p.tb.Helper()
	log, err := os.OpenFile(filepath.Join(p.dir, "process.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.tb.Fatalf("opening the log: %v", err)
	}
	defer func() { _ = log.Close() }()
	p.cmd = exec.Command(p.program, "up", "--demo=false", "--mock-addr=", "--data-dir", filepath.Join(p.dir, "data"), //nolint:gosec,noctx // killed by the test
		"--proxy-addr", p.addresses[0], "--admin-addr", p.addresses[1], "--ops-addr", p.addresses[2], "--admin-token", adminToken)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.tb.Fatalf("starting rateguard: %v", err)
	}
	exited := make(chan error, 1)
	p.exited = exited
	go func(cmd *exec.Cmd) { exited <- cmd.Wait() }(p.cmd)
}

// awaitReady waits until the process says that it is ready.
func (p *process) awaitReady() {
	p.tb.Helper()
	harness.Eventually(p.tb, 2*time.Minute, func() error {
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

// kill ends the process as kill -9 does and checks that its engines went with it.
func (p *process) kill() {
	p.tb.Helper()
	children := descendants(p.cmd.Process.Pid)
	if err := p.cmd.Process.Kill(); err != nil {
		p.tb.Fatalf("killing rateguard: %v", err)
	}
	<-p.exited
	harness.Eventually(p.tb, 10*time.Second, func() error {
		for _, pid := range children {
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
				return fmt.Errorf("child %d is still there: %s", pid, stat)
			}
		}
		return nil
	})
}

// terminate ends the process as an operator does and checks that it ends well.
func (p *process) terminate() {
	p.tb.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.tb.Fatalf("telling rateguard to stop: %v", err)
	}
	if err := <-p.exited; err != nil {
		p.tb.Fatalf("stopping rateguard: %v\n%s", err, p.tail())
	}
}

func (p *process) tail() string {
	b, err := os.ReadFile(filepath.Join(p.dir, "process.log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// descendants lists the processes below pid.
func descendants(pid int) []int {
	parents := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path) //nolint:gosec // below /proc
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
