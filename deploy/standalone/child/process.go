// Package child runs the engines that are processes of their own: it starts them so that they
// die with this process (also after kill -9), passes on what they print, restarts them when
// they die, and stops them in order.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

const (
	defaultReadyTimeout = 60 * time.Second
	defaultStopTimeout  = 20 * time.Second
	readyInterval       = 20 * time.Millisecond
)

// Spec says what to run and how to know that it works.
type Spec struct {
	// Name is for messages.
	Name string
	// Path and Args are the program; with an empty Path the running binary starts again as the
	// registered child Name and its standard input is what Input holds, then stays open
	// for as long as this process lives.
	Path string
	Args []string
	Env  []string
	Dir  string
	// Input is written to the standard input of a re-executed binary.
	Input []byte
	// Files become the descriptors 3, 4 … of the child.
	Files []*os.File
	// Attr is the base of the process's attributes; nil for none.
	Attr *syscall.SysProcAttr
	// DeathSignal is what the child gets when this process dies, Kill by default.
	DeathSignal syscall.Signal
	// StopSignal asks the child to end, Terminate by default; after StopTimeout it is killed.
	StopSignal  syscall.Signal
	StopTimeout time.Duration
	// Ready returns nil once the child serves. It is called until then, for ReadyTimeout at most.
	Ready        func(ctx context.Context) error
	ReadyTimeout time.Duration
	// Log gets the child's output at level Debug and its end.
	Log *slog.Logger
}

// Process is one running child.
type Process struct {
	spec  Spec
	cmd   *exec.Cmd
	input io.Closer
	tail  *tail
	done  chan struct{}
	err   error // written before done is closed
}

// Exec starts the program and waits until it is ready. The context bounds the wait, not the
// life of the child.
func Exec(ctx context.Context, spec Spec) (*Process, error) {
	p, err := launch(spec) //nolint:contextcheck // its life is not the context's
	if err != nil {
		return nil, err
	}
	if err := p.awaitReady(ctx); err != nil {
		stopErr := p.Stop()
		return nil, errors.Join(fmt.Errorf("starting %s: %w%s", spec.Name, err, p.tail.quote()), ignoreExit(stopErr))
	}
	return p, nil
}

func launch(spec Spec) (*Process, error) {
	p := &Process{spec: spec, tail: newTail(spec.Name, spec.Log), done: make(chan struct{})}
	started := make(chan error, 1)
	go p.run(started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", spec.Name, err)
	}
	return p, nil
}

// run starts the child and waits for its end on one locked thread: the kernel sends the death
// signal when the thread that forked ends, not the process.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.start()
	started <- err
	if err != nil {
		return
	}
	p.err = p.cmd.Wait()
	p.tail.flush()
	if p.input != nil {
		_ = p.input.Close()
	}
	close(p.done)
}

func (p *Process) start() error {
	path := p.spec.Path
	env := append(os.Environ(), p.spec.Env...)
	self := path == ""
	if self {
		path = selfPath()
		env = append(env, roleVariable+"="+p.spec.Name)
	}
	//nolint:gosec,noctx // Stop ends it, in the order of its Spec; G204: the program is chosen by the engines, not by a request
	p.cmd = exec.Command(path, p.spec.Args...)
	if self {
		p.cmd.Args[0] = os.Args[0] + " " + p.spec.Name // what ps shows
	}
	p.cmd.Env, p.cmd.Dir, p.cmd.ExtraFiles = env, p.spec.Dir, p.spec.Files
	p.cmd.Stdout, p.cmd.Stderr = p.tail, p.tail
	// A grandchild that keeps the pipe must not hold Wait for ever.
	p.cmd.WaitDelay = 5 * time.Second
	p.cmd.SysProcAttr = attributes(p.spec.Attr, p.spec.DeathSignal)
	if !self {
		return p.cmd.Start()
	}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return err
	}
	p.input = in
	if err := p.cmd.Start(); err != nil {
		return err
	}
	if _, err := in.Write(p.spec.Input); err != nil {
		return errors.Join(fmt.Errorf("writing its settings: %w", err), p.cmd.Process.Kill(), ignoreExit(p.cmd.Wait()))
	}
	return nil
}

// awaitReady polls Ready until it succeeds, the child ends or the time is over.
func (p *Process) awaitReady(ctx context.Context) error {
	if p.spec.Ready == nil {
		return nil
	}
	timeout := p.spec.ReadyTimeout
	if timeout == 0 {
		timeout = defaultReadyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ticker := time.NewTicker(readyInterval)
	defer ticker.Stop()
	for {
		err := p.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended before it was ready: %w", exitError(p.err))
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w (last: %w)", ctx.Err(), err)
		case <-ticker.C:
		}
	}
}

// ready asks once, with a time limit of its own: a peer that accepts and never answers must
// not use up the whole wait.
func (p *Process) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return p.spec.Ready(ctx)
}

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err returns how the child ended, after Done.
func (p *Process) Err() error {
	return exitError(p.err)
}

// Succeeded reports, after Done, whether the child ended with status 0.
func (p *Process) Succeeded() bool { return p.err == nil }

// PID returns the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Tail returns the last lines that the child printed.
func (p *Process) Tail() string { return p.tail.String() }

// Stop asks the child to end and kills it when it does not; it returns once it is gone. An
// end by the signal is not an error.
func (p *Process) Stop() error {
	sig := p.spec.StopSignal
	if sig == 0 {
		sig = syscall.SIGTERM
	}
	timeout := p.spec.StopTimeout
	if timeout == 0 {
		timeout = defaultStopTimeout
	}
	if err := p.signal(sig); err != nil {
		return err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
	}
	if err := p.Kill(); err != nil {
		return err
	}
	return fmt.Errorf("stopping %s: killed after %s", p.spec.Name, timeout)
}

// Kill ends the child at once and waits until it is gone.
func (p *Process) Kill() error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

func (p *Process) signal(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %s to %s: %w", sig, p.spec.Name, err)
	}
	return nil
}

// exitError makes a clean exit an error too: an engine must not end by itself.
func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// ignoreExit drops the status of a child that was told to end.
func ignoreExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return nil
	}
	return err
}
