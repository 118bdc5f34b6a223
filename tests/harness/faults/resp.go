package faults

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/rateguard/rateguard/schemas/keyspace"
)

// Command is a command to Redis with its arguments.
type Command []string

// script returns the keys and the arguments of a script call.
func (c Command) script() (keys, args []string, ok bool) {
	if len(c) < 3 || !strings.EqualFold(c[0], "evalsha") && !strings.EqualFold(c[0], "eval") {
		return nil, nil, false
	}
	n, err := strconv.Atoi(c[2])
	if err != nil || n < 0 || len(c) < 3+n {
		return nil, nil, false
	}
	return c[3 : 3+n], c[3+n:], true
}

// bytes is the command as it is sent.
func (c Command) bytes() []byte {
	out := fmt.Appendf(nil, "*%d\r\n", len(c))
	for _, a := range c {
		out = fmt.Appendf(out, "$%d\r\n%s\r\n", len(a), a)
	}
	return out
}

// Reserves matches the call by which a request reserves of the budgets of the workspace.
func Reserves(workspace string) func(Command) bool {
	return func(c Command) bool {
		keys, _, ok := c.script()
		return ok && len(keys) >= 2 && keys[0] == keyspace.State(workspace) && strings.HasPrefix(keys[1], keyspace.Mark(workspace, ""))
	}
}

// Settles matches the call by which ends of reservations of the workspace are told before the log shows them.
func Settles(workspace string) func(Command) bool {
	return func(c Command) bool {
		keys, args, ok := c.script()
		return ok && slices.Equal(keys, []string{keyspace.State(workspace)}) && len(args) > 0 && len(args)%2 == 0 && strings.Contains(args[0], "/")
	}
}

var errProtocol = errors.New("this is not what Redis speaks")

// readCommand reads one command as clients send it, as it stands and in parts.
func readCommand(r *bufio.Reader) (raw []byte, c Command, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return nil, nil, err
	}
	n, err := length(line)
	if line[0] != '*' || err != nil {
		return nil, nil, fmt.Errorf("%w: %q", errProtocol, line)
	}
	raw = line
	for range n {
		start := len(raw)
		if raw, err = readValue(r, raw); err != nil {
			return nil, nil, err
		}
		_, text, _ := bytes.Cut(raw[start:], []byte("\r\n"))
		c = append(c, strings.TrimSuffix(string(text), "\r\n"))
	}
	return raw, c, nil
}

// readValue appends the bytes of the next value of an answer, in the second or third version of the protocol.
func readValue(r *bufio.Reader, to []byte) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return to, err
	}
	to = append(to, line...)
	switch line[0] {
	case '+', '-', ':', ',', '#', '_', '(':
		return to, nil
	case '$', '=', '!':
		n, err := length(line)
		if err != nil || n < 0 {
			return to, err
		}
		start := len(to)
		to = append(to, make([]byte, n+2)...)
		_, err = io.ReadFull(r, to[start:])
		return to, err
	case '*', '~', '>', '%', '|':
		n, err := length(line)
		if err != nil {
			return to, err
		}
		if line[0] == '%' || line[0] == '|' {
			n *= 2
		}
		for range n {
			if to, err = readValue(r, to); err != nil {
				return to, err
			}
		}
		return to, nil
	default:
		return to, fmt.Errorf("%w: %q", errProtocol, line)
	}
}

func length(line []byte) (int, error) {
	n, err := strconv.Atoi(string(bytes.TrimRight(line[1:], "\r\n")))
	if err != nil {
		return 0, fmt.Errorf("%w: %q", errProtocol, line)
	}
	return n, nil
}
