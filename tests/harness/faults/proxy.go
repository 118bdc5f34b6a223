package faults

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rateguard/rateguard/tests/harness"
)

// Proxy is a real proxy process. It keeps its addresses and its folder over its lives.
type Proxy struct {
	*Child
	// URL is where it serves, Ops the base URL of its health and metrics.
	URL, Ops string
	// Dir is its data folder.
	Dir string

	tb  testing.TB
	env []string
	log string
	// onDisk: its disk can be filled, by orders to the process of now.
	onDisk  bool
	ordered *Ordered
}

// programs are built once for each test binary.
var programs struct { //nolint:gochecknoglobals // one folder for each test binary; Main removes it
	mu  sync.Mutex // guards dir
	dir string
}

// Program builds a command of the product, such as proxy/cmd/rateguard-proxy, and returns where it is.
func Program(tb testing.TB, path string) string {
	tb.Helper()
	return build(tb, filepath.Base(path), path)
}

// build builds a command into the folder of the programs, once for each name.
func build(tb testing.TB, name, path string, flags ...string) string {
	tb.Helper()
	programs.mu.Lock()
	defer programs.mu.Unlock()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "rateguard-programs-") //nolint:usetesting // outlives the test that makes it
		if err != nil {
			tb.Fatalf("making a folder: %v", err)
		}
		programs.dir = dir
	}
	program := filepath.Join(programs.dir, name)
	if _, err := os.Stat(program); err == nil {
		return program
	}
	args := slices.Concat([]string{"build", "-o", program}, flags, []string{"github.com/rateguard/rateguard/" + path})
	if out, err := exec.CommandContext(tb.Context(), "go", args...).CombinedOutput(); err != nil {
		tb.Fatalf("building %s: %v\n%s", path, err, out)
	}
	return program
}

func removePrograms() error {
	programs.mu.Lock()
	defer programs.mu.Unlock()
	if programs.dir == "" {
		return nil
	}
	return os.RemoveAll(programs.dir)
}

// StartProxy starts a proxy of the system on a folder of its own, with that way to Redis and those further settings, and waits until it is ready.
func StartProxy(tb testing.TB, s *harness.System, redisURL string, settings ...string) *Proxy {
	tb.Helper()
	p := newProxy(tb, s, redisURL, settings)
	p.Start()
	p.AwaitReady()
	return p
}

// newProxy returns a proxy that was not started yet.
func newProxy(tb testing.TB, s *harness.System, redisURL string, settings []string) *Proxy {
	tb.Helper()
	cfg := s.Config()
	addr, ops := FreeAddress(tb), FreeAddress(tb)
	p := &Proxy{tb: tb, URL: "http://" + addr, Ops: "http://" + ops, Dir: tb.TempDir(), log: filepath.Join(tb.TempDir(), "proxy.log")}
	p.env = append([]string{
		"RATEGUARD_PROXY_ADDR=" + addr, "RATEGUARD_OPS_ADDR=" + ops, "RATEGUARD_DATA_DIR=" + p.Dir,
		"RATEGUARD_KAFKA_BROKERS=" + cfg.Kafka.Brokers, "RATEGUARD_REDIS_URL=" + redisURL, "RATEGUARD_SECRET_KEY=" + cfg.SecretKey,
	}, settings...)
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the proxy at %s:\n%s", p.URL, tail(p.log))
		}
	})
	return p
}

// Start starts it again after it has ended.
func (p *Proxy) Start() {
	p.tb.Helper()
	if p.onDisk {
		p.ordered = startOrdered(p.tb, "proxy", p.log, p.env)
		p.Child = p.ordered.Child
		return
	}
	p.Child = start(p.tb, p.log, p.env, exec.CommandContext(context.WithoutCancel(p.tb.Context()), Program(p.tb, "proxy/cmd/rateguard-proxy")))
}

// AwaitReady waits until it has read its configuration.
func (p *Proxy) AwaitReady() {
	p.tb.Helper()
	harness.Eventually(p.tb, time.Minute, func() error {
		r, err := http.NewRequestWithContext(p.tb.Context(), http.MethodGet, p.Ops+"/readyz", nil)
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

// Producers returns the ids of the runs whose records are in its folder.
func (p *Proxy) Producers() (ids []string) {
	p.tb.Helper()
	files, err := filepath.Glob(filepath.Join(p.Dir, "spool", "*", "producer.json"))
	if err != nil {
		p.tb.Fatal(err)
	}
	for _, f := range files {
		ids = append(ids, filepath.Base(filepath.Dir(f)))
	}
	return ids
}

// LoseDisk removes all that a killed proxy kept.
func (p *Proxy) LoseDisk() {
	p.tb.Helper()
	if err := os.RemoveAll(p.Dir); err != nil {
		p.tb.Fatalf("losing a disk: %v", err)
	}
}

// SaveDisk returns a copy of its folder as it is now.
func (p *Proxy) SaveDisk() (dir string) {
	p.tb.Helper()
	dir = filepath.Join(p.tb.TempDir(), "saved")
	if err := os.CopyFS(dir, os.DirFS(p.Dir)); err != nil {
		p.tb.Fatalf("copying a disk: %v", err)
	}
	return dir
}

// RestoreDisk gives a killed proxy the folder as it was when it was saved.
func (p *Proxy) RestoreDisk(dir string) {
	p.tb.Helper()
	p.LoseDisk()
	if err := os.CopyFS(p.Dir, os.DirFS(dir)); err != nil {
		p.tb.Fatalf("restoring a disk: %v", err)
	}
}

// Reboot makes it look to the next run as if the machine had been started anew: what the kernel had not written is lost. With RestoreDisk it is a power cut.
func (p *Proxy) Reboot() {
	p.tb.Helper()
	for _, id := range p.Producers() {
		name := filepath.Join(p.Dir, "spool", id, "producer.json")
		text, err := os.ReadFile(name)
		if err != nil {
			p.tb.Fatal(err)
		}
		fields := map[string]any{}
		if err := json.Unmarshal(text, &fields); err != nil {
			p.tb.Fatal(err)
		}
		if _, known := fields["boot_id"]; !known {
			p.tb.Fatalf("%s names no boot: %s", name, text)
		}
		fields["boot_id"] = "another"
		if text, err = json.Marshal(fields); err != nil {
			p.tb.Fatal(err)
		}
		if err := os.WriteFile(name, text, 0o600); err != nil {
			p.tb.Fatal(err)
		}
	}
}
