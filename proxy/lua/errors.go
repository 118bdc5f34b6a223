package lua

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/redis/go-redis/v9"
)

// ErrUnavailable is what every error of a store that does not work now matches: the policy's on_store_failure decides.
// What does not match it is a bug of ours, such as keys in two slots.
var ErrUnavailable = errors.New("store is unavailable")

// ErrEvicting means that Redis throws keys away when it is full. Budgets would vanish unseen, so the store stays off.
var ErrEvicting = errors.New("redis evicts keys when it is full: set maxmemory-policy to noeviction")

// Reason says why a store is unavailable; it is the label of the failures' metric.
type Reason string

// The reasons.
const (
	// ReasonOpen: the breaker is open, nothing was sent.
	ReasonOpen Reason = "open"
	// ReasonTimeout: no reply by the deadline. ReasonCancelled: the caller's own deadline or cancellation came first.
	ReasonTimeout   Reason = "timeout"
	ReasonCancelled Reason = "cancelled"
	// ReasonDial: no connection could be made. ReasonConnection: it broke.
	ReasonDial       Reason = "dial"
	ReasonConnection Reason = "connection"
	// ReasonClock: Redis' clock stepped by more than a minute.
	ReasonClock Reason = "clock"
	// ReasonEvicting: see ErrEvicting.
	ReasonEvicting Reason = "evicting"
	// ReasonAuth: Redis refuses our credentials or a command.
	ReasonAuth Reason = "auth"
	// ReasonClosed: the store was closed.
	ReasonClosed Reason = "closed"
	// ReasonMoved: the slot is served elsewhere, and the second try found no owner.
	ReasonMoved Reason = "moved"
	// ReasonReadOnly: the server is a replica, and the second try found no primary.
	ReasonReadOnly Reason = "readonly"
)

// refusals are the replies by which Redis says that it ran nothing, by their first word. Scripts are refused before
// they begin, or at their first write: after one write Redis lets a script finish.
var refusals = map[string]Reason{
	"LOADING": "loading", "OOM": "oom", "CLUSTERDOWN": "clusterdown", "MASTERDOWN": "masterdown", "MISCONF": "misconf",
	"NOREPLICAS": "noreplicas", "BUSY": "busy", "MAXCLIENTS": "maxclients", "TRYAGAIN": "tryagain", "READONLY": ReasonReadOnly,
	"NOAUTH": ReasonAuth, "WRONGPASS": ReasonAuth, "NOPERM": ReasonAuth, "MOVED": ReasonMoved, "ASK": ReasonMoved,
}

// UnavailableError is an ErrUnavailable with what is known about the call.
type UnavailableError struct {
	// Shard is the server's address as configured or as the cluster names it; empty where none was found.
	Shard  string
	Reason Reason
	// MayHaveRun says that the script may have run, or may still run: the caller must cancel the call by its id.
	MayHaveRun bool
	Err        error
}

func (e *UnavailableError) Error() string {
	ran := "nothing ran"
	if e.MayHaveRun {
		ran = "it may have run"
	}
	return fmt.Sprintf("store %s is unavailable (%s, %s): %v", e.Shard, e.Reason, ran, e.Err)
}

// Is makes every such error an ErrUnavailable.
func (e *UnavailableError) Is(target error) bool { return target == ErrUnavailable }

func (e *UnavailableError) Unwrap() error { return e.Err }

// MayHaveRun reports whether a script whose Eval ended with that error may have run, and have taken something.
func MayHaveRun(err error) bool {
	if errors.Is(err, ErrOldPolicy) || errors.Is(err, ErrRevoked) {
		return false
	}
	var u *UnavailableError
	if errors.As(err, &u) {
		return u.MayHaveRun
	}
	return err != nil && !redis.HasErrorPrefix(err, "CROSSSLOT")
}

// dialError is a connection that could not be made. It does not unwrap: the client takes one layer off the errors of
// a handshake.
type dialError struct{ err error }

func (e *dialError) Error() string { return e.err.Error() }

// code is the first word of an error reply. Redis 6 wraps what a script's first write was refused with.
func code(err error) string {
	text := err.Error()
	if rest, ok := strings.CutPrefix(text, "ERR Error running script"); ok {
		for word := range strings.FieldsSeq(rest) {
			if c, ok := strings.CutPrefix(word, "-"); ok && refusals[c] != "" {
				return c
			}
		}
	}
	if strings.HasPrefix(text, "ERR max number of clients") {
		return "MAXCLIENTS"
	}
	word, _, _ := strings.Cut(text, " ")
	return word
}

// unavailable turns the error of a command into what Eval returns.
func (c *command) unavailable(shard string, err error, written bool) error {
	u := &UnavailableError{Shard: shard, MayHaveRun: written, Err: err}
	var reply redis.Error
	var dial *dialError
	var timeout net.Error
	switch {
	case errors.Is(err, redis.Nil):
		return fmt.Errorf("running script on %s: no reply array", shard)
	case errors.As(err, &reply):
		reason, ok := refusals[code(err)]
		if !ok {
			return fmt.Errorf("running script on %s: %w", shard, err)
		}
		u.Reason, u.MayHaveRun = reason, false
	case errors.As(err, &dial):
		u.Reason, u.MayHaveRun = ReasonDial, false
	case errors.Is(err, redis.ErrClosed):
		u.Reason = ReasonClosed
	case errors.Is(err, context.Canceled):
		u.Reason = ReasonCancelled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, redis.ErrPoolTimeout),
		errors.As(err, &timeout) && timeout.Timeout():
		u.Reason = ReasonTimeout
		if c.short {
			u.Reason = ReasonCancelled
		}
	default:
		u.Reason = ReasonConnection
	}
	return u
}
