package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rateguard/rateguard/proxy"
	"github.com/rateguard/rateguard/proxy/spool"
	"github.com/rateguard/rateguard/tests/harness"
)

// StartProxyOnDisk is StartProxy for a process whose disk can be filled: it runs this very binary, as no limit of the system fills a disk for one process without the right to mount one.
func StartProxyOnDisk(tb testing.TB, s *harness.System, redisURL string, settings ...string) *Proxy {
	tb.Helper()
	p := newProxy(tb, s, redisURL, settings)
	p.onDisk = true
	p.Start()
	p.AwaitReady()
	return p
}

// FillDisk lets other programs take all that is left of the process' disk, what it has set aside not included. A new run begins with room.
func (p *Proxy) FillDisk() { p.tb.Helper(); p.ordered.must("full") }

// EmptyDisk ends FillDisk.
func (p *Proxy) EmptyDisk() { p.tb.Helper(); p.ordered.must("empty") }

// disk is one for the spool that can be full. Blocks are counted; what is written is.
type disk struct {
	// mu guards what follows.
	mu sync.Mutex
	// full: free are all the bytes that are left.
	full bool
	free int64
	// set aside by Allocate, by file.
	aside map[string]int64
}

// file is a file on a disk.
type file struct {
	*os.File
	on *disk
}

var (
	_ spool.Disk = (*disk)(nil)
	_ spool.File = (*file)(nil)
)

// Create makes a new file for writing.
func (d *disk) Create(path string) (spool.File, error) {
	f, err := os.OpenFile(filepath.Clean(path), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{f, d}, nil
}

// Allocate sets bytes aside, or gives them back.
func (d *disk) Allocate(path string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	more := size - d.aside[path]
	if d.full && more > d.free {
		return syscall.ENOSPC
	}
	d.free -= more
	d.aside[path] = size
	return nil
}

// WriteAt writes, half of it where not all fits: as a real disk does.
func (f *file) WriteAt(b []byte, at int64) (int, error) {
	f.on.mu.Lock()
	defer f.on.mu.Unlock()
	if f.on.full && int64(len(b)) > f.on.free {
		n, err := f.File.WriteAt(b[:min(len(b)/2, int(f.on.free))], at)
		return n, errors.Join(syscall.ENOSPC, err)
	}
	f.on.free -= int64(len(b))
	return f.File.WriteAt(b, at)
}

// set fills the disk, or empties it.
func (d *disk) set(full bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full, d.free = full, 0
}

// proxyOnDisk is the child: the proxy with its settings from the environment, like the command.
func proxyOnDisk() int {
	if err := runOnDisk(); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runOnDisk() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	d := &disk{aside: map[string]int64{}}
	cfg := proxy.Config{Spool: spool.Config{Disk: d}}
	settings := flag.NewFlagSet("proxy", flag.ContinueOnError)
	cfg.Register(settings)
	var err error
	settings.VisitAll(func(f *flag.Flag) {
		if text, there := os.LookupEnv("RATEGUARD_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))); there {
			err = errors.Join(err, settings.Set(f.Name, text))
		}
	})
	if err = errors.Join(err, cfg.Validate()); err != nil {
		return err
	}
	p, err := proxy.New(ctx, cfg, slog.New(slog.NewJSONHandler(os.Stderr, nil)), prometheus.NewRegistry())
	if err != nil {
		return err
	}
	ops := &http.Server{Addr: cfg.OpsAddr, ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := p.Ready(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})}
	served := make(chan error, 1)
	go func() { served <- ops.ListenAndServe() }()
	go obey(func(word string) string {
		d.set(word == "full")
		return word
	})
	err = errors.Join(p.Run(ctx), ops.Close())
	if closed := <-served; !errors.Is(closed, http.ErrServerClosed) {
		err = errors.Join(err, closed)
	}
	return err
}
