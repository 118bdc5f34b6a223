package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child that is measured from outside.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// start runs the command with its output in a log file; it dies with this process.
func start(log string, env []string, name string, args ...string) (*process, error) {
	f, err := os.Create(log)
	if err != nil {
		return nil, fmt.Errorf("creating the log: %w", err)
	}
	defer func() { _ = f.Close() }()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	return p, nil
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// tree returns the process and its descendants: the embedded engines are children.
func (p *process) tree() []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		fields := statFields(s)
		if len(fields) < 2 {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(s)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], pid)
	}
	all := []int{p.cmd.Process.Pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// cpu returns the processor time of the process, with its descendants if whole.
func (p *process) cpu(whole bool) time.Duration {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux of today
	pids := []int{p.cmd.Process.Pid}
	if whole {
		pids = p.tree()
	}
	var sum time.Duration
	for _, pid := range pids {
		fields := statFields(fmt.Sprintf("/proc/%d/stat", pid))
		if len(fields) < 13 {
			continue
		}
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		sum += time.Duration(user+system) * tick
	}
	return sum
}

// peakMemory returns the largest resident size so far in bytes, summed over the descendants if whole.
func (p *process) peakMemory(whole bool) int64 {
	pids := []int{p.cmd.Process.Pid}
	if whole {
		pids = p.tree()
	}
	var sum int64
	for _, pid := range pids {
		sum += statusBytes(pid, "VmHWM:")
	}
	return sum
}

// residentMemory returns the resident size of the process alone in bytes.
func (p *process) residentMemory() int64 { return statusBytes(p.cmd.Process.Pid, "VmRSS:") }

// statusBytes reads one line of a process's status, which is in kB; 0 when the process is gone.
func statusBytes(pid int, name string) int64 {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// statFields returns the fields of a stat file after the name, which may itself hold blanks.
func statFields(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
}
