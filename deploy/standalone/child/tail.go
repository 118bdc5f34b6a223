package child

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
)

// tailLines is how much of a child's output an error message repeats.
const tailLines = 12

// maxLine bounds the memory that a child without line ends can take.
const maxLine = 16 << 10

// tail passes a child's output on line by line and keeps the last lines.
type tail struct {
	name string
	log  *slog.Logger

	mu      sync.Mutex // guards what follows
	partial []byte
	lines   []string
}

func newTail(name string, log *slog.Logger) *tail {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &tail{name: name, log: log}
}

// Write takes output of the child.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.partial = append(t.partial, b...)
	for {
		i := bytes.IndexByte(t.partial, '\n')
		if i < 0 && len(t.partial) > maxLine {
			i = maxLine
		}
		if i < 0 {
			return len(b), nil
		}
		t.line(string(t.partial[:i]))
		t.partial = append(t.partial[:0], t.partial[min(i+1, len(t.partial)):]...)
	}
}

func (t *tail) line(s string) {
	s = strings.TrimRight(s, "\r ")
	if s == "" {
		return
	}
	t.log.LogAttrs(context.Background(), slog.LevelDebug, "engine output", slog.String("engine", t.name), slog.String("line", s))
	t.lines = append(t.lines, s)
	if len(t.lines) > tailLines {
		t.lines = t.lines[1:]
	}
}

func (t *tail) flush() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.line(string(t.partial))
	t.partial = nil
}

// String returns the last lines.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.Join(t.lines, "\n")
}

// quote returns the last lines for the end of an error message.
func (t *tail) quote() string {
	s := t.String()
	if s == "" {
		return ""
	}
	return "\nits last output:\n  " + strings.ReplaceAll(s, "\n", "\n  ")
}
